"""Integers that are positions along a labeled axis: operators that find them, look up by them, write by them."""

from __future__ import annotations

import numpy as np

from graphprune.ir.graph import Node, Value

from .base import Array, Block, Kept, Labeller, Statistic, operator
from .broadcast import Operand, meet
from .grid import lines, renumbered


def look_up(labels: Array | None, ids: Value | None, labeller: Labeller) -> None:
    """An axis with these labels is looked into by `ids`: it goes with the axis that they point along, or stays."""
    pointed = None if ids is None else labeller.pointing(ids)
    if labels is not None and pointed is not None and len(labels) == len(pointed):
        labeller.equal(labels, pointed)
    else:
        labeller.freeze(labels, "rows are looked up by index")
        labeller.freeze(pointed, "positions along it look into another axis")


def join_positions(values: list[Value], out: Value, labeller: Labeller) -> None:
    """Positions along one axis (or along several that then go together) are put side by side."""
    pointed = [labeller.pointing(value) for value in values]
    first = pointed[0]
    if first is not None and all(p is not None and len(p) == len(first) for p in pointed):
        for other in pointed[1:]:
            labeller.equal(first, other)
        labeller.point(out, first)
        return
    for labels in pointed:
        labeller.freeze(labels, "positions along it are joined with other numbers")


def _topk_statistic(node: Node) -> Statistic:
    return Statistic((node.attrs["axis"],), positions=(1,))


@operator("topk", statistic=_topk_statistic)
def topk(node: Node, labeller: Labeller) -> None:
    """The largest k along an axis, and where they are. Any index may go as long as k of them stay."""
    x, axis = node.inputs[0], node.attrs["axis"]
    assert x is not None
    if any(b.joint and axis in b.axes for b in labeller.blocks(x)):
        labeller.resolve(x)
    labels = labeller.axis(x, axis)
    labeller.statistic(labels)
    labeller.at_least(labels, node.outputs[0].sizes[axis])
    passing = [b for b in labeller.blocks(x) if axis not in b.axes]
    for output in node.outputs:
        labeller.put_blocks(output, passing)
    labeller.point(node.outputs[1], labels)


def _sample_statistic(node: Node) -> Statistic:
    return Statistic((node.attrs["axis"],), positions=(0,))


@operator("sample", statistic=_sample_statistic)
def sample(node: Node, labeller: Labeller) -> None:
    """Positions along an axis picked by chance, as likely as the data says; where no two are alike, so many stay."""
    x, axis, out = node.inputs[0], node.attrs["axis"], node.outputs[0]
    assert x is not None
    if any(b.joint and axis in b.axes for b in labeller.blocks(x)):
        labeller.resolve(x)
    labels = labeller.axis(x, axis)
    labeller.statistic(labels)
    labeller.at_least(labels, out.sizes[axis] if node.attrs["distinct"] else 1)
    labeller.put_blocks(out, [b for b in labeller.blocks(x) if axis not in b.axes])
    labeller.point(out, labels)


def _meet_others(x: Value, others: list[Value], axis: int, labeller: Labeller) -> list[Block]:
    """Values of one rank meet on all axes but one; what some of them do not cover must stay."""
    values = [x, *others]
    for value in values:
        if any(b.joint and axis in b.axes for b in labeller.blocks(value)):
            labeller.resolve(value)
    partial = {a for a in range(x.rank) for v in others if v.sizes[a] != x.sizes[a]} - {axis}
    for value in values:
        for a in partial:
            labeller.freeze(labeller.axis(value, a), "only a part of it is looked into")
    apart = partial | {axis}
    operands = [Operand(v, tuple(None if a in apart else a for a in range(x.rank))) for v in values]
    return meet(operands, x.rank, labeller)


@operator("take_along", moves=True)
def take_along(node: Node, labeller: Labeller) -> None:
    """`take_along_axis`: each place of the result looks up its own position along one axis."""
    x, ids, out, axis = node.inputs[0], node.inputs[1], node.outputs[0], node.attrs["axis"]
    assert x is not None and ids is not None
    blocks = _meet_others(x, [ids], axis, labeller)
    look_up(labeller.axis(x, axis), ids, labeller)
    places = labeller.axis(ids, axis)
    labeller.put_blocks(out, blocks)
    labeller.put(out, {axis: places})


@operator("searchsorted")
def searchsorted(node: Node, labeller: Labeller) -> None:
    """Where numbers would go among sorted ones: along a last axis that stays, or in one row of them for all.

    Each number is found alone, so that its axes pass; those before the last meet those of the sorted ones.
    """
    x, row = node.inputs[0], node.inputs[1]
    assert x is not None and row is not None
    last = row.rank - 1
    if row.rank == 1:
        labeller.freeze(labeller.axis(row, last), "numbers are looked for along it")
        labeller.put_blocks(node.outputs[0], labeller.blocks(x))
        return
    blocks = _meet_others(x, [row], last, labeller)
    labeller.freeze(labeller.axis(row, last), "numbers are looked for along it")
    labeller.put_blocks(node.outputs[0], blocks)
    labeller.put(node.outputs[0], {last: labeller.axis(x, last)})


@operator("scatter_along")
def scatter_along(node: Node, labeller: Labeller) -> None:
    """The inverse: values (or one number) are written to, or joined with, the positions along an axis."""
    x, ids, out, axis = node.inputs[0], node.inputs[1], node.outputs[0], node.attrs["axis"]
    assert x is not None and ids is not None
    source = [v for v in node.inputs[2:] if v is not None and v.rank == x.rank and v.rank]
    blocks = _meet_others(x, [ids, *source], axis, labeller)
    look_up(labeller.axis(x, axis), ids, labeller)
    for value in (ids, *source):  # a place that is no longer written to would keep what was there
        labeller.freeze(labeller.axis(value, axis), "each of them is written somewhere")
    labels = labeller.axis(x, axis)
    labeller.put_blocks(out, blocks)
    labeller.put(out, {axis: labels})


def _rewrite_scatter_rows(node: Node, kept: Kept) -> None:
    x, source, tuples = node.inputs[0], node.inputs[2], node.attrs.get("indices")
    assert x is not None and source is not None
    if tuples is None or not lines(tuples):
        return
    axes = list(range(node.attrs["depth"]))
    found = renumbered(tuples, kept, x, axes, {a: (source, a) for a in range(tuples.ndim - 1)})
    if not np.array_equal(found, tuples):
        node.change(indices=found)


@operator("scatter_rows", rewrite=_rewrite_scatter_rows)
def scatter_rows(node: Node, labeller: Labeller) -> None:
    """Values written to tuples of indices that address the first axes (`ScatterND`); the axes after those pass. So do
    axes that constant indices pick along an axis of their own: what is written there goes with it.
    """
    x, ids, source, depth = *node.inputs[:3], node.attrs["depth"]
    assert x is not None and ids is not None and source is not None
    labeller.freeze(labeller.pointing(ids), "positions along it look into another axis")
    for value in (x, source):
        labeller.resolve(value)
    lead = ids.rank - node.attrs.get("tuples", 1)
    picked = lines(node.attrs.get("indices"))
    passing = {line.along for line in picked.values()}
    addressed = [labeller.axis(x, a) for a in range(depth) if a not in picked]
    addressed += [labeller.axis(source, a) for a in range(lead) if a not in passing]
    for labels in [*addressed, *(block.labels for block in labeller.blocks(ids))]:
        labeller.freeze(labels, "it is written to by index")
    for place, line in picked.items():
        own = labeller.axis(x, place)
        labeller.equal(None if own is None else own[line.picks], labeller.axis(source, line.along))
    for axis in range(depth, x.rank):
        labeller.equal(labeller.axis(x, axis), labeller.axis(source, lead + axis - depth))
    labeller.put(node.outputs[0], {a: labeller.axis(x, a) for a in range(x.rank) if a >= depth or a in picked})


@operator("sort")
def sort(node: Node, labeller: Labeller) -> None:
    """Values in order along an axis, which stays, and where they were. Positions in order are positions in order after
    some of those that they may name are gone.
    """
    x, axis = node.inputs[0], node.attrs["axis"]
    assert x is not None
    labeller.resolve(x)
    labeller.freeze(labeller.axis(x, axis), f"{node.op} mixes this axis")
    for output in node.outputs:
        labeller.put_blocks(output, [b for b in labeller.blocks(x) if axis not in b.axes])
    labeller.point(node.outputs[0], labeller.pointing(x))


def _rewrite_count(node: Node, kept: Kept) -> None:
    classes = kept.size(node.outputs[0], 0)
    if classes != node.attrs["classes"]:
        node.change(classes=classes)


@operator("count_positions", rewrite=_rewrite_count)
def count_positions(node: Node, labeller: Labeller) -> None:
    """How often each position from zero on occurs among integers."""
    ids, classes = node.inputs[0], node.attrs["classes"]
    assert ids is not None
    for block in labeller.blocks(ids):
        labeller.freeze(block.labels, f"{node.op} counts all of it")
    pointed = labeller.pointing(ids)
    if pointed is not None and len(pointed) == classes:
        labeller.put(node.outputs[0], {0: pointed})
    else:
        labeller.freeze(pointed, "positions along it become more classes than it has indices")


def _rewrite_one_hot(node: Node, kept: Kept) -> None:
    out = node.outputs[0]
    classes = kept.size(out, node.attrs.get("axis", out.rank - 1))
    if classes != node.attrs["classes"]:
        node.change(classes=classes)


@operator("one_hot", rewrite=_rewrite_one_hot)
def one_hot(node: Node, labeller: Labeller) -> None:
    """A new axis (the last, unless said) with an index for each position that the integers may take."""
    ids, out = node.inputs[0], node.outputs[0]
    assert ids is not None
    axis = node.attrs.get("axis", out.rank - 1)
    for value in node.inputs[1:]:
        for block in labeller.blocks(value) if value is not None else ():
            labeller.freeze(block.labels, f"{node.op} reads it whole")
    pointed = labeller.pointing(ids)
    blocks = labeller.blocks(ids)
    labeller.put_blocks(out, [Block(tuple(a + (a >= axis) for a in b.axes), b.labels, b.origin) for b in blocks])
    if pointed is not None and len(pointed) == node.attrs["classes"]:
        labeller.put(out, {axis: pointed})
    else:
        labeller.freeze(pointed, "positions along it become more classes than it has indices")


@operator("fill_rows")
def fill_rows(node: Node, labeller: Labeller) -> None:
    """Rows of `x` that a mask names are overwritten by rows of a source, one after the other.

    A row runs over the last axes, along which the mask does not change: there all three meet; the others stay.
    """
    x, mask, source = node.inputs[:3]
    assert x is not None and mask is not None and source is not None
    width = node.attrs["width"]
    for value in (x, mask, source):
        labeller.resolve(value)
        for axis in range(value.rank - width):
            labeller.freeze(labeller.axis(value, axis), f"{node.op} runs over this axis")
    labels: dict[int, Array | None] = {}
    for back in range(1, width + 1):
        labels[x.rank - back] = labeller.axis(x, x.rank - back)
        for value in (mask, source):
            if value.sizes[-back] > 1:
                labeller.equal(labels[x.rank - back], labeller.axis(value, value.rank - back))
    labeller.put(node.outputs[0], labels)


def _looked_up_at(node: Node) -> tuple[int, dict[int, int]]:
    """Where the axes of the tuples begin in the result, and where each axis that is not looked into lies there."""
    x, out, axes = node.inputs[0], node.outputs[0], node.attrs["axes"]
    assert x is not None
    left = [a for a in range(x.rank) if a not in axes]
    width = out.rank - len(left)
    place = axes[0] if list(axes) == list(range(axes[0], axes[0] + len(axes))) else 0
    return place, {a: i if i < place else i + width for i, a in enumerate(left)}


def _rewrite_lookup(node: Node, kept: Kept) -> None:
    x, out, tuples = node.inputs[0], node.outputs[0], node.attrs.get("indices")
    assert x is not None
    if tuples is None or not lines(tuples):
        return
    place, axes = _looked_up_at(node)[0], list(node.attrs["axes"])
    found = renumbered(tuples, kept, x, axes, {a: (out, place + a) for a in range(tuples.ndim - 1)})
    if not np.array_equal(found, tuples):
        node.change(indices=found)


@operator("lookup", rewrite=_rewrite_lookup, moves=True)
def look_up_several(node: Node, labeller: Labeller) -> None:
    """Several axes looked into at once by tensors of indices, `x[rows, columns]`; the other axes pass. So do axes that
    constant indices pick along an axis of their own.
    """
    x, out, axes = node.inputs[0], node.outputs[0], node.attrs["axes"]
    assert x is not None
    picked = lines(node.attrs.get("indices"))
    labeller.resolve(x)
    for value in node.inputs[1:]:
        for block in labeller.blocks(value) if value is not None else ():
            labeller.freeze(block.labels, "it is an index")
    indices = node.inputs[1:] if len(node.inputs) > 2 else node.inputs[1:] * len(axes)  # tuples, or a mask
    for i, (axis, ids) in enumerate(zip(axes, indices, strict=True)):
        if i not in picked:
            look_up(labeller.axis(x, axis), ids, labeller)
    place, where = _looked_up_at(node)
    labels = {where[a]: labeller.axis(x, a) for a in where}
    for i, line in picked.items():
        own = labeller.axis(x, axes[i])
        labels[place + line.along] = None if own is None else own[line.picks]
    labeller.put(out, labels)
