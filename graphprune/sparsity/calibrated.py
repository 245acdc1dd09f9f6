"""Methods that look at data: layers in the order in which data reach them, each judged by what it meets.

A layer's data are taken when all layers before it are sparse already, so that it makes up for what those lost. A method
that changes what stays is also shown what the layer met in the model as it was. Between two layers only what lies
between them is run, once for all samples.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Protocol

import numpy as np

from graphprune.calibration.samples import Flow, Samples
from graphprune.ir.graph import Graph, Node, Value
from graphprune.ops.base import Array

from .layers import Layer, find_layers
from .methods import Scored, magnitude
from .patterns import Pattern
from .products import Meeting, meeting

Say = Callable[[str], None]

#: Elements of data that a statistic takes in at once, or some more.
_ELEMENTS = 1 << 21


@dataclass(frozen=True)
class Told:
    """What a method says about a layer: how it was judged if not by the method itself, and the share of its output on
    the calibration data (squared) that is lost.
    """

    note: str = ""
    error: float | None = None


class Statistic(Protocol):
    """What is remembered of data: as much for many batches as for one."""

    def add(self, rows: Array, before: Array | None = None) -> None:
        """Take in `[matrices, rows, columns]`; and what stood there in the model as it was, where that is known."""


class Calibrated(ABC):
    """A method that judges each layer by a statistic of its data; by magnitude where those cannot be seen."""

    name: ClassVar[str]
    #: Whether what stays gets new values.
    updates: ClassVar[bool] = False
    #: Whether layers are judged by what the sparse layers before them leave, or by the model as it was.
    follows: ClassVar[bool] = True

    def __init__(self, samples: Samples) -> None:
        self.told: dict[str, Told] = {}
        self.samples = samples
        self._statistics: dict[str, Statistic] = {}
        self._meetings: dict[str, Meeting] = {}

    @abstractmethod
    def statistic(self, meeting: Meeting) -> Statistic | str:
        """An empty one, or why there can be none."""

    @abstractmethod
    def judge(self, layer: Layer, array: Array, pattern: Pattern, statistic: Statistic) -> tuple[Array, Array, Told]:
        """The mask, the new elements, and what there is to say."""

    def scores(self, layer: Layer, array: Array) -> Array:
        """See `Method`: what is used where data say nothing."""
        return magnitude(layer, array)

    def sparsify(self, layer: Layer, array: Array, pattern: Pattern) -> tuple[Array, Array]:
        """See `Method`."""
        statistic = self._statistics.get(layer.value.name)
        if statistic is None:
            return Scored(magnitude).sparsify(layer, array, pattern)
        mask, new, self.told[layer.value.name] = self.judge(layer, array, pattern, statistic)
        return mask, new

    def walk(self, graph: Graph, layers: Sequence[Layer], say: Say) -> Iterator[Layer]:
        """The layers, each when its statistic is there; whoever asks for the next one has made it sparse in `graph`."""
        own = _twins(graph, layers)
        depth = layer_depths(graph, list(own.values()))
        met = {name: self._met(layer, depth) for name, layer in own.items()}
        shared = {name: found for name, found in met.items() if len({m.key for m in found}) > 1}
        self._measure_shared(graph, shared, depth, say)
        yield from (layer for layer in layers if layer.value.name in shared or not met[layer.value.name])
        later: dict[int, list[Layer]] = defaultdict(list)
        for layer in layers:
            name = layer.value.name
            if name not in shared and met[name]:
                later[depth[met[name][0].value]].append(layer)
        levels = [later[level] for level in sorted(later)]
        yield from self._in_turn(graph, levels, {name: found[0] for name, found in met.items() if found}, say)

    def _in_turn(
        self, graph: Graph, levels: Sequence[Sequence[Layer]], met: Mapping[str, Meeting], say: Say
    ) -> Iterator[Layer]:
        taps = [list(dict.fromkeys(met[layer.value.name].value for layer in level)) for level in levels]
        if not levels:
            return
        flows = [Flow(graph, self.samples, taps) if self.follows else _of_copy(graph, self.samples, taps)]
        if self.updates:
            flows.append(_of_copy(graph, self.samples, taps))
        for number, level in enumerate(levels):
            say(f"running the calibration data ({number + 1} of {len(levels)})")
            for flow in flows:
                flow.advance()
            alike: dict[object, list[Layer]] = defaultdict(list)
            for layer in level:
                alike[met[layer.value.name].key].append(layer)
            for group in alike.values():
                self._measure(flows, met[group[0].value.name], group)
                yield from group
                for layer in group:
                    self._statistics.pop(layer.value.name, None)

    def _measure(self, flows: Sequence[Flow], found: Meeting, layers: Sequence[Layer]) -> None:
        statistic = self.statistic(found)
        if isinstance(statistic, str):
            self.told.update((layer.value.name, Told(f"by magnitude: {statistic}")) for layer in layers)
            return
        for rows in zip(*(self._rows(flow, found) for flow in flows), strict=True):
            statistic.add(*rows)
        self._statistics.update((layer.value.name, statistic) for layer in layers)

    def _measure_shared(
        self, graph: Graph, met: Mapping[str, Sequence[Meeting]], depth: Mapping[Value, int], say: Say
    ) -> None:
        """Weights that are read in several places: their data are those of the model as it was."""
        if not met:
            return
        say("running the calibration data for shared weights")
        for name, found in met.items():
            statistic = self.statistic(found[0])
            if isinstance(statistic, str):
                self.told[name] = Told(f"by magnitude: {statistic}")
            else:
                self._statistics[name] = statistic
        levels: dict[int, list[tuple[str, Meeting]]] = defaultdict(list)
        for name in self._statistics:
            for one in {m.key: m for m in met[name]}.values():
                levels[depth[one.value]].append((name, one))
        order = [levels[level] for level in sorted(levels)]
        flow = Flow(graph, self.samples, [list(dict.fromkeys(m.value for _, m in level)) for level in order])
        for level in order:
            flow.advance()
            for name, one in level:
                for rows in self._rows(flow, one):
                    self._statistics[name].add(rows)

    def _rows(self, flow: Flow, found: Meeting) -> Iterator[Array]:
        """What is met in all batches, some thousand rows at a time: large products keep processors busy."""
        held: list[Array] = []
        for data in flow.values(found.value):
            held.append(found.rows(data, len(self.samples.batches)))
            if sum(rows.size for rows in held) >= _ELEMENTS:
                yield np.concatenate(held, axis=1)
                held = []
        if held:
            yield np.concatenate(held, axis=1)

    def _met(self, layer: Layer, depth: Mapping[Value, int]) -> list[Meeting]:
        """What the layer meets, as far as that can be seen; what is not seen is told."""
        found = [meeting(layer, read) for read in layer.reads]
        why = next((m for m in found if isinstance(m, str)), "")
        seen = [m for m in found if isinstance(m, Meeting) and m.value in depth]
        if not seen:
            why = why or f"what it is multiplied with is a constant or lies in a body, before {layer.node.op}"
            self.told[layer.value.name] = Told(f"by magnitude: {why}")
        return seen


def _of_copy(graph: Graph, samples: Samples, taps: Sequence[Sequence[Value]]) -> Flow:
    """The data on their way through the graph as it is now, whatever becomes of its weights."""
    twin = graph.copy()
    known = {value.name: value for value in twin.values()}
    return Flow(twin, samples, [[known[value.name] for value in group] for group in taps])


def _twins(graph: Graph, layers: Sequence[Layer]) -> dict[str, Layer]:
    """The same layers in a copy of their graph."""
    found = {layer.value.name: layer for layer in find_layers(graph)[0]}
    return {layer.value.name: replace(found[layer.value.name]) for layer in layers}


def layer_depths(graph: Graph, layers: Sequence[Layer]) -> dict[Value, int]:
    """How many of the layers lie, at most, one after the other before each computed value."""
    readers = {read.node for layer in layers for read in layer.reads}
    found = dict.fromkeys(graph.inputs, 0)
    for node in graph.nodes:
        before = max((found[value] for value in node.reads() if value in found), default=0)
        found.update(dict.fromkeys(node.outputs, before + any(inner in readers for inner in _inside(node))))
    return found


def _inside(node: Node) -> Iterator[Node]:
    yield node
    for body in node.bodies:
        yield from body.flat_nodes
