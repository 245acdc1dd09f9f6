"""Reductions, softmax, and operators that mix along some axes and keep the others."""

from __future__ import annotations

from ..graph import Node
from .base import Labeller, Statistic, operator

#: Reductions for which a removed index counts as zero: no statistic is renormalized.
SUMS = frozenset({"sum", "l1", "l2", "sumsq", "any"})


def _reduce_statistic(node: Node) -> Statistic | None:
    if node.attrs["fn"] in SUMS:
        return None
    return Statistic(tuple(node.attrs["axes"]), positions=_positions(node))


def _positions(node: Node) -> tuple[int, ...]:
    """The outputs that hold positions: of `argmax`, and the second of `max` along an axis."""
    if node.attrs["fn"] in ("argmax", "argmin"):
        return (0,)
    return tuple(range(1, len(node.outputs)))


@operator("reduce", statistic=_reduce_statistic)
def reduce(node: Node, labeller: Labeller) -> None:
    """Reduced axes are contracted (sums) or renormalized (mean, max, ...); the others pass."""
    x, out = node.inputs[0], node.outputs[0]
    assert x is not None
    axes, fn = set(node.attrs["axes"]), node.attrs["fn"]
    for block in labeller.blocks(x):
        if block.joint and axes & set(block.axes):
            labeller.resolve(x, None)
    for axis in axes:
        if _positions(node) and len(axes) > 1:
            labeller.freeze(labeller.axis(x, axis), "an index into several axes at once is returned")
        elif fn not in SUMS:
            labeller.statistic(labeller.axis(x, axis))
    names = [a for a in range(x.rank) if a not in axes or node.attrs["keepdims"]]
    position = {axis: i for i, axis in enumerate(names)}
    from_x = [b for b in labeller.blocks(x) if not axes & set(b.axes)]
    for output in node.outputs:
        labeller.put_blocks(output, [type(b)(tuple(position[a] for a in b.axes), b.labels, b.origin) for b in from_x])
    assert out.shape is not None
    if len(axes) == 1:
        for i in _positions(node):
            labeller.point(node.outputs[i], labeller.axis(x, *axes))


def _softmax_statistic(node: Node) -> Statistic:
    return Statistic((node.attrs["axis"],))


@operator("softmax", statistic=_softmax_statistic)
def softmax(node: Node, labeller: Labeller) -> None:
    """A statistic over one axis; all axes pass."""
    x, axis = node.inputs[0], node.attrs["axis"]
    assert x is not None
    if any(b.joint and axis in b.axes for b in labeller.blocks(x)):
        labeller.resolve(x, None)
    labeller.statistic(labeller.axis(x, axis))
    labeller.put_blocks(node.outputs[0], labeller.blocks(x))


@operator("axiswise")
def axiswise(node: Node, labeller: Labeller) -> None:
    """The listed axes are mixed in a way no removal can follow (sort, cumulative sums, FFT); the others pass."""
    x = node.inputs[0]
    assert x is not None
    labeller.resolve(x)
    for axis in node.attrs["axes"]:
        labeller.freeze(labeller.axis(x, axis), f"{node.op} mixes this axis")
    for extra in node.inputs[1:]:
        for block in labeller.blocks(extra) if extra is not None else ():
            labeller.freeze(block.labels, f"{node.op} reads it whole")
    passing = {a: labeller.axis(x, a) for a in range(x.rank) if a not in node.attrs["axes"]}
    if any(output.rank != x.rank for output in node.outputs):
        for labels in passing.values():
            labeller.freeze(labels, f"{node.op} makes something of another rank")
        passing = {}
    for output in node.outputs:
        labeller.put(output, passing)
