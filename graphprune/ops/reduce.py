"""Reductions, softmax, and operators that mix along some axes and keep the others."""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from graphprune.ir.graph import Node

from .base import Absence, Block, Labeller, Statistic, operator
from .broadcast import rows_of

#: Reductions for which a removed index counts as zero: no statistic is renormalized.
SUMS = frozenset({"sum", "l1", "l2", "sumsq", "any"})
#: Reductions to one of the numbers, which also tell its position.
_FOUND = frozenset({"max", "min", "median", "nanmedian", "mode", "kthvalue"})
#: Of which norms are made.
_MOMENTS = frozenset({"mean", "var", "std"})


def _reduce_statistic(node: Node) -> Statistic | None:
    if node.attrs["fn"] in SUMS:
        return None
    return Statistic(tuple(node.attrs["axes"]), positions=_positions(node))


def _positions(node: Node) -> tuple[int, ...]:
    """The outputs that hold positions: of `argmax`, and the second of `max` along an axis."""
    if node.attrs["fn"] in ("argmax", "argmin"):
        return (0,)
    return (1,) if node.attrs["fn"] in _FOUND and len(node.outputs) > 1 else ()


def _absent(node: Node, slot: int) -> Absence | None:
    """Sums and means of nothing are nothing."""
    return "result" if node.attrs["fn"] in ("sum", "mean", "l1", "l2", "sumsq") else None


@operator("reduce", statistic=_reduce_statistic, absent=_absent)
def reduce(node: Node, labeller: Labeller) -> None:
    """Reduced axes are contracted (sums) or renormalized (mean, max, ...); the others pass."""
    x, out = node.inputs[0], node.outputs[0]
    assert x is not None
    axes, fn = set(node.attrs["axes"]), node.attrs["fn"]
    rows = [b for b in labeller.blocks(x) if fn in _MOMENTS and by_group(node, b, axes, labeller)]
    if rows:
        _reduce_groups(node, rows[0], labeller)
        return
    for block in labeller.blocks(x):
        if block.joint and axes & set(block.axes):
            labeller.resolve(x, None)
    for axis in axes:
        if _positions(node) and len(axes) > 1:
            labeller.freeze(labeller.axis(x, axis), "an index into several axes at once is returned")
        elif fn not in SUMS:
            labeller.statistic(labeller.axis(x, axis))
            if node.attrs.get("least"):
                labeller.at_least(labeller.axis(x, axis), node.attrs["least"])
    names = [a for a in range(x.rank) if a not in axes or node.attrs["keepdims"]]
    position = {axis: i for i, axis in enumerate(names)}
    from_x = [b for b in labeller.blocks(x) if not axes & set(b.axes)]
    for output in node.outputs:
        labeller.put_blocks(output, [type(b)(tuple(position[a] for a in b.axes), b.labels, b.origin) for b in from_x])
    assert out.shape is not None
    if len(axes) == 1:
        for i in _positions(node):
            labeller.point(node.outputs[i], labeller.axis(x, *axes))


def by_group(node: Node, block: Block, axes: Collection[int], labeller: Labeller) -> bool:
    """Whether statistics over these axes of the first input are those of a group norm: over the channels of each group
    (the inner factor of a split axis) and over positions. Then groups keep equal numbers, unless whole groups are
    wanted, or all of it turned out to be stuck. A norm of each head at each position takes whole heads.
    """
    x = node.inputs[0]
    assert x is not None
    inside = set(block.axes[1:])
    if (
        not block.joint
        or labeller.grouped != "within"
        or len(block.labels) < 2
        or set(block.axes) & set(axes) != inside
    ):
        return False
    row = block.labels[0].reshape(-1)
    over_positions = any(x.sizes[a] > 1 for a in set(axes) - inside) or len(np.unique(row)) < len(row)
    whole = block.labels.reshape(len(block.labels), -1)[:, 0]
    return over_positions and labeller.choose(f"{node.name} by group", [block.labels, whole]) == 0


def _reduce_groups(node: Node, block: Block, labeller: Labeller) -> None:
    """One number for each group, all of which stay."""
    x, axes = node.inputs[0], set(node.attrs["axes"])
    assert x is not None
    labeller.statistic(block.labels)
    labeller.balance(np.ascontiguousarray(block.labels.reshape(len(block.labels), -1)))
    groups = labeller.fresh(len(block.labels))
    labeller.freeze(groups, "each group of a group norm keeps some channels")
    names = [a for a in range(x.rank) if a not in axes or node.attrs["keepdims"]]
    passing = [b for b in labeller.blocks(x) if not axes & set(b.axes)]
    found = [*passing, Block((block.axes[0],), groups, rows_of(block))]
    for output in node.outputs:
        labeller.put_blocks(output, [Block(tuple(map(names.index, b.axes)), b.labels, b.origin) for b in found])


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
    """The listed axes are mixed in a way no removal can follow (sort, cumulative sums, FFT); the others pass. Where it
    is known that axes come or go last only (`trailing`), so do they in a result of another rank.
    """
    x = node.inputs[0]
    assert x is not None
    labeller.resolve(x)
    for axis in node.attrs["axes"]:
        labeller.freeze(labeller.axis(x, axis), f"{node.op} mixes this axis")
    for extra in node.inputs[1:]:
        for block in labeller.blocks(extra) if extra is not None else ():
            labeller.freeze(block.labels, f"{node.op} reads it whole")
    passing = {a: labeller.axis(x, a) for a in range(x.rank) if a not in node.attrs["axes"]}
    if any(output.rank != x.rank for output in node.outputs) and not node.attrs.get("trailing"):
        for labels in passing.values():
            labeller.freeze(labels, f"{node.op} makes something of another rank")
        passing = {}
    for output in node.outputs:
        labeller.put(output, passing)


@operator("cumsum")
def cumsum(node: Node, labeller: Labeller) -> None:
    """Running sums along one axis: a removed index adds nothing to those after it, so that all axes pass; in another
    order the sums would be others.
    """
    x, axis = node.inputs[0], node.attrs["axis"]
    assert x is not None
    if any(b.joint and axis in b.axes for b in labeller.blocks(x)):
        labeller.resolve(x)
    labeller.ordered(labeller.axis(x, axis))
    labeller.put_blocks(node.outputs[0], labeller.blocks(x))
