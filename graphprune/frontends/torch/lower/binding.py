"""Sizes that follow values, as those of `x[mask]` do: bound to what the example gives, and kept open where it runs.

`torch.export` leaves them as symbols. The exported program runs once on the example, each node gets the shape of what
it made, and remembers which axes are free: `Value.dynamic` has them. What is told such a size gets it when it runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

#: In the meta of a node: of each result the axes whose size follows values; of a number, that it does.
FREE = "graphprune_free"
#: In the meta of a node: that numbers which follow values are among its arguments.
TOLD = "graphprune_told"

_SYMBOLS = (torch.SymInt, torch.SymFloat, torch.SymBool)


def bind(module: fx.GraphModule, inputs: Sequence[Any]) -> None:
    """Bind all sizes of an exported program that follow values; nothing to do where there are none."""
    nodes = [n for n in module.graph.nodes if "val" in n.meta]
    free = {n: _free(n.meta["val"]) for n in nodes}
    if not any(map(_any, free.values())):
        return
    before = [(buffer, buffer.clone()) for buffer in module.buffers()]
    with torch.no_grad(), torch.random.fork_rng([]):
        _Binder(module).run(*inputs, enable_io_processing=False)
        for buffer, value in before:
            buffer.copy_(value)
    for node in nodes:
        node.meta[FREE] = free[node]
    for node in nodes:
        node.meta[TOLD] = any(is_number(source) for source in node.all_input_nodes)


class _Binder(fx.Interpreter):
    """Runs a program and gives its nodes the (fake) tensors that they made."""

    def __init__(self, module: fx.GraphModule) -> None:
        super().__init__(module)
        self._mode = FakeTensorMode()

    def run_node(self, n: fx.Node) -> Any:
        """Run one node, unless it only checks."""
        if str(n.target).startswith(("aten._assert", "aten.sym_constrain")):
            return None
        result = super().run_node(n)
        if "val" in n.meta:
            n.meta["val"] = pytree.tree_map_only(torch.Tensor, self._like, result)
        return result

    def _like(self, tensor: torch.Tensor) -> torch.Tensor:
        return self._mode.from_tensor(tensor.detach(), static_shapes=True)


def _free(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return frozenset(axis for axis, size in enumerate(value.shape) if not isinstance(size, int))
    if isinstance(value, (tuple, list)):
        return [_free(item) for item in value]
    return isinstance(value, _SYMBOLS)


def _any(free: Any) -> bool:
    """Whether a tensor has a free axis."""
    return any(map(_any, free)) if isinstance(free, list) else isinstance(free, frozenset) and bool(free)


def is_number(node: Any) -> bool:
    """Whether an argument is a number that follows values."""
    return isinstance(node, fx.Node) and node.meta.get(FREE) is True


def free_axes(node: fx.Node) -> frozenset[int]:
    """The axes of a node's first result whose size follows values."""
    return free_results(node, 1)[0]


def free_results(node: fx.Node, count: int) -> list[frozenset[int]]:
    """The axes of each of so many results whose size follows values."""
    found = node.meta.get(FREE)
    each = found if isinstance(found, list) else [found] * count
    return [axes if isinstance(axes, frozenset) else frozenset() for axes in each]


def counts(node: fx.Node) -> bool:
    """Whether a node makes a number of sizes (or of such numbers) that follow values."""
    sizes = node.target in (torch.ops.aten.sym_size.int, torch.ops.aten.sym_numel.default)
    return is_number(node) and (sizes or all(map(is_number, node.all_input_nodes)))


def bound(argument: Any) -> Any:
    """An argument with the numbers in it as the example has them."""
    if isinstance(argument, (list, tuple)):
        return type(argument)(map(bound, argument))
    return argument.meta["val"] if is_number(argument) else argument
