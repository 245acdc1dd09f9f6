"""Operators that put values side by side: along an axis they have, or along a new one."""

from __future__ import annotations

import numpy as np

from graphprune.ir.graph import Node, Value

from .base import Array, Labeller, operator
from .broadcast import Operand, meet
from .position import join_positions

#: How the choice is named whether the axis of a stack has labels (see `Labeller.choose`).
STACKED = " stacks"


def _others(value: Value, axis: int, rank: int) -> Operand:
    """All axes of a value but one."""
    return Operand(value, tuple(None if a == axis else a for a in range(rank)))


def _whole(node: Node, slot: int, labeller: Labeller) -> Array | None:
    """An operand that vanishes with an index is that index on the axis where operands follow one another."""
    label = labeller.vanishing(node, slot)
    if label is None:
        return None
    labeller.leave_out(node, slot, label)
    return np.array([label])


def _part(node: Node, slot: int, labeller: Labeller) -> Array | None:
    """The labels of an operand along the axis of a concatenation."""
    value, axis = node.inputs[slot], node.attrs["axis"]
    assert value is not None
    return _whole(node, slot, labeller) if value.sizes[axis] == 1 else labeller.axis(value, axis)


def _stacked(node: Node, parts: list[Array | None], labeller: Labeller) -> list[Array | None]:
    """Whole values side by side on a new axis: each may be left out, if an index of that axis may go.

    Whether it may is known at the end: the axis is fixed in a first walk and has labels in another.
    """
    open_slots = [slot for slot, part in enumerate(parts) if part is None]
    if not labeller.stands_alone(node) or len(parts) < 2 or not open_slots:
        return parts
    fixed, labels = np.zeros(len(open_slots), np.int64), labeller.fresh(len(open_slots))
    if labeller.choose(f"{node.name}{STACKED}", [fixed, labels]) == 0:
        return parts
    for slot, label in zip(open_slots, labels.tolist(), strict=True):
        labeller.leave_out(node, slot, label)
        parts[slot] = np.array([label])
    return parts


@operator("concat")
def concat(node: Node, labeller: Labeller) -> None:
    """Labels follow one another along the axis; elsewhere the inputs meet."""
    values = [v for v in node.inputs if v is not None]
    out, axis = node.outputs[0], node.attrs["axis"]
    for value in values:
        if any(b.joint and axis in b.axes for b in labeller.blocks(value)):
            labeller.resolve(value)
    parts = [_part(node, slot, labeller) for slot, value in enumerate(node.inputs) if value is not None]
    if all(v.sizes[axis] == 1 for v in values):
        parts = _stacked(node, parts, labeller)
    joined = None
    if any(part is not None for part in parts):
        joined = np.concatenate(
            [np.zeros(v.sizes[axis], np.int64) if p is None else p for v, p in zip(values, parts, strict=True)]
        )
    labeller.put_blocks(out, meet([_others(v, axis, out.rank) for v in values], out.rank, labeller))
    labeller.put(out, {axis: joined})
    join_positions(values, out, labeller)


@operator("stack")
def stack(node: Node, labeller: Labeller) -> None:
    """A new axis, fixed unless whole operands may go; the inputs meet on all others."""
    out, axis = node.outputs[0], node.attrs["axis"]
    own = [a if a < axis else a - 1 for a in range(out.rank)]
    axes = tuple(None if a == axis else own[a] for a in range(out.rank))
    operands = [Operand(v, axes) for v in node.inputs if v is not None]
    labeller.put_blocks(out, meet(operands, out.rank, labeller))
    parts = _stacked(node, [_whole(node, slot, labeller) for slot in range(len(node.inputs))], labeller)
    if any(part is not None for part in parts):
        labeller.put(out, {axis: np.concatenate([np.zeros(1, np.int64) if p is None else p for p in parts])})
