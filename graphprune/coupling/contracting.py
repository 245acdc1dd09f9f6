"""What contractions tell of the axes of their operands: which a layer makes, which attention runs over."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from graphprune.ir.graph import Node
from graphprune.ops import lookup
from graphprune.ops.base import Array, Contraction

from .axes import Axes, meets


@dataclass(frozen=True, eq=False)
class Said:
    """A fact about components."""

    fact: str
    components: Array | None


def contractions(node: Node, axes: Axes) -> Iterator[Said]:
    """What a node tells by what it sums over."""
    rule = lookup(node.kind)
    found = rule.contracts(node) if rule.contracts is not None else []
    for each in found:
        yield from _layer(node, each, axes)
    if node.kind == "grouped_matmul":
        for axis, fact in enumerate(("matrices", "taken", "made")):
            yield Said(fact, axes.of(node, 2, axis))
    elif not found and rule.bears:  # how it sums is not told
        for slot, value in enumerate(node.inputs):
            for axis in range(value.rank) if value is not None and value not in axes.data else ():
                yield Said("made", axes.of(node, slot, axis))


def _layer(node: Node, found: Contraction, axes: Axes) -> Iterator[Said]:
    weight, data = node.inputs[found.weight], None if found.data is None else node.inputs[found.data]
    if weight is None:
        return
    rows = [axes.of(node, found.weight, axis) for axis in found.rows]
    summed = axes.of(node, found.weight, found.axis)
    if _attends(node, found, axes):
        yield from _attention(node, found, axes)
    elif weight in axes.data:
        square = [r for r, axis in zip(rows, found.rows, strict=True) if weight.sizes[axis] == weight.sizes[found.axis]]
        yield from (Said("coordinate", row) for row in square if data in axes.raw)
        yield from (Said("heads", axes.of(node, found.weight, own)) for own, _ in found.each if data in axes.data)
    elif data is None or data in axes.data or found.weight == 1:  # of two that are learned the second is the layer's
        yield Said("looked up" if data in axes.picks else "taken", summed)
        if data in axes.picks:
            yield Said("taken", summed)
        yield from (Said("made" if row is rows[-1] else "matrices", row) for row in rows)
        yield from _around(node, found, axes)
        if node.kind == "conv":
            yield from (Said("channel", components) for components in (summed, *rows))


def _around(node: Node, found: Contraction, axes: Axes) -> Iterator[Said]:
    """The axes that a learned matrix is one of several on, and those along which all meet the same one."""
    weight, data = node.inputs[found.weight], None if found.data is None else node.inputs[found.data]
    assert weight is not None
    inside = {found.axis, *found.rows, *found.kernel}
    for axis in range(weight.rank) if node.kind not in ("conv", "recurrent") else ():
        if axis not in inside:
            yield Said("matrices", axes.of(node, found.weight, axis))
    if data is not None:
        assert found.data is not None
        apart = {found.along, *(other for _, other in found.each)}
        for axis in range(data.rank):
            if axis not in apart:
                yield Said("position", axes.of(node, found.data, axis))


def _attends(node: Node, found: Contraction, axes: Axes) -> bool:
    """Whether it makes scores of attention, or sums up what they weigh. A router's scores are shared out along the rows
    of what is learned, attention's along what the data brings.
    """
    weight, data = node.inputs[found.weight], None if found.data is None else node.inputs[found.data]
    out = node.outputs[0]
    if out in axes.scores:
        learned = weight not in axes.data or data not in axes.data
        return not learned or not any(meets(row, axes.scores[out]) for row in _rows(node, axes))
    both = weight in axes.data and data in axes.data
    return both and (weight in axes.shares or data in axes.shares)


def _rows(node: Node, axes: Axes) -> list[Array | None]:
    """The rows of operands that are learned."""
    rule = lookup(node.kind).contracts
    found = rule(node) if rule is not None else []
    return [
        axes.of(node, one.weight, axis)
        for one in found
        if node.inputs[one.weight] not in axes.data
        for axis in one.rows
    ]


def _attention(node: Node, found: Contraction, axes: Axes) -> Iterator[Said]:
    weight, data = node.inputs[found.weight], None if found.data is None else node.inputs[found.data]
    for own, _ in found.each:
        yield Said("heads", axes.of(node, found.weight, own))
    if node.outputs[0] in axes.scores:
        yield Said("head width", axes.of(node, found.weight, found.axis))
    elif data in axes.shares and weight not in axes.shares:
        yield from (Said("head width", axes.of(node, found.weight, axis)) for axis in found.rows)
