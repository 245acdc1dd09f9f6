"""Why a module could not be captured, in one sentence: whether it runs, which line of the user it was, what helps."""

from __future__ import annotations

import linecache
import os
import traceback
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.fx.experimental.symbolic_shapes import GuardOnDataDependentSymNode

#: Where no line of a user is.
_LIBRARIES = (str(Path(torch.__file__).parent), str(Path(__file__).parents[2]))
_STANDARD = str(Path(traceback.__file__).parent)

_BRANCH = (
    "write the decision with torch.where or torch.cond, or name a part of the model that decides nothing "
    "(--submodule NAME, submodule=)"
)
_PART = "name a part of the model that torch can export (--submodule NAME, submodule=)"
_PACKED = (
    "prune the model before it is converted or quantised (one that `prepare_qat` made is fine), then convert the result"
)
#: Methods by which torch and this package go through a module and switch it; nobody here calls `type` or `float`.
_WALKS = (
    *("parameters", "named_parameters", "buffers", "named_buffers", "modules", "named_modules", "children"),
    *(
        "named_children",
        "state_dict",
        "load_state_dict",
        "get_submodule",
        "get_parameter",
        "get_buffer",
        "train",
        "eval",
    ),
    *("apply", "forward", "register_parameter", "register_buffer", "add_module", "requires_grad_"),
)
_META = "its tensors are on the meta device, without values: load its weights (or `to_empty` and initialise) first"


def why_not(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], error: Exception) -> str:
    """Tell inputs that do not fit from a module that cannot be exported; `error` is what the export raised."""
    name = type(module).__name__
    shapes = ", ".join(str(list(v.shape)) for v in (*args, *kwargs.values()) if isinstance(v, torch.Tensor))
    problem = without_values((*module.parameters(), *module.buffers()))
    if problem:
        return f"{name} cannot be captured: {problem}"
    try:
        with torch.no_grad():
            module(*args, **kwargs)
    except Exception as own:
        if not _runs_with_gradients(module, args, kwargs):
            return f"{name} cannot be run on inputs of shape {shapes or 'none'}: {first_line(own)}{line_of(own)}"
        return f"{name} computes gradients in its forward, which no exporter can follow{line_of(own)}; {_PART}"
    what, hint = _cause(error)
    return f"{name} runs, but torch.export cannot capture it: {what}{line_of(error)}; {hint}"


def _cause(error: Exception) -> tuple[str, str]:
    """What stopped an export, and what helps."""
    if isinstance(error, GuardOnDataDependentSymNode):
        return "it decides by values that the input makes", _BRANCH
    if "fake tensor in the exported program constant" in str(error):
        return "it computes gradients in its forward, or keeps tensors from one call for the next", _PART
    return first_line(error), _PART


def _runs_with_gradients(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    try:
        with torch.enable_grad():
            module(*args, **kwargs)
    except Exception:
        return False
    return True


def first_line(error: BaseException) -> str:
    """The first line of an error's text that says something; with the next one, where it ends in a colon."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    if not lines:
        return type(error).__name__
    return " ".join(lines[:2]) if lines[0].endswith(":") else lines[0]


def line_of(error: BaseException) -> str:
    """The last line outside of torch, installed packages last, that an error passed: ` (at model.py:12: text)`."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if _is_source(f.filename)]
    own = [f for f in frames if "site-packages" not in f.filename]
    for frame in (own or frames)[-1:]:
        text = linecache.getline(frame.filename, frame.lineno or 0).strip()
        return f" (at {_short(frame.filename)}:{frame.lineno}: {text})"
    return ""


def _is_source(file: str) -> bool:
    if not os.path.isabs(file) or file.startswith(_LIBRARIES):
        return False
    return "site-packages" in file or not file.startswith(_STANDARD)


def _short(file: str) -> str:
    """A path relative to where we are, where it lies there."""
    relative = os.path.relpath(file)
    return file if relative.startswith("..") else relative


def without_values(tensors: Iterable[torch.Tensor]) -> str:
    """What is wrong with tensors that have no values, or empty."""
    return _META if any(t.is_meta for t in tensors) else ""


def shadowed(module: nn.Module, path: str = "") -> str:
    """What is wrong with a module that keeps something under the name of one of torch's own methods, or empty."""
    own = {**vars(module), **module._parameters, **module._buffers, **module._modules}
    taken = next((name for name in own if name in _WALKS), None)
    if taken is not None and not callable(vars(module).get(taken)):
        return (
            f"'{path or type(module).__name__}' keeps something of its own as '{taken}', which is a method of every "
            "module of torch: give it another name"
        )
    below = ((name, child) for name, child in module._modules.items() if child is not None)
    return next(filter(None, (shadowed(child, f"{path}.{name}".lstrip(".")) for name, child in below)), "")


def packed(module: nn.Module) -> str:
    """What is wrong with a module whose weights are packed integers, or empty."""
    for path, child in module.named_modules():
        held = () if isinstance(child, torch.jit.ScriptModule) else vars(child).values()
        if any(isinstance(thing, torch.ScriptObject) and "PackedParams" in str(thing._type()) for thing in held):
            place = path.removesuffix("._packed_params") or type(module).__name__
            return f"'{place}' holds packed integers, which cannot be sliced: {_PACKED}"
    return ""
