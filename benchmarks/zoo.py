"""Torchvision's classification and segmentation models, with random weights, their ONNX exports, and torchaudio."""

from __future__ import annotations

import functools
import logging
import os
import sys
import warnings
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.random_weights import awaken, tensors

_OPERATORS = (
    "nms", "qnms", "roi_align", "_roi_align_backward", "roi_pool", "_roi_pool_backward", "ps_roi_align",
    "_ps_roi_align_backward", "ps_roi_pool", "_ps_roi_pool_backward", "deform_conv2d", "_deform_conv2d_backward",
)  # fmt: skip
_LIBRARIES: list[torch.library.Library] = []  # a Library takes its definitions along when it is collected


@functools.cache
def torchvision() -> ModuleType:
    """The package, also where its compiled operators do not fit the installed torch.

    Torchvision's wheel is built for torch with CUDA; beside a CPU torch its library does not load, and then the import
    fails on the first of its (detection) operators. Naming them is enough: none of these models uses one.
    """
    warnings.filterwarnings("ignore")
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    try:
        import torchvision as package
    except RuntimeError:
        for name in [name for name in sys.modules if name.split(".")[0] == "torchvision"]:
            del sys.modules[name]
        _define_operators()
        import torchvision as package
    return package


@functools.cache
def torchaudio() -> ModuleType | None:
    """The package, also where its compiled library does not load beside the installed torch; None where it is missing.

    Its models are Python, and so is all of it that transformers and diffusers import once it is installed.
    """
    try:
        import torchaudio as package
    except ImportError:
        return None
    except OSError:  # built for torch with CUDA, as torchvision above
        for name in [name for name in sys.modules if name.split(".")[0] == "torchaudio"]:
            del sys.modules[name]
        stub: Any = ModuleType("torchaudio._extension")
        stub._IS_TORCHAUDIO_EXT_AVAILABLE, stub.fail_if_no_align = False, lambda function: function
        sys.modules[stub.__name__] = stub
        import torchaudio as package
    return package


def _define_operators() -> None:
    """Name torchvision's operators; their signatures do not matter as nothing calls them."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in _OPERATORS:
        if not hasattr(torch.ops.torchvision, name):
            library.define(f"{name}(Tensor x) -> Tensor")
    _LIBRARIES.append(library)


def names() -> list[str]:
    """The 86 models."""
    models = torchvision().models
    found: list[str] = models.list_models(module=models) + models.list_models(module=models.segmentation)
    return found


def build(name: str, *, auxiliary: bool = False) -> nn.Module:
    """A model in evaluation mode, weights random from a fixed seed.

    Heads that serve training only are left out unless `auxiliary`, as Torch-Pruning's own script over these models
    does.
    """
    models = torchvision().models
    torch.manual_seed(0)
    options = {"aux_logits": auxiliary, "init_weights": False} if name in ("googlenet", "inception_v3") else {}
    weights = {"weights_backbone": None} if name in models.list_models(module=models.segmentation) else {}
    model: nn.Module = models.get_model(name, weights=None, **weights, **options)
    awaken(model, example(name, 1), example(name, 2))
    return model.eval()


def side(name: str) -> int:
    """Height and width of the model's input."""
    return 299 if name == "inception_v3" else 224


def example(name: str, seed: int = 1) -> Tensor:
    """One random picture."""
    return torch.randn(1, 3, side(name), side(name), generator=torch.Generator().manual_seed(seed))


def exported(name: str, folder: Path) -> Path:
    """The model as an ONNX file (dynamo exporter, opset 18), exported on first use."""
    path = folder / f"{name}.onnx"
    if not path.exists():
        export(build(name), example(name), path)
    return path


class Positional(nn.Module):
    """A model that takes by position what it takes by name, for the TorchScript exporter."""

    def __init__(self, model: nn.Module, names: list[str]) -> None:
        super().__init__()
        self.model, self.names = model, names

    def forward(self, *inputs: Tensor) -> Any:
        """The model's result."""
        return self.model(**dict(zip(self.names, inputs, strict=True)))


def export(model: nn.Module, inputs: Any, path: Path, opset: int = 18, *, dynamo: bool = True) -> None:
    """Write a module as an ONNX file, whole or not at all; inputs as `graphprune.capture` takes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    large = sum(p.numel() * p.element_size() for p in model.parameters()) > 1.9e9  # beyond what protobuf can hold
    partial = path if large else path.with_name(f"{path.stem}.{os.getpid()}.partial")
    keywords = inputs if isinstance(inputs, dict) else None
    positional = () if keywords else inputs if isinstance(inputs, tuple) else (inputs,)
    if keywords and not dynamo:
        model, positional, keywords = Positional(model, list(keywords)), tuple(keywords.values()), None
    options = {"external_data": large} if dynamo else {}
    torch.onnx.export(
        model, positional, partial, kwargs=keywords, dynamo=dynamo, opset_version=opset, verbose=False, **options
    )
    partial.replace(path)


def shapes(output: object) -> list[tuple[int, ...]]:
    """Shapes of all tensors in a model's output."""
    return [tuple(tensor.shape) for tensor in tensors(output)]


def parameters(model: nn.Module) -> int:
    """Number of parameters, shared ones counted once."""
    return sum(p.numel() for p in model.parameters())
