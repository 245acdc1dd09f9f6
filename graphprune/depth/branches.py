"""Residual branches: an addition of a value and of something computed from that value alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass

from graphprune.ir.graph import Node, Value
from graphprune.ops import lookup

from .structure import idle
from .wiring import TooMuchError, Wiring, read, weights_of

_ADDS = frozenset({"add", "sum"})
_LAYOUT = frozenset({"reshape", "transpose"})
_SCALES = frozenset({"mul", "div"})
# Operands of one sum that are looked through for the value that is skipped to the end.
_DEPTH = 8


@dataclass(frozen=True)
class Branch:
    """Operand `slot` of the addition at `add` is computed by `region` from `source`; `root` is the whole sum's end."""

    add: int
    slot: int
    source: Value
    root: int
    region: frozenset[int]


def find_branches(wiring: Wiring) -> list[Branch]:
    """All of them, in the order of their additions."""
    finder = _Finder(wiring)
    found: dict[tuple[int, int], Branch] = {}
    wiring.refill()
    with suppress(TooMuchError):
        for at, node in enumerate(wiring.nodes):
            if wiring.live[at] and is_sum(node):
                found.update(((b.add, b.slot), b) for b in finder.at(at))
    return [found[key] for key in sorted(found)]


def is_sum(node: Node) -> bool:
    """Whether a node adds tensors, each as it is, and nothing else."""
    several = len(node.inputs) > 1 and len(node.outputs) == 1
    return several and node.kind == "elementwise" and node.attrs["fn"] in _ADDS and not node.attrs.get("scalars")


class _Finder:
    def __init__(self, wiring: Wiring) -> None:
        self._wiring = wiring
        self._all: dict[tuple[Value, int], set[int]] = {}

    def at(self, at: int) -> Iterator[Branch]:
        """Branches among the operands of one addition."""
        operands = list(self._operands(at))
        root = self._root(at)
        for slot, branch in operands:
            skips = [x for other, skip in operands if other != slot for x in self._skipped(skip, _DEPTH)]
            found = self._branch(at, slot, branch, dict.fromkeys(skips), root)
            if found is not None:
                yield from self._split(found) or [found]

    def _operands(self, at: int) -> Iterator[tuple[int, Value]]:
        """Operands that could take the place of the result."""
        node = self._wiring.nodes[at]
        for slot, value in enumerate(node.inputs):
            if value is not None and value.weight is None and alike(value, node.outputs[0]):
                yield slot, value

    def _root(self, at: int) -> int:
        """The last of a chain of additions of which each alone reads the one before."""
        while True:
            (result,) = self._wiring.nodes[at].outputs
            readers = self._wiring.readers.get(result, [])
            if self._wiring.uses(result) != 1 or not readers or not is_sum(self._wiring.nodes[readers[0]]):
                return at
            self._wiring.spend(1)
            at = readers[0]

    def _skipped(self, value: Value, depth: int) -> Iterator[Value]:
        """What an operand is, up to steps that compute nothing; where it is a sum of its own, its operands likewise."""
        wiring = self._wiring
        while True:
            if wiring.uses(value) > 1:
                yield value
            maker = wiring.made.get(value)
            if maker is None:
                return
            node = wiring.nodes[maker]
            if is_sum(node) and wiring.uses(value) == 1 and depth:
                for inner in read(node):
                    yield from self._skipped(inner, depth - 1)
                return
            if not _transparent(node):
                return
            value = read(node)[0]

    def _branch(self, at: int, slot: int, value: Value, skips: dict[Value, None], root: int) -> Branch | None:
        """The branch that computes an operand, if it starts at one of the values skipped to the addition."""
        wiring = self._wiring
        if not skips:
            return None
        region = wiring.without([value])
        if not bears([wiring.nodes[n] for n in region]):
            return None
        for source in skips:
            made = wiring.made.get(source)
            if made not in region and self._starts(source, region, root) and not wiring.starves(region, source):
                return Branch(at, slot, source, root, frozenset(region))
        return None

    def _starts(self, source: Value, region: set[int], root: int) -> bool:
        """Whether the region is computed from the source: read there, or in steps that all branches of a sum share."""
        wiring = self._wiring
        entering = list(wiring.entering(region))
        whole: set[int] = set()
        if source not in entering:
            whole = self.between(source, root)
            if not any(wiring.made.get(v) in whole for v in entering):
                return False
        return not wiring.leaks(source, region | whole, root)

    def between(self, source: Value, root: int) -> set[int]:
        """All that dies when a whole sum becomes the value it starts from."""
        if (source, root) not in self._all:
            self._all[source, root] = self._wiring.bypass(source, self._wiring.nodes[root].outputs[0])
        return self._all[source, root]

    def _split(self, whole: Branch) -> list[Branch]:
        """The parts of a branch that is itself a sum of branches: attention and MLP side by side."""
        wiring = self._wiring
        value = wiring.nodes[whole.add].inputs[whole.slot]
        at = None if value is None else wiring.made.get(value)
        if at is None or not is_sum(wiring.nodes[at]) or at not in whole.region:
            return []
        parts: list[Branch] = []
        for slot, operand in self._operands(at):
            part = self._branch(at, slot, operand, {whole.source: None}, whole.root)
            if part is not None:
                parts += self._split(part) or [part]
        return parts if len(parts) >= len(wiring.nodes[at].inputs) else []


def alike(one: Value, other: Value) -> bool:
    """Whether one value can stand in for another."""
    same = one.shape is not None and one.shape == other.shape
    return same and one.dtype == other.dtype and one.dynamic == other.dynamic


def _transparent(node: Node) -> bool:
    """Whether a node hands on its only operand: as it is, laid out otherwise, or times a number."""
    if len(read(node)) != 1 or len(node.outputs) != 1:
        return False
    if node.kind in _LAYOUT:
        return True
    scales = node.kind == "elementwise" and node.attrs["fn"] in _SCALES
    return idle(node) or (scales and all(v is None or v.weight is None or not v.shape for v in node.inputs))


def bears(nodes: Sequence[Node]) -> bool:
    """Whether something is multiplied by a weight that training made: in a convolution, a matrix product, a recurrent
    layer, of which other steps may make the weight (its direction times its length).
    """
    weights = [v.weight for node in nodes if node.kind != "gather" for v in weights_of(node) if v.weight]
    trained = any(w.trainable and len(w.shape) > 1 for w in weights)
    return trained and any(lookup(node.kind).bears and node.kind != "gather" for node in nodes)
