"""Torchvision's classification and segmentation models, with random weights, and their ONNX exports."""

from __future__ import annotations

import functools
import logging
import os
import sys
import warnings
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor, nn

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
    awaken(model, name)
    return model.eval()


def awaken(model: nn.Module, name: str) -> None:
    """Make the output depend on the input, where torchvision's initial weights do not.

    They let signals fade in some models (ShuffleNet, segmentation heads) and zero the head of others (ViT); comparing
    outputs would prove nothing there.
    """
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Linear) and not module.weight.any():
                nn.init.normal_(module.weight, std=0.02)
        first, second = (leaf(model.eval()(example(name, seed))) for seed in (1, 2))
        if (first - second).std() > 1e-3 * first.std():
            return
        for module in model.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")


def leaf(output: object) -> Tensor:
    """The first tensor of a model's output."""
    return output if isinstance(output, Tensor) else leaf(next(iter(output.values())))  # type: ignore[attr-defined]


def side(name: str) -> int:
    """Height and width of the model's input."""
    return 299 if name == "inception_v3" else 224


def example(name: str, seed: int = 1) -> Tensor:
    """One random picture."""
    return torch.randn(1, 3, side(name), side(name), generator=torch.Generator().manual_seed(seed))


def exported(name: str, folder: Path) -> Path:
    """The model as an ONNX file (dynamo exporter, opset 18), exported on first use."""
    path = folder / f"{name}.onnx"
    if path.exists():
        return path
    folder.mkdir(parents=True, exist_ok=True)
    model = build(name)
    large = sum(p.numel() * p.element_size() for p in model.parameters()) > 1.9e9  # beyond what protobuf can hold
    partial = path if large else folder / f"{name}.{os.getpid()}.partial"
    torch.onnx.export(
        model, (example(name),), partial, dynamo=True, opset_version=18, external_data=large, verbose=False
    )  # fmt: skip
    partial.replace(path)
    return path


def shapes(output: object) -> list[tuple[int, ...]]:
    """Shapes of all tensors in a model's output."""
    if isinstance(output, Tensor):
        return [tuple(output.shape)]
    parts = output.values() if isinstance(output, dict) else output
    return [shape for part in parts for shape in shapes(part)]  # type: ignore[attr-defined]


def parameters(model: nn.Module) -> int:
    """Number of parameters, shared ones counted once."""
    return sum(p.numel() for p in model.parameters())
