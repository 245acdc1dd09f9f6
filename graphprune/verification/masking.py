"""What the masked original is: where its values become zero, which operators run on kept indices only."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphprune import depth
from graphprune.coupling import Coupling, there
from graphprune.frontends.treatment import Compaction, Index, Treatment
from graphprune.ir.graph import Node, Value
from graphprune.ops import Block, Statistic, inner, lookup
from graphprune.ops.base import Array


def treatment(coupling: Coupling, keep: Array) -> Treatment:
    """Masks for every computed value that lost indices, and compactions for nodes that take statistics over them."""
    alive = keep[coupling.component]
    found = Treatment()
    for value in coupling.graph.inputs:
        _add_masks(found, value, coupling, alive)
    for node in coupling.graph.flat_nodes:
        source = node.inputs[0] if node.inputs else None
        constant = [source] if source is not None and source.weight is not None and source.weight.tied else []
        for value in (*constant, *node.outputs):
            _add_masks(found, value, coupling, alive)
        for step in inner(node) if node not in coupling.failed else ():
            rule = lookup(step.kind).statistic
            statistic = rule(step) if rule is not None and step.inputs[0] is not None else None
            compaction = _compaction(step, statistic, coupling, alive) if statistic is not None else Compaction()
            if compaction.inputs:
                whole = step is not node or (statistic is not None and statistic.whole)
                found.compactions[node.name] = _whole(node, compaction.groups, coupling, alive) if whole else compaction
    for use in coupling.uses:
        if lookup(use.node.kind).recurs and use.value.name not in found.masks:
            masks = [_mask(use.value, b, alive[b.labels]) for b in use.blocks]
            found.masks[use.value.name] = [m for m in masks if not m.all()]
    return found


def _add_masks(found: Treatment, value: Value, coupling: Coupling, alive: Array) -> None:
    presence = coupling.presences.values.get(value)
    if presence is not None and not there(presence, alive):
        found.masks[value.name] = [np.zeros((1,) * value.rank, bool)]
        return
    masks = [_mask(value, b, alive[b.labels]) for b in coupling.blocks.get(value, ())]
    masks = [m for m in masks if not m.all()]
    if masks:
        found.masks[value.name] = masks


def take_out(treated: Treatment, blocks: Sequence[depth.Block]) -> None:
    """The result of a branch becomes zero where it is added; the end of a whole block becomes its beginning."""
    for block in blocks:
        if block.add is None:
            treated.bypass[block.target.name] = block.source.name
        else:
            treated.masks[block.target.name] = [np.zeros((1,) * block.target.rank, bool)]


def _mask(value: Value, block: Block, mask: Array) -> Array:
    """The block's mask on all axes of the value."""
    shape = [1] * value.rank
    for axis, size in zip(block.axes, mask.shape, strict=True):
        shape[axis] = size
    return mask.transpose(np.argsort(block.axes)).reshape(shape)


def _compaction(node: Node, statistic: Statistic, coupling: Coupling, alive: Array) -> Compaction:
    x = node.inputs[0]
    assert x is not None
    found = Compaction()
    for block in coupling.blocks.get(x, ()):
        mask = alive[block.labels]
        axes = [a for a in block.axes if a in statistic.axes]
        if not axes or mask.all():
            continue
        for index in _indices(x, block, mask, axes):
            found.inputs.setdefault(0, []).append(index)
            for slot, pairs in statistic.params.items():
                for own, theirs in pairs:
                    if theirs == index.axis:
                        found.inputs.setdefault(slot, []).append(Index(own, index.indices))
            for i, output in enumerate(node.outputs):
                if output.shape == x.shape and any(index.axis in b.axes for b in coupling.blocks.get(output, ())):
                    found.outputs.setdefault(i, []).append(index)
            found.positions.update(dict.fromkeys(statistic.positions, index.indices))
        if statistic.groups and not block.joint:
            found.groups = int(mask.reshape(statistic.groups, -1).any(1).sum())
    return found


def _indices(x: Value, block: Block, mask: Array, axes: Sequence[int]) -> list[Index]:
    """Kept positions along the axes of a statistic: one after the other where what stays is a grid over them."""
    parts = []
    for axis in axes:
        others = tuple(i for i, a in enumerate(block.axes) if a in axes and a != axis)
        parts.append(np.asarray(mask.any(axis=others, keepdims=True)))
    if len(axes) > 1 and np.array_equal(np.logical_and.reduce(np.broadcast_arrays(*parts)), mask):
        return [_index(x, block, part, axis) for part, axis in zip(parts, axes, strict=True) if not part.all()]
    return [_index(x, block, mask, axes[-1])]


def _whole(node: Node, groups: int | None, coupling: Coupling, alive: Array) -> Compaction:
    """Every operand and result on its kept indices only: for operators that take a statistic in the midst of others."""

    def indices(value: Value | None) -> list[Index]:
        own = next((u.blocks for u in coupling.uses if u.value is value and u.node is node), None)
        blocks = () if value is None else own if own is not None else coupling.blocks.get(value, ())
        masks = [(block, alive[block.labels]) for block in blocks]
        return [_index(value, b, m, b.axes[-1]) for b, m in masks if value is not None and not m.all()]

    found = Compaction(groups=groups)
    found.inputs.update({i: indices(v) for i, v in enumerate(node.inputs)})
    found.outputs.update({i: indices(v) for i, v in enumerate(node.outputs)})
    return found


def _index(x: Value, block: Block, mask: Array, axis: int) -> Index:
    """Kept positions along an axis; for a joint block, those of each row (rows keep equal numbers or nothing)."""
    if not block.joint:
        return Index(axis, np.flatnonzero(mask))
    last = np.moveaxis(mask, block.axes.index(axis), -1)
    width = int(last.sum(-1).max())
    order = np.argsort(~last, axis=-1, kind="stable")[..., :width]
    order = np.moveaxis(np.sort(order, axis=-1), -1, block.axes.index(axis))
    shape = [1] * x.rank
    for a, size in zip(block.axes, order.shape, strict=True):
        shape[a] = size
    return Index(axis, order.transpose(np.argsort(block.axes)).reshape(shape))
