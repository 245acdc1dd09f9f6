"""Packages built for another torch: named, and done without where the model can."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from torch import nn

import graphprune as gp
import tests.torchvision_shim  # noqa: F401  (transformers imports torchvision)
from graphprune.frontends.torch.capture.unloadable import cause_of, notes, without_unloadable

COMMAND = [sys.executable, "-c", "from graphprune.cli import main; main()"]

BROKEN = 'raise {error}("{text}")\n'
NMS = "operator torchvision::nms does not exist"

#: A library as they are: it asks whether a package is there, imports it, and hides what went wrong.
LIBRARY = """
import functools, importlib, importlib.util
@functools.lru_cache
def is_{name}_available():
    return importlib.util.find_spec("{name}") is not None
def model():
    try:
        return importlib.import_module("{library}.model").Model
    except (RuntimeError, OSError) as error:
        raise ModuleNotFoundError("Could not import module 'Model'") from error
def detector():
    if not is_{name}_available():
        raise ImportError("Detector requires the {name} library")
"""
MODEL = """
from . import is_{name}_available
if is_{name}_available():
    from {name} import thing
class Model: pass
"""
FACTORY = """
def pictures():
    import torchvision
    return torchvision.models.resnet18()
"""


def install(where: Path, name: str, error: str, text: str) -> None:
    """A package that was built for another torch."""
    (where / name).mkdir()
    (where / name / "__init__.py").write_text(BROKEN.format(error=error, text=text))
    about = where / f"{name}-0.28.0.dist-info"
    about.mkdir()
    about.joinpath("METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.28.0\nRequires-Dist: torch==2.99\n"
    )


def install_library(where: Path, library: str, name: str) -> None:
    (where / library).mkdir()
    (where / library / "__init__.py").write_text(LIBRARY.format(name=name, library=library))
    (where / library / "model.py").write_text(MODEL.format(name=name))


def prune(where: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join(filter(None, (str(where), os.environ.get("PYTHONPATH", ""))))
    environment = {**os.environ, "PYTHONPATH": paths, "HF_HUB_OFFLINE": "1", "COLUMNS": "400"}
    command = [*COMMAND, "prune", *arguments, "--target", "channels=0.5"]
    return subprocess.run(command, cwd=where, capture_output=True, text=True, check=False, env=environment)


def test_a_model_of_text_needs_no_pictures(tmp_path: Path) -> None:
    import transformers

    install(tmp_path, "torchvision", "RuntimeError", NMS)
    config = transformers.LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=1, num_attention_heads=2
    )
    transformers.LlamaForCausalLM(config).save_pretrained(tmp_path / "folder")
    done = prune(tmp_path, "folder", "-o", "small")
    assert done.returncode == 0, done.stderr
    said = " ".join(done.stdout.split())
    assert "torchvision 0.28.0 does not load beside torch" in said
    assert f"({NMS})" in said
    assert (tmp_path / "small" / "config.json").is_file()


def test_a_model_that_needs_it_says_what_is_wrong(tmp_path: Path) -> None:
    install(tmp_path, "torchvision", "RuntimeError", NMS)
    (tmp_path / "factory.py").write_text(FACTORY)
    done = prune(tmp_path, "factory:pictures", "-o", "small.safetensors")
    assert (done.returncode, done.stdout) == (2, "")
    assert "torchvision 0.28.0 does not load beside torch" in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(("error", "text"), [("OSError", "could not load _ext.so"), ("RuntimeError", "no operator")])
def test_any_library_and_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str, text: str) -> None:
    """The library finds it missing from then on; whoever imports it gets its own error as before."""
    name, library = f"built_{error.lower()}", f"asks_{error.lower()}"
    install(tmp_path, name, error, text)
    install_library(tmp_path, library, name)
    monkeypatch.syspath_prepend(tmp_path)
    asks = importlib.import_module(library)
    with pytest.raises(ModuleNotFoundError):
        asks.model()
    assert without_unloadable(asks.model).__name__ == "Model"
    assert any(f"{name} 0.28.0 does not load" in note and text in note for note in notes())
    with pytest.raises((OSError, RuntimeError), match=text):
        importlib.import_module(name)
    with pytest.raises(ImportError) as raised:
        without_unloadable(asks.detector)
    assert f"{name} 0.28.0 does not load" in cause_of(raised.value)


def test_other_errors_are_raised_as_they_are() -> None:
    with pytest.raises(ZeroDivisionError) as raised:
        without_unloadable(lambda: 1 / 0)
    assert cause_of(raised.value) == "division by zero"


def test_a_library_that_does_not_load_is_nothing_to_other_models(monkeypatch: pytest.MonkeyPatch) -> None:
    class Lazy(ModuleType):
        def __getattr__(self, name: str) -> object:
            raise (ModuleNotFoundError if name == "PreTrainedModel" else AttributeError)(f"no '{name}'")

    monkeypatch.setitem(sys.modules, "transformers", Lazy("transformers"))
    monkeypatch.delitem(sys.modules, "transformers.modeling_utils", raising=False)
    model = nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2))
    assert type(gp.prune(model, torch.randn(2, 3), target="channels=0.5", align=1).model) is nn.Sequential
