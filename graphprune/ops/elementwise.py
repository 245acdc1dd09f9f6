"""Operators that work index by index: unary, binary, where, casts, PReLU, GLU."""

from __future__ import annotations

from ..graph import Node
from .base import Labeller, operator
from .broadcast import aligned, meet

#: Functions that leave an integer what it is.
COPIES = frozenset({"identity", "dropout", "cast"})


@operator("elementwise")
def elementwise(node: Node, labeller: Labeller) -> None:
    """Operands meet under broadcasting; the result carries their labels."""
    rank = node.outputs[0].rank
    operands = [aligned(value, rank) for value in node.inputs if value is not None]
    blocks = meet(operands, rank, labeller)
    for output in node.outputs:
        labeller.put_blocks(output, blocks)
    if node.attrs.get("fn") in COPIES and operands:
        labeller.point(node.outputs[0], labeller.pointing(operands[0].value))


@operator("prelu")
def prelu(node: Node, labeller: Labeller) -> None:
    """A slope per channel (axis 1), or one for all."""
    x, slope = node.inputs[0], node.inputs[1]
    assert x is not None and slope is not None
    if slope.sizes[-1] > 1:
        labeller.equal(labeller.axis(x, 1, touched=True), labeller.axis(slope, slope.rank - 1))
    labeller.put_blocks(node.outputs[0], labeller.blocks(x))


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
