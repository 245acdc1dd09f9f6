"""Convolutions of every kind, and operators that keep channels and work on spatial axes."""

from __future__ import annotations

from math import prod

import numpy as np

from graphprune.ir.graph import Node, Value

from .base import Absence, Columns, Contraction, Cost, Kept, Labeller, operator


def _rewrite_conv(node: Node, kept: Kept) -> None:
    groups, x, out = node.attrs["groups"], node.inputs[0], node.outputs[0]
    assert x is not None
    if groups == 1:
        return
    left, before = kept.size(x, 1), x.sizes[1]
    if before == groups:
        if left != groups:
            node.change(groups=left)
        return
    survivors = surviving_groups(kept, x, out, groups)
    if survivors != groups:
        node.change(groups=survivors)


def surviving_groups(kept: Kept, x: Value, out: Value, groups: int) -> int:
    """Number of groups that keep any channel."""
    for value in (x, out):
        indices = kept.indices(value, 1)
        if indices is not None:
            return len(np.unique(indices // (value.sizes[1] // groups)))
    return groups


def _conv_cost(node: Node) -> list[Cost]:
    x, weight, out = node.inputs[0], node.inputs[1], node.outputs[0]
    assert x is not None and weight is not None
    groups, kernel = node.attrs["groups"], prod(weight.sizes[2:])
    grid, free = x if node.attrs["transposed"] else out, node.attrs.get("pointwise", ())
    factor = grid.sizes[0] * prod(n for axis, n in enumerate(grid.sizes) if axis > 1 and axis not in free) * kernel
    passing = tuple((grid, axis) for axis in free)
    if groups == x.sizes[1] and groups > 1:
        return [Cost(factor * max(1, out.sizes[1] // groups), (*passing, (x, 1)))]
    return [Cost(factor, (*passing, (x, 1), (out, 1)), groups)]


def _channels_alone(node: Node, labeller: Labeller, free: tuple[int, ...] = ()) -> np.ndarray | None:
    """The labels of the channels; of the axes after them those are frozen along which the operator works."""
    x = node.inputs[0]
    assert x is not None
    labels = labeller.axis(x, 1, touched=True)
    for axis in range(2, x.rank):
        if axis not in free:
            labeller.freeze(labeller.axis(x, axis), f"{node.op} works along this axis")
    return labels


def _read_whole(node: Node, values: list[Value | None], labeller: Labeller) -> None:
    """Of these operands every element is needed, whatever stays of the channels."""
    for value in values:
        for block in labeller.blocks(value) if value is not None else ():
            labeller.freeze(block.labels, f"{node.op} reads it whole")


def _conv_contracts(node: Node) -> list[Contraction]:
    filters, channels = (1, 0) if node.attrs["transposed"] else (0, 1)
    kernel = tuple(range(2, node.outputs[0].rank))
    return [Contraction(1, channels, (filters,), kernel, data=0, along=1, groups=node.attrs["groups"])]


def _absent(node: Node, slot: int) -> Absence | None:
    """Nothing comes of nothing, unless a bias (or more) is added."""
    return "result" if slot < 2 and all(value is None for value in node.inputs[2:]) else None


@operator("conv", rewrite=_rewrite_conv, cost=_conv_cost, bears=True, contracts=_conv_contracts, absent=_absent)
def conv(node: Node, labeller: Labeller) -> None:
    """Input channels are contracted with the weight, filters make the output channels; see `docs/ir.md` for layouts."""
    x, weight, out = node.inputs[0], node.inputs[1], node.outputs[0]
    assert x is not None and weight is not None
    free = tuple(node.attrs.get("pointwise", ()))
    labels = _channels_alone(node, labeller, free)
    labeller.label_only(weight, (0, 1))  # kernel positions are left alone
    for axis in range(2, weight.rank):  # also of a weight that is computed
        labeller.freeze(labeller.axis(weight, axis), "kernel positions are left alone")
    groups, transposed = node.attrs["groups"], node.attrs["transposed"]
    if groups == 1:
        filters = labeller.axis(weight, 1 if transposed else 0)
        labeller.equal(labels, labeller.axis(weight, 0 if transposed else 1))
    elif groups == x.sizes[1]:
        filters = _depthwise(node, labels, labeller)
    else:
        filters = _grouped(node, labels, labeller)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        labeller.equal(filters, labeller.axis(node.inputs[2], 0))
    _read_whole(node, node.inputs[3:], labeller)
    labeller.put_blocks(out, [b for b in labeller.blocks(x) if set(b.axes) <= {0, *free}])
    labeller.put(out, {1: filters})


def _depthwise(node: Node, labels: np.ndarray | None, labeller: Labeller) -> np.ndarray | None:
    """One channel a group: data in, filter and data out share labels (repeated by the channel multiplier)."""
    x, weight, out = node.inputs[0], node.inputs[1], node.outputs[0]
    assert x is not None and weight is not None
    multiplier = out.sizes[1] // x.sizes[1]
    filters = labeller.axis(weight, 0)
    if node.attrs["transposed"]:
        labeller.freeze(labeller.axis(weight, 1), "one channel makes several in a transposed convolution")
        labeller.equal(labels, filters)
        return None if filters is None else np.repeat(filters, multiplier)
    labeller.equal(None if labels is None else np.repeat(labels, multiplier), filters)
    return filters


def _grouped(node: Node, labels: np.ndarray | None, labeller: Labeller) -> np.ndarray | None:
    """Equal counts in each group, chosen group by group; or whole groups."""
    x, weight, out = node.inputs[0], node.inputs[1], node.outputs[0]
    assert x is not None and weight is not None
    groups, transposed = node.attrs["groups"], node.attrs["transposed"]
    rows, columns = labeller.axis(weight, 0), _columns(weight, groups, labeller)
    if rows is None or columns is None:
        for part in (labels, rows, columns):
            labeller.freeze(part, "the weight of a grouped convolution is fixed")
        return None
    inside, outside = (rows, columns.reshape(-1)) if transposed else (columns.reshape(-1), rows)
    labeller.equal(labels, inside)
    for side in (inside, outside):
        per_group = side.reshape(groups, -1)
        if labeller.grouped == "whole":
            labeller.equal(per_group, per_group[:, :1])
        else:
            labeller.balance(per_group)
    if labeller.grouped == "whole":
        labeller.equal(inside.reshape(groups, -1)[:, 0], outside.reshape(groups, -1)[:, 0])
    assert out.sizes[1] == len(outside)
    return outside


def _columns(weight: Value, groups: int, labeller: Labeller) -> np.ndarray | None:
    """Columns of its own for each group of rows; a weight that is computed has one set of columns for all groups."""
    if weight.weight is not None:
        columns = labeller.fresh(groups, weight.sizes[1])
        labeller.put_columns(weight, Columns(axis=1, by=0, labels=columns))
        return columns
    shared = labeller.axis(weight, 1)
    return None if shared is None else np.tile(shared, (groups, 1))


@operator("spatial")
def spatial(node: Node, labeller: Labeller) -> None:
    """Pools, resizes and grid samples: batch and channel pass, the axes along which they work are fixed."""
    x = node.inputs[0]
    assert x is not None
    channels = labeller.axis(x, 1, touched=True)
    worked = node.attrs.get("axes", range(2, x.rank))
    for axis in worked:
        labeller.freeze(labeller.axis(x, axis), f"{node.op} works along this axis")
    passing = {a: labeller.axis(x, a) for a in range(2, x.rank) if a not in worked}
    _read_whole(node, node.inputs[1:], labeller)
    batch = labeller.axis(x, 0)
    for output in node.outputs:
        labeller.put(output, {0: batch, 1: channels, **passing})


@operator("depth_to_space")
def depth_to_space(node: Node, labeller: Labeller) -> None:
    """The block*block channels that make one output channel go together."""
    x, out = node.inputs[0], node.outputs[0]
    assert x is not None
    labels, square = _channels_alone(node, labeller), node.attrs["block"] ** 2
    channels = None
    if labels is not None:
        parts = labels.reshape(-1, square) if node.attrs["mode"] == "CRD" else labels.reshape(square, -1).T
        labeller.equal(parts, parts[:, :1])
        channels = np.ascontiguousarray(parts[:, 0])
    labeller.put(out, {0: labeller.axis(x, 0), 1: channels})


@operator("space_to_depth")
def space_to_depth(node: Node, labeller: Labeller) -> None:
    """One channel becomes block*block channels."""
    x, out = node.inputs[0], node.outputs[0]
    assert x is not None
    labels, square = _channels_alone(node, labeller), node.attrs["block"] ** 2
    if labels is not None:
        labels = np.repeat(labels, square) if node.attrs["mode"] == "CRD" else np.tile(labels, square)
    labeller.put(out, {0: labeller.axis(x, 0), 1: labels})


@operator("unfold")
def unfold(node: Node, labeller: Labeller) -> None:
    """Each channel becomes as many as the kernel has positions."""
    x, out = node.inputs[0], node.outputs[0]
    assert x is not None
    labels = _channels_alone(node, labeller)
    labeller.put(out, {0: labeller.axis(x, 0), 1: None if labels is None else np.repeat(labels, node.attrs["kernel"])})


@operator("fold")
def fold(node: Node, labeller: Labeller) -> None:
    """The reverse of `unfold`: the positions of a kernel that make one channel go together."""
    x, out = node.inputs[0], node.outputs[0]
    assert x is not None
    labels, channels = _channels_alone(node, labeller), None
    if labels is not None:
        parts = labels.reshape(-1, node.attrs["kernel"])
        labeller.equal(parts, parts[:, :1])
        channels = np.ascontiguousarray(parts[:, 0])
    labeller.put(out, {0: labeller.axis(x, 0), 1: channels})


@operator("windows")
def windows(node: Node, labeller: Labeller) -> None:
    """Sliding windows along one axis, which is fixed; their positions become a last axis, the others pass."""
    x, axis = node.inputs[0], node.attrs["axis"]
    assert x is not None
    labeller.freeze(labeller.axis(x, axis), f"{node.op} slides along this axis")
    labeller.put_blocks(node.outputs[0], [b for b in labeller.blocks(x) if axis not in b.axes])
