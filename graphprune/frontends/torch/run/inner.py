"""Values inside a module as it runs: of an instrumented graph, a graph module, or the caller's own class."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import fx, nn

from ...chance import Script
from ..arrays import to_numpy
from .drawing import following
from .execute import Reference
from .modes import mode_of, split_inputs

#: The name of a value, and that of the weight which makes it, where there is one.
Wanted = Mapping[str, str]


def run_inner(module: nn.Module, inputs: Any, wanted: Wanted, script: Script | None = None) -> dict[str, np.ndarray]:
    """What a module computes for some values of the graph, as far as it can be told.

    In the caller's own class a value is the result of the module that owns its weight, where that runs just once.
    """
    args, kwargs = split_inputs(inputs)
    with mode_of(module, training=False), torch.no_grad(), following(script):
        if isinstance(module, Reference):
            found = module.inner(args, kwargs, wanted)
        elif isinstance(module, fx.GraphModule):
            found = _interpreted(module, args, kwargs, wanted)
        else:
            found = _hooked(module, args, kwargs, wanted)
    return {name: to_numpy(item) for name, item in found.items() if isinstance(item, torch.Tensor)}


class _Watching(fx.Interpreter):
    def __init__(self, module: fx.GraphModule, wanted: Wanted) -> None:
        super().__init__(module)
        self._named = {name.replace(".", "_"): name for name in wanted}
        self.seen: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Keep what was asked for."""
        made = super().run_node(n)
        if n.name in self._named:
            self.seen[self._named[n.name]] = made
        return made


def _interpreted(module: fx.GraphModule, args: Any, kwargs: Any, wanted: Wanted) -> dict[str, Any]:
    watching = _Watching(module, wanted)
    flat = module.graph._codegen.process_inputs(*args, **kwargs)
    watching.run(*flat, enable_io_processing=False)
    return watching.seen


def _hooked(module: nn.Module, args: Any, kwargs: Any, wanted: Wanted) -> dict[str, Any]:
    seen: dict[str, list[Any]] = {}
    hooks = []
    for name, weight in wanted.items():
        owner = weight.rpartition(".")[0]
        children = dict(module.named_modules())
        if weight and owner in children:
            hooks.append(children[owner].register_forward_hook(partial(_keep, seen, name)))
    try:
        module(*args, **kwargs)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: items[0] for name, items in seen.items() if len(items) == 1}


def _keep(seen: dict[str, list[Any]], name: str, module: nn.Module, args: Any, result: Any) -> None:
    seen.setdefault(name, []).append(result.clone() if isinstance(result, torch.Tensor) else result)
