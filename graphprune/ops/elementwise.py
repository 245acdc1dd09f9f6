"""Operators that work index by index: unary, binary, where, casts, PReLU, GLU."""

from __future__ import annotations

import numpy as np

from graphprune.ir.graph import Node, Value

from .base import Absence, Labeller, operator
from .broadcast import aligned, meet

#: Functions that leave an integer what it is.
COPIES = frozenset({"identity", "dropout", "cast"})


#: Functions of one tensor that add to it, or tell something of it that a missing one has not.
_TELLING = frozenset(
    "add sub rsub eq ne lt le gt ge zero fill isnan isinf isfinite not logical_not bitwise_not".split()
)


def _absent(node: Node, slot: int) -> Absence | None:
    """A function of nothing is nothing, and so is a product with nothing; a sum does without an operand."""
    fn, alone = node.attrs.get("fn"), sum(value is not None for value in node.inputs) == 1
    if alone:
        return None if fn in _TELLING else "result"
    if fn == "mul" or (fn in ("div", "true_divide") and slot == 0):
        return "result"
    return "operand" if fn in ("add", "sum") and not node.attrs.get("scalars") else None


@operator("elementwise", absent=_absent)
def elementwise(node: Node, labeller: Labeller) -> None:
    """Operands meet under broadcasting; the result carries their labels."""
    rank = node.outputs[0].rank
    _compare_positions(node, labeller)
    operands = [aligned(value, rank) for value in node.inputs if value is not None]
    blocks = meet(operands, rank, labeller)
    for output in node.outputs:
        labeller.put_blocks(output, blocks)
    if node.attrs.get("fn") in COPIES and operands:
        labeller.point(node.outputs[0], labeller.pointing(operands[0].value))


def _compare_positions(node: Node, labeller: Labeller) -> None:
    """`ids == arange(n)`, with an axis of its own for the numbers, is a one-hot: the numbers go with what they name."""
    operands = [value for value in node.inputs if value is not None]
    if node.attrs.get("fn") != "eq" or len(operands) != 2:
        return
    for ids, numbers in (operands, operands[::-1]):
        axis = _counted(numbers)
        pointed = labeller.pointing(ids) if axis is not None and _lacks(ids, axis - numbers.rank) else None
        if axis is None or pointed is None:
            continue
        if len(pointed) != numbers.sizes[axis]:
            labeller.freeze(pointed, f"{node.op} reads positions along it as numbers")
            continue
        labeller.equal(pointed, labeller.axis(numbers, axis))
        labeller.point(numbers, pointed)


def _counted(value: Value) -> int | None:
    """The axis along which a constant counts from zero, where that is all it does."""
    long = [axis for axis, size in enumerate(value.sizes) if size > 1]
    if value.weight is None or value.weight.trainable or len(long) != 1:
        return None
    return long[0] if np.array_equal(value.weight.array().reshape(-1), np.arange(value.sizes[long[0]])) else None


def _lacks(value: Value, back: int) -> bool:
    """Whether a value does not change along an axis counted from the last."""
    return -back > value.rank or value.sizes[back] == 1


@operator("prelu")
def prelu(node: Node, labeller: Labeller) -> None:
    """A slope per channel (axis 1), or one for all."""
    x, slope = node.inputs[0], node.inputs[1]
    assert x is not None and slope is not None
    if slope.sizes[-1] > 1:
        labeller.equal(labeller.axis(x, 1, touched=True), labeller.axis(slope, slope.rank - 1))
    labeller.put_blocks(node.outputs[0], labeller.blocks(x))


@operator("per_channel")
def per_channel(node: Node, labeller: Labeller) -> None:
    """Element by element, with vectors of one number for each index of an axis, or for all."""
    x, axis = node.inputs[0], node.attrs["axis"]
    assert x is not None
    size = x.sizes[axis]
    vectors = [v for v in node.inputs[1:] if v is not None and v.rank == 1 and v.sizes[0] == size]
    for vector in vectors:
        labeller.equal(labeller.axis(x, axis, touched=True), labeller.axis(vector, 0))
    for output in node.outputs:
        if output.rank == x.rank:
            labeller.put_blocks(output, labeller.blocks(x))
        elif output.shape == (size,) and vectors:
            labeller.put(output, {0: labeller.axis(x, axis)})


@operator("glu")
def glu(node: Node, labeller: Labeller) -> None:
    """The two halves of the axis go together."""
    x, axis = node.inputs[0], node.attrs["axis"]
    assert x is not None
    labels = labeller.axis(x, axis, touched=True)
    half = None if labels is None else labels[: len(labels) // 2]
    if labels is not None:
        labeller.equal(half, labels[len(labels) // 2 :])
    others = [b for b in labeller.blocks(x) if axis not in b.axes]
    labeller.put_blocks(node.outputs[0], others)
    if half is not None:
        labeller.put(node.outputs[0], {axis: half})


@operator("shape_math")
def shape_math(node: Node, labeller: Labeller) -> None:
    """Integers computed from sizes: they carry no labels and freeze nothing."""
    for output in node.outputs:
        labeller.put(output, {})


@operator("fill")
def fill(node: Node, labeller: Labeller) -> None:
    """Values that do not depend on the input's values; the result is fixed."""
    for output in node.outputs:
        labeller.put(output, {})


@operator("unknown")
def unknown(node: Node, labeller: Labeller) -> None:
    """Everything an unknown operator touches must stay."""
    for value in node.inputs:
        if value is not None:
            for block in labeller.blocks(value):
                labeller.freeze(block.labels, f"unknown operator {node.op}")
    for output in node.outputs:
        labeller.put(output, {})
