"""Running a model part by part, each part for all inputs before the next, so that few of its weights are in memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from graphprune.frontends.chance import Full, Left
from graphprune.ir.graph import Graph, Node, Value
from graphprune.ops.base import Array

from .running import Progress
from .samples import Flow, Samples

#: Bytes of weights in a part: as many, or a single operator's, or the largest weight's, whichever is most.
_MOST_BYTES = 1 << 24


class Piecewise:
    """Runs an ONNX graph whose weights lie in files."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph

    def __call__(self, feed: Mapping[str, Array]) -> Sequence[Array]:
        """All outputs in order."""
        return self.together([feed], None)[0]

    def together(self, feeds: Sequence[Any], progress: Progress | None) -> Sequence[Sequence[Array]]:
        """What it returns for each of several inputs; `progress` is told the part that is done."""
        groups = ends_of_parts(self._graph)
        batches = [dict(feed) for feed in feeds]
        flow = Flow(self._graph, Samples(batches, len(feeds)), groups, Left(Full()))
        for number in range(len(groups)):
            flow.advance()
            if progress is not None:
                progress((number + 1) / len(groups))
        columns = [self._all(flow, value, len(feeds)) for value in self._graph.outputs]
        return [list(row) for row in zip(*columns, strict=True)]

    def _all(self, flow: Flow, value: Value, count: int) -> list[Array]:
        return [value.weight.array()] * count if value.weight is not None else list(flow.values(value))


def ends_of_parts(graph: Graph, limit: int | None = None) -> list[list[Value]]:
    """For each part of a graph the values that later parts, or the caller, read."""
    parts = list(_parts(_needed(graph), _MOST_BYTES if limit is None else limit))
    place = {value: number for number, part in enumerate(parts) for node in part for value in node.outputs}
    ends: list[list[Value]] = [[] for _ in parts]
    for value, readers in _readers(parts).items():
        if value in place and max(readers) > place[value]:
            ends[place[value]].append(value)
    computed = [value for value in dict.fromkeys(graph.outputs) if value.weight is None]
    return [*ends[:-1], computed]  # the last part makes nothing else that is read


def _needed(graph: Graph) -> list[Node]:
    """The nodes that the outputs depend on."""
    wanted, found = set(graph.outputs), []
    for node in reversed(graph.nodes):
        if wanted.intersection(node.outputs):
            wanted.update(node.reads())
            found.append(node)
    return found[::-1]


def _parts(nodes: Sequence[Node], limit: int) -> Iterator[list[Node]]:
    """Neighbours that read at most so many bytes of weights together."""
    sizes = [sum(v.weight.stored_bytes for v in dict.fromkeys(n.reads()) if v.weight is not None) for n in nodes]
    limit, part, held = max([limit, *sizes]), list[Node](), 0
    for node, size in zip(nodes, sizes, strict=True):
        if part and held + size > limit:
            yield part
            part, held = [], 0
        part.append(node)
        held += size
    yield part


def _readers(parts: Sequence[Sequence[Node]]) -> dict[Value, list[int]]:
    """The parts that read each value."""
    found: dict[Value, list[int]] = {}
    for number, part in enumerate(parts):
        for node in part:
            for value in node.reads():
                found.setdefault(value, []).append(number)
    return found
