"""Normalization: batch, layer, RMS, group and instance norm."""

from __future__ import annotations

import numpy as np

from graphprune.ir.graph import Node

from .base import Array, Block, Kept, Labeller, Statistic, operator
from .conv import surviving_groups
from .reduce import by_group


def _batch_statistic(node: Node) -> Statistic | None:
    x = node.inputs[0]
    if x is None or not node.attrs.get("training"):
        return None
    return Statistic(tuple(axis for axis in range(x.rank) if axis != 1))


@operator("batch_norm", statistic=_batch_statistic)
def batch_norm(node: Node, labeller: Labeller) -> None:
    """Scale, bias, mean and variance belong to the channels (axis 1). At inference it is affine: exact.

    With statistics of the batch it renormalises over the other axes (weight standardisation runs it on a weight);
    further outputs are such statistics, one a channel.
    """
    x, out = node.inputs[0], node.outputs[0]
    assert x is not None
    labels = labeller.axis(x, 1, touched=True)
    for vector in node.inputs[1:]:
        if vector is not None and vector.sizes[-1] > 1:
            labeller.equal(labels, labeller.axis(vector, 0))
            labels = labels if labels is not None else labeller.axis(vector, 0)
    statistic = _batch_statistic(node)
    for axis in statistic.axes if statistic is not None else ():
        labeller.statistic(labeller.axis(x, axis))
    labeller.put_blocks(out, labeller.blocks(x))
    for vector in node.outputs[1:]:
        labeller.put(vector, {0: labels})


def _layer_statistic(node: Node) -> Statistic:
    x, axes = node.inputs[0], tuple(node.attrs["axes"])
    assert x is not None
    params = {}
    for i, vector in enumerate(node.inputs[1:], 1):
        if vector is not None:
            lead = len(axes) - vector.rank
            params[i] = tuple((a, axes[a + lead]) for a in range(vector.rank) if vector.sizes[a] > 1)
    return Statistic(axes, params)


def _rewrite_layer_norm(node: Node, kept: Kept) -> None:
    x, axes = node.inputs[0], node.attrs["axes"]
    assert x is not None
    shape = tuple(kept.size(x, axis) for axis in axes)
    if shape != tuple(x.sizes[axis] for axis in axes):
        node.change(normalized_shape=shape)


@operator("layer_norm", statistic=_layer_statistic, rewrite=_rewrite_layer_norm)
def layer_norm(node: Node, labeller: Labeller) -> None:
    """Scale and bias belong to the normalized axes, over which a statistic is taken."""
    x, out, axes = node.inputs[0], node.outputs[0], node.attrs["axes"]
    assert x is not None
    params = _layer_statistic(node).params
    rows = next((b for b in labeller.blocks(x) if not any(params.values()) and by_group(node, b, axes, labeller)), None)
    if rows is not None:
        labeller.statistic(rows.labels)
        labeller.balance(np.ascontiguousarray(rows.labels.reshape(len(rows.labels), -1)))
        labeller.put_blocks(out, labeller.blocks(x))
        return
    for axis in axes:
        labeller.resolve(x, None) if any(axis in b.axes and b.joint for b in labeller.blocks(x)) else None
        labels = labeller.axis(x, axis)
        labeller.statistic(labels)
        for i, pairs in params.items():
            vector = node.inputs[i]
            for own, theirs in pairs:
                if theirs == axis and vector is not None:
                    labeller.equal(labels, labeller.axis(vector, own))
    labeller.put_blocks(out, labeller.blocks(x))


def _group_statistic(node: Node) -> Statistic:
    x = node.inputs[0]
    assert x is not None
    vectors = {i: v for i, v in enumerate(node.inputs) if i and v is not None}
    params: dict[int, tuple[tuple[int, int], ...]] = dict.fromkeys(vectors, ((0, 1),))
    return Statistic((1,), params, node.attrs["groups"], whole=any(v.sizes[-1] != x.sizes[1] for v in vectors.values()))


def _rewrite_group_norm(node: Node, kept: Kept) -> None:
    x, groups = node.inputs[0], node.attrs["groups"]
    assert x is not None
    survivors = surviving_groups(kept, x, x, groups)
    if survivors != groups:
        node.change(groups=survivors)


@operator("group_norm", statistic=_group_statistic, rewrite=_rewrite_group_norm)
def group_norm(node: Node, labeller: Labeller) -> None:
    """Equal counts in each group (or whole groups); a statistic is taken over each group's channels."""
    x, out, groups = node.inputs[0], node.outputs[0], node.attrs["groups"]
    assert x is not None
    labels = labeller.axis(x, 1, touched=True)
    for axis in range(2, x.rank):
        labeller.freeze(labeller.axis(x, axis), "a group norm takes statistics over this axis")
    for vector in node.inputs[1:]:
        if vector is not None and vector.sizes[-1] == x.sizes[1] > 1:
            labeller.equal(labels, labeller.axis(vector, vector.rank - 1))
        elif vector is not None and vector.sizes[-1] > 1:
            _one_for_each_group(labels, labeller.axis(vector, vector.rank - 1), groups, labeller)
    if labels is not None:
        rows = labels.reshape(groups, -1)
        if groups < len(labels):
            labeller.statistic(labels)
            if labeller.grouped == "whole" and groups > 1:
                labeller.equal(rows, rows[:, :1])
            elif groups > 1:
                labeller.balance(rows)
    labeller.put_blocks(out, labeller.blocks(x))


def _one_for_each_group(labels: Array | None, vector: Array | None, groups: int, labeller: Labeller) -> None:
    """A scale per group (ONNX before opset 21) goes with its group, which only goes whole."""
    if labels is not None and labeller.grouped == "whole":
        labeller.equal(labels.reshape(groups, -1)[:, 0], vector)
    else:
        labeller.freeze(vector, "one value for each group of a group norm")


def _instance_statistic(node: Node) -> Statistic:
    x = node.inputs[0]
    assert x is not None
    return Statistic(tuple(range(2, x.rank)))


@operator("instance_norm", statistic=_instance_statistic)
def instance_norm(node: Node, labeller: Labeller) -> None:
    """Per-channel statistics over the spatial axes. A group norm written as reshape, instance norm, reshape arrives as
    a joint block (group, rest): every group must keep the same number, or goes whole. So do channels that a linear
    layer made with their positions, which then turn out to be stuck like this.
    """
    x, out = node.inputs[0], node.outputs[0]
    assert x is not None
    grouped = next((b for b in labeller.blocks(x) if b.joint and b.axes[0] == 1), None)
    if grouped is not None and _equal_counts(node, grouped, labeller):
        _group_by_reshape(node, grouped, labeller)
    else:
        labels = labeller.axis(x, 1, touched=True)
        for axis in range(2, x.rank):
            labeller.statistic(labeller.axis(x, axis))
        for vector in node.inputs[1:]:
            if vector is not None and vector.sizes[-1] > 1:
                labeller.equal(labels, labeller.axis(vector, 0))
    labeller.put_blocks(out, labeller.blocks(x))


def _equal_counts(node: Node, block: Block, labeller: Labeller) -> bool:
    if len(block.labels) < 2:
        return True
    whole = block.labels.reshape(len(block.labels), -1)[:, 0]
    return labeller.grouped == "within" and labeller.choose(f"{node.name} by group", [block.labels, whole]) == 0


def _group_by_reshape(node: Node, block: Block, labeller: Labeller) -> None:
    for vector in node.inputs[1:]:
        if vector is not None and vector.sizes[-1] > 1:
            labeller.freeze(labeller.axis(vector, 0), "one value for each group of a group norm")
    labeller.statistic(block.labels)
    labeller.balance(np.ascontiguousarray(block.labels.reshape(block.labels.shape[0], -1)))
