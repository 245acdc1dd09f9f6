"""Models from files and factories, models to files, and everything that can be wrong with them."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from graphprune.errors import InputError
from graphprune.frontends.torch import capture, emit, load, run, save, to_graph_module
from graphprune.frontends.torch.capture.archive import is_arithmetic

FACTORIES = """
import torch
from torch import nn

def plain():
    return nn.Linear(4, 2)

def with_inputs():
    return nn.Linear(4, 2), torch.ones(3, 4)

def failing():
    raise ValueError("no weights here\\nsecond line")

def text():
    return "a model"

instance = nn.Linear(4, 2)
"""


@pytest.fixture
def factories(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    name = f"factories_{abs(hash(str(tmp_path)))}"
    (tmp_path / f"{name}.py").write_text(FACTORIES)
    (tmp_path / f"{name}_broken.py").write_text("import does_not_exist_anywhere")
    monkeypatch.syspath_prepend(tmp_path)
    return name


def test_factories(factories: str) -> None:
    assert load(f"{factories}:plain", [(1, 4)]).inputs[0].shape == (1, 4)
    assert load(f"{factories}:with_inputs").inputs[0].shape == (3, 4)
    assert load(f"{factories}:instance", [(2, 4)]).parameter_count() == 10


@pytest.mark.parametrize(
    ("spec", "shapes", "message"),
    [
        ("{}:failing", [(1, 4)], "raised ValueError: no weights here"),
        ("{}:absent", [(1, 4)], "has no 'absent'"),
        ("{}:text", [(1, 4)], "gives a str, not a torch.nn.Module"),
        ("{}:plain", None, "without example inputs"),
        ("{}:plain", [(1, 5)], r"Linear cannot be run on inputs of shape \[1, 5\]"),
        ("{}:plain", [(1, 4), (1, 4)], "Linear cannot be run"),
        ("{}_broken:plain", [(1, 4)], "cannot be imported: No module named 'does_not_exist_anywhere'"),
        ("no_such_package.nowhere:plain", [(1, 4)], "cannot be imported"),
        ("model.pth", None, "is a pickle, which graphprune never loads"),
        ("model", None, "is neither"),
        ("missing.pt2", None, "does not exist"),
    ],
)
def test_bad_specifications(factories: str, spec: str, shapes: list[tuple[int, ...]] | None, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        load(spec.format(factories), shapes)
    assert "\n" not in str(caught.value)


def test_modules_that_cannot_be_exported() -> None:
    class Branch(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x if x.sum() > 0 else -x

    with pytest.raises(InputError, match="Branch runs, but torch.export cannot capture it"):
        capture(Branch(), torch.ones(2))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    path = tmp_path / "model.pt2"
    save(capture(nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3)), torch.randn(2, 4)), path)
    return path


def test_archives_round_trip(archive: Path) -> None:
    graph = load(str(archive))
    x = torch.randn(2, 4)
    emitted = emit(graph)
    assert emitted.form == "graph" and "no class" in emitted.reason
    np.testing.assert_array_equal(run(to_graph_module(graph), x), run(torch.export.load(archive).module(), x))
    assert "0.weight" in graph.weights()
    again = archive.with_name("again.pt2")
    save(emitted, again)
    np.testing.assert_allclose(run(to_graph_module(load(again)), x), run(emitted.module, x), rtol=1e-6)


def test_archives_with_dynamic_sizes_are_bound(tmp_path: Path) -> None:
    program = torch.export.export(
        nn.Linear(4, 3).eval(), (torch.randn(5, 4),), dynamic_shapes=({0: torch.export.Dim("batch")},)
    )
    torch.export.save(program, tmp_path / "dynamic.pt2")
    assert load(tmp_path / "dynamic.pt2").inputs[0].shape == (5, 4)
    assert load(tmp_path / "dynamic.pt2", [(7, 4)]).inputs[0].shape == (7, 4)


def rewritten(archive: Path, change: dict[str, bytes]) -> Path:
    """A copy of an archive with some entries replaced or added (by the end of their names)."""
    path = archive.with_name("rewritten.pt2")
    with zipfile.ZipFile(archive) as old, zipfile.ZipFile(path, "w") as new:
        top = old.namelist()[0].split("/")[0]
        names = {next((n for n in old.namelist() if n.endswith(k)), f"{top}/{k}"): v for k, v in change.items()}
        for name in old.namelist():
            if name not in names:
                new.writestr(name, old.read(name))
        for name, data in names.items():
            new.writestr(name, data)
    return path


class Bomb:
    """Unpickling this writes a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> object:
        return (Path.touch, (self.path,))


def test_pickles_in_archives_are_refused(archive: Path, tmp_path: Path) -> None:
    target = tmp_path / "exploded"
    torch.save(Bomb(target), tmp_path / "bomb")
    bomb = (tmp_path / "bomb").read_bytes()
    with zipfile.ZipFile(archive) as file:
        config = json.loads(file.read(next(n for n in file.namelist() if n.endswith("weights_config.json"))))
    for payload in config["config"].values():
        payload["use_pickle"] = True
    for change in (
        {"data/sample_inputs/model.pt": bomb},
        {"data/weights/model.pt": bomb},
        {"weights_config.json": json.dumps(config).encode(), "data/weights/weight_0": bomb},
        {"data/constants/opaque_obj_0": bomb},
        {"data/aotinductor/model/code.so": b"machine code"},
    ):
        with pytest.raises(InputError, match="which graphprune never loads"):
            load(rewritten(archive, change))
        assert not target.exists()


@pytest.mark.parametrize(
    ("expression", "fine"),
    [
        ("Symbol('s31', positive=True, integer=True)", True),
        ("Add(Mul(Integer(2), Symbol('s0')), Integer(-1))", True),
        ("s0*2 + 1", True),
        ("__import__('os').system('true')", False),
        ("open('s1')", False),
        ("Symbol('s0').x", False),
        ("eval(s0)", False),
    ],
)
def test_sizes_in_archives_are_arithmetic(archive: Path, expression: str, fine: bool) -> None:
    assert is_arithmetic(expression) is fine
    if not fine:
        harmful = json.dumps({"as_expr": {"expr_str": expression}}).encode()
        with pytest.raises(InputError, match="a size that is no arithmetic"):
            load(rewritten(archive, {"models/other.json": harmful}))


def test_broken_archives(archive: Path, tmp_path: Path) -> None:
    (tmp_path / "cut.pt2").write_bytes(archive.read_bytes()[:200])
    (tmp_path / "empty.pt2").write_bytes(b"")
    for name in ("cut.pt2", "empty.pt2"):
        with pytest.raises(InputError, match=f"{name}' is no .pt2 archive"):
            load(tmp_path / name)
    with zipfile.ZipFile(tmp_path / "other.pt2", "w") as file:
        file.writestr("a/b", "c")
    with pytest.raises(InputError, match="holds no exported program"):
        load(tmp_path / "other.pt2")


def test_weights_alone(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3))
    save(capture(net, torch.randn(2, 4)), tmp_path / "weights.safetensors")
    found = load_file(tmp_path / "weights.safetensors")
    assert all(torch.equal(found[k], v) for k, v in net.state_dict().items())


def test_onnx(tmp_path: Path) -> None:
    net = nn.Linear(4, 3)
    save(capture(net, torch.randn(2, 4)), tmp_path / "model.onnx")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.onnx"]


def test_outputs_that_cannot_be_written(tmp_path: Path) -> None:
    graph = capture(nn.Linear(4, 3), torch.randn(2, 4))
    with pytest.raises(InputError, match="ends in none of .pt2, .onnx, .safetensors"):
        save(graph, tmp_path / "model.txt")
    with pytest.raises(InputError, match="cannot be written: No such file or directory"):
        save(graph, tmp_path / "nowhere" / "model.pt2")
    assert not list(tmp_path.iterdir())


def test_a_failing_exporter_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object, **kwargs: object) -> None:
        raise RuntimeError("disk full")

    monkeypatch.setattr(torch.export, "save", fail)
    with pytest.raises(InputError, match="cannot be written: disk full"):
        save(capture(nn.Linear(4, 3), torch.randn(2, 4)), tmp_path / "model.pt2")
    assert not list(tmp_path.iterdir())
