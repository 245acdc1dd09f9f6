"""Who makes and who reads each value, and what dies when a reader goes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from heapq import heappop, heappush

from graphprune.ir.graph import Graph, Node, Value

#: How often each node may be looked at (on average) for regions that lie in one another, so that the search stays
#: linear; what would need more is left alone.
_VISITS = 32
#: Nodes between a value and the one all its paths join in; beyond that it is no layer.
_LAYER = 4096


class TooMuchError(Exception):
    """The search has used up its visits."""


class Wiring:
    """A graph's live nodes by position in its order: those that some output (or the model's state) depends on."""

    def __init__(self, graph: Graph, *, stateful: bool = True) -> None:
        self.graph = graph
        self.nodes = graph.nodes
        self.outputs = set(graph.outputs)
        self.inputs = set(graph.inputs)
        self.made: dict[Value, int] = {v: at for at, node in enumerate(self.nodes) for v in node.outputs}
        self._stateful = stateful
        self.live = self._alive()
        self.readers: dict[Value, list[int]] = {}
        self._weight_readers: dict[Value, set[int]] = {}
        for at, node in enumerate(self.nodes):
            if self.live[at]:
                for value in read(node):
                    self.readers.setdefault(value, []).append(at)
                for weight in weights_of(node):
                    self._weight_readers.setdefault(weight, set()).add(at)
        self.refill()

    def _alive(self) -> list[bool]:
        live, needed = [False] * len(self.nodes), set(self.outputs)
        for at in range(len(self.nodes) - 1, -1, -1):
            node = self.nodes[at]
            if self.stays(node) or not needed.isdisjoint(node.outputs):
                live[at] = True
                needed.update(read(node))
        return live

    def stays(self, node: Node) -> bool:
        """Whether a node does more than make its outputs: it writes to the model's state."""
        if node.attrs.get("writes"):
            return True
        tracks = node.kind == "batch_norm" and node.attrs.get("training") and self._stateful
        return bool(tracks) and any(v is not None for v in node.inputs[3:])

    def uses(self, value: Value) -> int:
        """How often a value is read, as an output of the model too."""
        return len(self.readers.get(value, ())) + (value in self.outputs)

    def weight_readers(self, weight: Value) -> set[int]:
        """The live nodes that read a weight; a weight that is an output of the model is also read at the end."""
        return self._weight_readers.get(weight, set()) | ({len(self.nodes)} if weight in self.outputs else set())

    def without(self, cuts: Iterable[Value]) -> set[int]:
        """The nodes that die when one read of each of these values goes."""
        return self._dying(list(cuts), set(), None)

    def bypass(self, source: Value, target: Value) -> set[int]:
        """The nodes that die when `source` takes the place of `target`."""
        maker = self.made[target]
        if any(self.uses(v) for v in self.nodes[maker].outputs if v is not target):
            return set()
        return self._dying(list(read(self.nodes[maker])), {maker}, source)

    def _dying(self, queue: list[Value], dead: set[int], kept: Value | None) -> set[int]:
        gone: Counter[Value] = Counter()
        while queue:
            value = queue.pop()
            gone[value] += 1
            maker = self.made.get(value)
            if maker is None or maker in dead or value is kept:
                continue
            node = self.nodes[maker]
            if self.stays(node) or any(gone[v] < self.uses(v) for v in node.outputs):
                continue
            dead.add(maker)
            queue.extend(read(node))
            self.spend(1)
        return dead

    def entering(self, region: set[int]) -> Iterator[Value]:
        """Values made elsewhere (no weights) that a set of nodes reads, each once."""
        seen = set()
        for at in sorted(region):
            for value in read(self.nodes[at]):
                if value not in seen and self.made.get(value) not in region:
                    seen.add(value)
                    yield value

    def starves(self, region: set[int], source: Value) -> bool:
        """Whether some input of the model is read by these nodes only."""
        return any(
            v in self.inputs and v is not source and v not in self.outputs and region.issuperset(self.readers[v])
            for v in self.entering(region)
        )

    def leaks(self, source: Value, region: set[int], end: int) -> bool:
        """Whether the region reads something computed from `source` that others, too, read: not all goes with it."""
        wanted = {v for v in self.entering(region) if v is not source}
        seen = {at for at in self.readers.get(source, ()) if at not in region and at < end}
        queue = list(seen)
        while queue:
            at = queue.pop()
            self.spend(1)
            for value in self.nodes[at].outputs:
                if value in wanted:
                    return True
                fresh = {r for r in self.readers.get(value, ()) if r < end and r not in region and r not in seen}
                seen |= fresh
                queue.extend(fresh)
        return False

    def join(self, source: Value) -> Value | None:
        """The first value that everything computed from `source` has to pass; None where there is none nearby."""
        left = {source: len(self.readers.get(source, ()))}
        heap = sorted(set(self.readers.get(source, ())))
        seen = set(heap)
        while heap and len(seen) < _LAYER:
            at = heappop(heap)
            self.spend(1)
            node = self.nodes[at]
            if self.stays(node):
                return None
            for value in read(node):
                if value in left:
                    left[value] -= 1
                    if not left[value]:
                        del left[value]
            for value in node.outputs:
                if self.uses(value):
                    left[value] = self.uses(value)
                for reader in set(self.readers.get(value, ())) - seen:
                    seen.add(reader)
                    heappush(heap, reader)
            if len(left) == 1:
                (found,) = left
                return found if found is not source else None
        return None

    def refill(self) -> None:
        """Begin to count visits anew."""
        self._visits = _VISITS * len(self.nodes) + _LAYER

    def spend(self, visits: int) -> None:
        """Count visits; raises TooMuchError where there have been too many."""
        self._visits -= visits
        if self._visits < 0:
            raise TooMuchError


def read(node: Node) -> list[Value]:
    """The values that a node (or a body of it) reads, weights left out; one that it reads twice is listed twice."""
    return [value for value in node.reads() if value.weight is None]


def weights_of(node: Node) -> list[Value]:
    """The weights that a node or a body of it reads."""
    return [value for value in node.reads() if value.weight is not None]
