"""Models of transformers that a caller holds as modules: their configuration follows what they become.

The configuration is found as for folders (`fit.py`). What a class makes of it beside parameters (numbers of heads,
other sizes, tables) is then what differs between a model of the old and one of the new configuration, and the caller's
own module, with all that the caller has set on it, gets just that.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from graphprune.errors import InputError
from graphprune.ir.graph import Graph

from ..torch.capture.refusals import first_line
from ..torch.module.emission import Beside, Emitted, emit
from ..torch.module.own_class import rebuild
from ..torch.module.rescaling import rescaled
from ..torch.origin import Origin, origin_of
from ..torch.run.execute import example_inputs, random_inputs
from .fit import Fitted, fit
from .origin import CheckpointOrigin
from .skeleton import floating_dtype, skeleton

#: What no difference of configurations tells.
_KEPT = frozenset({"training", "_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"})

_fitted: WeakKeyDictionary[Graph, Fitted | str] = WeakKeyDictionary()


def is_configured(module: Any) -> bool:
    """Whether a module is a model of transformers, with a configuration; asked without importing anything of that."""
    models = sys.modules.get("transformers.modeling_utils")
    return models is not None and isinstance(module, models.PreTrainedModel)


def outdated(graph: Graph) -> str:
    """What to say of models of transformers inside another module: nobody finds a configuration for a part."""
    origin = origin_of(graph)
    weights, found = graph.weights(), list[str]()
    for path, child in origin.module.named_modules() if origin.module is not None else ():
        if path and is_configured(child) and not any(path.startswith(f"{outer}.") for outer in found):
            own = {n: t for n, t in origin.tensors.tensors.items() if n.startswith(f"{path}.") and n in weights}
            if any(weights[name].shape != tuple(tensor.shape) for name, tensor in own.items()):
                found.append(path)
    names = ", ".join(f"'{path}'" for path in found[:3])
    return f"the configuration of {names} keeps its old numbers, and save_pretrained would write them" if found else ""


def emit_configured(graph: Graph, trial: Callable[[nn.Module], str] | None) -> tuple[Emitted | None, str]:
    """The caller's own class with the configuration that describes the rewritten graph; or why there is none.

    Raises nothing: where the configuration cannot say it, size attributes are another way.
    """
    if graph not in _fitted:
        _fitted[graph] = _fit(graph)
    found = _fitted[graph]
    if isinstance(found, str):
        return None, found
    if found.names:
        return _shorter(graph, found, trial)
    try:
        module = _adapted(graph, found)
        scaled = rescaled(graph, module) if found.scales else ""
        if found.scales and not scaled:
            return None, f"a configuration would give another model: {found.scales}"
        trial = trial or Beside(graph, [random_inputs(graph, 1), random_inputs(graph, 2), example_inputs(graph)])
        problem = trial(module)
    except Exception as error:
        problem = first_line(error)
    if problem:
        return None, problem
    told = f"its configuration follows: {found.describe()}" if found.changes else ""
    return Emitted(module, "module", "; ".join(filter(None, (told, scaled))), example_inputs(graph)), ""


def _shorter(graph: Graph, fitted: Fitted, trial: Callable[[nn.Module], str] | None) -> tuple[Emitted | None, str]:
    """The caller's own class without the layers that are gone: its settings follow as those of any class do. They have
    to be what describes the graph.
    """
    emitted = emit(graph, trial=trial)
    config = getattr(emitted.module, "config", None)
    if config is not None and config.to_dict() == fitted.config.to_dict():
        return emitted, ""
    return None, "layers are gone, and sizes with them"


def _fit(graph: Graph) -> Fitted | str:
    """The configuration of a graph captured from a module, or why there is none."""
    origin = origin_of(graph)
    assert origin.module is not None
    known = {f.name: getattr(origin, f.name) for f in fields(Origin)}
    seen = graph.copy()
    seen.origin = CheckpointOrigin(**known, config=origin.module.config)
    try:
        found = fit(seen, scales=True)
    except InputError as error:
        return str(error)
    except Exception as error:  # a class that cannot be built from its configuration alone
        return f"{type(origin.module).__name__} cannot be built from a configuration: {first_line(error)}"
    gone = (origin.read & origin.tensors.tensors.keys()) - graph.weights().keys()
    return found if found.names or not gone else f"it is without {min(gone)}, and no configuration leaves that out"


def _adapted(graph: Graph, fitted: Fitted) -> nn.Module:
    """A copy of the caller's module with the graph's tensors, and what the new configuration makes of its classes."""
    own = origin_of(graph).module
    assert own is not None
    module = rebuild(graph)
    dtype = floating_dtype(own)
    before, after = (skeleton(config, type(own), dtype) for config in (copy.deepcopy(own.config), fitted.config))
    others = dict(before.named_modules()), dict(after.named_modules())
    for path, child in module.named_modules():
        old, new = (modules.get(path) for modules in others)
        if old is not None and new is not None and type(old) is type(new) is type(child):
            _follow(child, old, new)
    return module


def _follow(child: nn.Module, old: nn.Module, new: nn.Module) -> None:
    """Give a module what differs between two models of other configurations, tensors that no graph holds included."""
    was = vars(old)
    for name, value in vars(new).items():
        if name in _KEPT or isinstance(value, (nn.Module, torch.Tensor)) or callable(value):
            continue
        if name in was and not _same(was[name], value):
            child.__dict__[name] = value
    for name, buffer in new._buffers.items():
        mine, theirs = child._buffers.get(name), old._buffers.get(name)
        if buffer is not None and mine is not None and theirs is not None and not _same(theirs, buffer):
            child._buffers[name] = buffer.to(mine.device, mine.dtype) if buffer.shape != mine.shape else mine


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor):
        return a.shape == b.shape and bool((a == b).all())
    if isinstance(a, Mapping) and isinstance(b, Mapping):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    return type(a) is type(b) and bool(a == b)
