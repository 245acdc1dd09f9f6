"""Values that vanish as a whole: one index picked from an axis, and all that is made by multiplying with it.

Where the index goes, such a value is not there any more. Where it is added, its operand is left out; what only it was
made of dies. A rule says what becomes of a node where an operand is not there (`Operator.absent`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import product
from typing import Protocol

import numpy as np

from graphprune.ir.graph import Graph, Node, Value
from graphprune.ops.base import Array, Operator

#: What a value needs: it is there as long as all labels of any of these sets stay.
Presence = tuple[frozenset[int], ...]
#: A place where a node reads a value.
Slot = tuple[Node, int]

#: A value with more alternatives than this stays.
_MOST = 512
#: What these do beside their outputs only a frontend knows.
_STAY = frozenset({"unknown", "shape_math"})


def there(presence: Presence, keep: Array) -> bool:
    """Whether a value is there, for a mask over labels."""
    return any(all(keep[label] for label in labels) for labels in presence)


def _all_of(parts: Sequence[Presence]) -> Presence:
    """What a value needs that is there only with all of these."""
    return tuple(dict.fromkeys(frozenset().union(*chosen) for chosen in product(*parts)))


def _any_of(parts: Sequence[Presence]) -> Presence:
    return tuple(dict.fromkeys(labels for part in parts for labels in part))


class Speaker(Protocol):
    """What of a walk is needed here."""

    def rule(self, node: Node) -> Operator:
        """The entry of the operator table that applies to a node."""

    def freeze(self, labels: Array | None, why: str) -> None:
        """These indices must stay."""

    def at_least(self, labels: Array | None, count: int) -> None:
        """So many of these indices must stay."""

    def stands_alone(self, node: Node) -> bool:
        """Whether a node is one of the graph's own."""


@dataclass
class Presences:
    """What is known of a walk's values and operands; `strict` are labels whose whole axis was taken apart."""

    values: dict[Value, Presence] = field(default_factory=dict)
    parts: dict[Slot, Presence] = field(default_factory=dict)
    strict: set[int] = field(default_factory=set)

    def pick(self, value: Value, label: int, *, strict: bool) -> None:
        """All of a value goes with this index, besides what it goes with already."""
        self.values[value] = _all_of([self.values.get(value, (frozenset(),)), (frozenset([label]),)])
        if strict:
            self.strict.add(label)

    def single(self, value: Value) -> int | None:
        """The one index with which a value goes; None if there is none or it is not that simple."""
        found = self.values.get(value, ())
        return next(iter(found[0])) if len(found) == 1 and len(found[0]) == 1 else None

    def labels(self) -> Array:
        """All indices that whole values or operands go with."""
        known = (*self.values.values(), *self.parts.values())
        return np.array(sorted({label for presence in known for one in presence for label in one}), np.int64)

    def hand_on(self, node: Node, walk: Speaker) -> None:
        """What a node makes of operands that may vanish: see `Operator.absent`. What is not known needs them."""
        if not any(value in self.values for value in node.inputs):
            return
        free = walk.stands_alone(node) and all(v is None or v.shape is not None for v in (*node.inputs, *node.outputs))
        needed, sums = [], []
        for slot, value in enumerate(node.inputs):
            presence = self.values.get(value) if value is not None else None
            if presence is None or (node, slot) in self.parts:
                continue
            how = walk.rule(node).absence(node, slot) if free else None
            if how == "result":
                needed.append(presence)
            elif how == "operand" and _alike(node):
                sums.append(slot)
            else:
                self.need(presence, node.op, walk)
        if sums:
            needed += self._sum(node, sums)
        self._make(node, needed, walk)

    def _sum(self, node: Node, slots: Iterable[int]) -> list[Presence]:
        """The operands are left out one by one; the result vanishes with the last."""
        own = {slot: self.values[value] for slot in slots if (value := node.inputs[slot]) is not None}
        self.parts.update({(node, slot): presence for slot, presence in own.items()})
        return [_any_of(list(own.values()))] if len(own) == len(node.inputs) else []

    def _make(self, node: Node, needed: Sequence[Presence], walk: Speaker) -> None:
        if not needed:
            return
        for output in node.outputs:
            parts = [*([self.values[output]] if output in self.values else []), *needed]
            if np.prod([len(part) for part in parts]) <= _MOST:
                self.values[output] = _all_of(parts)
            else:
                for part in parts:
                    self.need(part, node.op, walk)
                self.values.pop(output, None)

    def need(self, presence: Presence, op: str, walk: Speaker) -> None:
        """A value must be there: one of the alternatives stays."""
        why = f"{op} needs a value that would vanish with it"
        labels = np.array(sorted(label for one in presence for label in one), np.int64)
        if any(len(one) > 1 for one in presence):
            walk.freeze(np.array(sorted(presence[0]), np.int64), why)
        elif len(labels) == 1 and labels[0] in self.strict:
            walk.freeze(labels, why)
        else:
            walk.at_least(labels, 1)

    def fates(self, graph: Graph, component: Array) -> dict[Value | Node, Array]:
        """Nodes and weights that die with a component: the components of each (any of which is enough).

        What dies only when several are gone together is left out, so that counts made from this are from above.
        """
        if not self.values and not self.parts:
            return {}
        fates = _Fates(self, component)
        fates.run(graph)
        if graph.training is not None:
            fates.run(graph.training)
        return fates.found()


def _alike(node: Node) -> bool:
    """Whether any operand alone has the shape and type of the result, whatever the user feeds."""
    out = node.outputs[0]
    kind = out.shape, out.dtype, out.dynamic
    return all(v is not None and (v.shape, v.dtype, v.dynamic) == kind for v in node.inputs)


@dataclass
class _Fates:
    """One walk back: a value dies with what all its readers die with. What nobody reads has no fate yet."""

    presences: Presences
    component: Array
    dies: dict[Value | Node, frozenset[int]] = field(default_factory=dict)

    def run(self, graph: Graph) -> None:
        """Note the fates of all values and nodes of a graph."""
        for value in graph.outputs:
            self._read(value, frozenset())
        for node in reversed(graph.nodes):
            fate = frozenset() if node.kind in _STAY else self._of(node)
            if fate is None:
                continue
            self.dies[node] = fate
            for value in node.reads():
                slots = [slot for slot, own in enumerate(node.inputs) if own is value]
                without = [self._sole(self.presences.parts.get((node, slot), ())) for slot in slots]
                self._read(value, fate | (frozenset.intersection(*without) if without else frozenset()))

    def _read(self, value: Value, fate: frozenset[int]) -> None:
        self.dies[value] = self.dies[value] & fate if value in self.dies else fate

    def _of(self, node: Node) -> frozenset[int] | None:
        own = [self.dies[v] | self._sole(self.presences.values.get(v, ())) for v in node.outputs if v in self.dies]
        return frozenset.intersection(*own) if own else None

    def _sole(self, presence: Presence) -> frozenset[int]:
        """The components each of which takes the value away."""
        sets = [frozenset(self.component[sorted(labels)].tolist()) for labels in presence]
        return frozenset.intersection(*sets) if sets else frozenset()

    def found(self) -> dict[Value | Node, Array]:
        """Those that have one."""
        return {
            key: np.array(sorted(fate), np.int64)
            for key, fate in self.dies.items()
            if fate and (isinstance(key, Node) or key.weight is not None)
        }
