"""The same chance for the original and the result: numbers for random operators, sliced where their axes are.

A random operator of the original gets uniform numbers of its full size (see `frontends/chance.py`). Whatever computes
what the result computes gets the kept ones of these.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphprune.coupling import Coupling
from graphprune.coupling.slicing import Survivors
from graphprune.depth import Block
from graphprune.frontends.chance import Draws, Full, Left
from graphprune.ir.graph import Node, Value
from graphprune.ops.base import Array


def draws(coupling: Coupling, keep: Array, without: Sequence[Block] = ()) -> Draws:
    """Scripts for the original of a coupling and for what a choice leaves of it; some blocks of it may be taken out."""
    full = Full()
    return Draws(full, Left(full, _Cut(coupling, keep, without)))


class _Cut:
    """What is left of the numbers that a node draws; they lie over the axes of what it makes, or picks positions by."""

    def __init__(self, coupling: Coupling, keep: Array, without: Sequence[Block]) -> None:
        self._survivors = Survivors(coupling, keep)
        gone = {node.name for block in without for node in block.nodes}
        self._nodes = {node.name: node for node in coupling.graph.flat_nodes if node.name not in gone}

    def __call__(self, name: str, numbers: Array, shape: tuple[int, ...] | None) -> Array | None:
        """The numbers at the kept places; None where there are not as many as asked for, or the node is gone."""
        node = self._nodes.get(name)
        if node is None or all(self._survivors.gone(value) for value in node.outputs):
            return None
        if numbers.shape == shape:
            return numbers
        for value in _over(node):
            found = self._survivors.stored(numbers, value, _shared(value, numbers.shape))
            if shape is None or found.shape == shape:
                return found
        return None


def _over(node: Node) -> list[Value]:
    values = [*node.inputs, *node.outputs] if node.kind == "sample" else [*node.outputs, *node.inputs]
    return [value for value in values if value is not None and value.shape is not None]


def _shared(value: Value, full: tuple[int, ...]) -> tuple[int, ...]:
    """The axes of a value that numbers of this size lie over, in order; -1 where they do not."""
    return tuple(axis if axis < value.rank and value.sizes[axis] == size else -1 for axis, size in enumerate(full))
