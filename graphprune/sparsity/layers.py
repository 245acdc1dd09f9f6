"""Which weights of a graph are contracted with data, and how each lies as a matrix: what sparsity is about."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from math import prod

import numpy as np

from graphprune.ir.graph import Graph, Node, Value
from graphprune.ops import Contraction, inner, lookup
from graphprune.ops.base import Array
from graphprune.ops.cost import macs_of
from graphprune.ops.fused import In

#: Elementwise functions that may lie between a stored weight and the operator that contracts it.
_SAME = frozenset({"identity", "cast", "dropout"})


@dataclass(frozen=True, eq=False)
class Read:
    """One contraction of a weight: the node, the step that does it (inside a fused operator) and the data it meets.

    `how` counts its axes on the stored weight.
    """

    node: Node
    step: Node
    how: Contraction

    @property
    def data(self) -> Value | None:
        """The other operand."""
        return None if self.how.data is None else self.step.inputs[self.how.data]


@dataclass(frozen=True, eq=False)
class Layer:
    """A stored weight and all that read it. `macs` are those of the operators that read it."""

    value: Value
    reads: tuple[Read, ...]
    macs: int

    @property
    def name(self) -> str:
        """What reports call it."""
        return self.value.shown

    @property
    def names(self) -> set[str]:
        """All that it may be asked for by."""
        return {self.value.name, self.value.shown, *(read.node.name for read in self.reads)}

    @property
    def node(self) -> Node:
        """The first operator that reads it."""
        return self.reads[0].node

    @property
    def how(self) -> Contraction:
        """How it is contracted (by all its readers alike)."""
        return self.reads[0].how

    @property
    def length(self) -> int:
        """Number of products in a sum, kernel positions apart."""
        return self.value.sizes[self.how.axis]

    @property
    def rows(self) -> int:
        """Number of sums: output channels of one group."""
        return prod(self.value.sizes[axis] for axis in self.how.rows)

    @property
    def positions(self) -> int:
        """Number of kernel positions."""
        return prod(self.value.sizes[axis] for axis in self.how.kernel)

    def matrices(self, array: Array) -> Array:
        """An array of the weight's shape as `[batch, kernel positions, rows, length]`."""
        order = self._order()
        shape = tuple(self.value.sizes[axis] for axis in order)
        batch = len(order) - len(self.how.kernel) - len(self.how.rows) - 1
        middle = batch + len(self.how.kernel)
        return array.transpose(order).reshape(
            prod(shape[:batch]), prod(shape[batch:middle]), prod(shape[middle:-1]), shape[-1]
        )

    def restore(self, matrices: Array) -> Array:
        """The inverse of `matrices`."""
        order = self._order()
        return matrices.reshape([self.value.sizes[axis] for axis in order]).transpose(np.argsort(order))

    def _order(self) -> list[int]:
        how = self.how
        tail = [*how.kernel, *how.rows, how.axis]
        return [axis for axis in range(self.value.rank) if axis not in tail] + tail


@dataclass(frozen=True)
class Left:
    """A weight of two axes or more that is left as it is, and why."""

    value: Value
    reason: str
    node: Node | None = None


def find_layers(graph: Graph) -> tuple[list[Layer], list[Left]]:
    """Every trainable weight that is contracted, in order of first use; and those that are not, with the reason."""
    reads, other = _reads(graph)
    layers, left = [], []
    for value in graph.weights().values():
        if value.weight is None or not value.weight.trainable or value.shape is None or _wide(value.sizes) < 2:
            continue
        own, strange = reads.get(value, []), other.get(value)
        if strange is not None or not own:
            what = f"{strange.op} reads it" if strange is not None else "nothing that runs reads it"
            left.append(Left(value, what, strange))
        elif len({(read.how.axis, read.how.rows, read.how.kernel) for read in own}) > 1:
            left.append(Left(value, "its readers sum along different axes", own[0].node))
        else:
            nodes = dict.fromkeys(read.node for read in own)
            layers.append(Layer(value, tuple(own), macs_of(nodes)))
    return layers, left


def _wide(sizes: tuple[int, ...]) -> int:
    return sum(n > 1 for n in sizes)


#: For each axis of a value the axes of the stored weight behind it that it runs over (none where its size is 1).
_Axes = tuple[tuple[int, ...], ...]
_Source = tuple[Value, _Axes, frozenset[int]]  # with the axes of the weight of which it is only a part


def _reads(graph: Graph) -> tuple[dict[Value, list[Read]], dict[Value, Node]]:
    """How each stored weight is contracted, and the first node that does something else with it."""
    stored: dict[Value, _Source] = {}
    reads: dict[Value, list[Read]] = {}
    other: dict[Value, Node] = {}
    for node in graph.flat_nodes:
        found = {slot: _source(value, stored) for slot, value in enumerate(node.inputs) if value is not None}
        known = {slot: source for slot, source in found.items() if source is not None}
        passed = _through(node, known[0]) if 0 in known else None
        if passed is not None:
            stored.update(dict.fromkeys(node.outputs, passed))
            known.pop(0)
        for read, slot in _contractions(node):
            how = _on(known[slot], read.how) if slot in known else None
            if how is not None:
                reads.setdefault(known.pop(slot)[0], []).append(replace(read, how=how))
        handed_on = [_source(value, stored) for body in node.bodies for value in body.outputs]
        for weight, _, _ in filter(None, (*known.values(), *handed_on)):
            other.setdefault(weight, node)
    return reads, other


def _source(value: Value, stored: dict[Value, _Source]) -> _Source | None:
    if value.weight is not None and value.shape is not None:
        return value, tuple((axis,) for axis in range(value.rank)), frozenset()
    return stored.get(value)


def _through(node: Node, source: _Source) -> _Source | None:
    """The weight behind what a node makes that leaves every element what it was; None for any other node."""
    weight, axes, parts = source
    if node.kind == "split":
        return weight, axes, parts.union(axes[node.attrs["axis"]])
    alone = node.kind == "reshape" or sum(value is not None for value in node.inputs) == 1
    if not alone or len(node.outputs) != 1:
        return None
    if node.kind == "transpose":
        return weight, tuple(axes[a] for a in node.attrs["perm"]), parts
    if node.kind == "elementwise" and node.attrs.get("fn") in _SAME:
        return source
    merged = _merged(node, axes) if node.kind == "reshape" and not parts else None
    return None if merged is None else (weight, merged, parts)


def _merged(node: Node, axes: _Axes) -> _Axes | None:
    """The axes after a reshape that puts neighbouring ones together, or adds and drops those of size 1."""
    x, out = node.inputs[0], node.outputs[0]
    if x is None or x.shape is None or out.shape is None:
        return None
    left = [(size, own) for size, own in zip(x.sizes, axes, strict=True) if size > 1]
    found = []
    for wanted in out.sizes:
        size, own = 1, list[int]()
        while size < wanted and left:
            more, axes_behind = left.pop(0)
            size *= more
            own += axes_behind
        if size != wanted:
            return None
        found.append(tuple(own))
    return tuple(found)


def _contractions(node: Node) -> Iterator[tuple[Read, int]]:
    """Each contraction that a node does, and the slot of the node where its weight comes in."""
    steps = inner(node)
    described = node.attrs["steps"] if node.kind == "fused" else [None] * len(steps)
    for step, description in zip(steps, described, strict=True):
        rule = lookup(step.kind).contracts
        known = all(value is None or value.shape is not None for value in (*step.inputs, *step.outputs))
        for how in rule(step) if rule is not None and known else ():
            slot = how.weight
            if description is not None:
                ref = description.inputs[slot]
                if not isinstance(ref, In):
                    continue
                slot = ref.index
            yield Read(node, step, how), slot


def _on(source: _Source, how: Contraction) -> Contraction | None:
    """The same, counted on the stored weight; None where that cannot be said. Of a part only sums may be whole.

    Of several axes that are summed over as one, the last is that along which products are neighbours.
    """
    _, axes, parts = source
    rows = tuple(a for own in how.rows for a in axes[own])
    if not axes[how.axis] or any(len(axes[own]) > 1 for own, _ in how.each) or parts - set(rows):
        return None
    *before, axis = axes[how.axis]
    return replace(
        how,
        axis=axis,
        rows=rows,
        kernel=(*before, *(a for own in how.kernel for a in axes[own])),
        each=tuple((a, other) for own, other in how.each for a in axes[own]),
    )
