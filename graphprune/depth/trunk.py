"""Repeated blocks: the model as a path of steps from one value to the next, and the repetitions along it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from graphprune.ir.graph import Value

from .branches import Branch, alike
from .naming import block_name, common, sibling, stem
from .structure import digest, idle
from .wiring import TooMuchError, Wiring, weights_of

#: Steps of one repeated block, at most.
_PERIOD = 64


@dataclass(frozen=True, eq=False)
class Step:
    """All of the model from one value to the next: a residual sum with its branches, or what lies up to a join."""

    source: Value
    target: Value
    region: frozenset[int]
    residual: bool
    structure: str


def find_units(wiring: Wiring, branches: Sequence[Branch]) -> list[list[Step]]:
    """Runs of steps that come several times in a row, built alike, from a value to one of the same shape."""
    wiring.refill()
    paths = _Paths(wiring, branches)
    starts = [b.source for b in branches] + wiring.graph.inputs
    return [unit for path in paths.follow(starts) for unit in _repeated(wiring, path)]


class _Paths:
    """Follows steps from value to value."""

    def __init__(self, wiring: Wiring, branches: Sequence[Branch]) -> None:
        self._wiring = wiring
        self._sums = {b.source: wiring.nodes[b.root].outputs[0] for b in sorted(branches, key=lambda b: -b.root)}
        self._ends = set(self._sums.values())
        self._seen: set[Value] = set()

    def follow(self, starts: Iterable[Value]) -> list[list[Step]]:
        """A path from each start that no path before has come through."""
        found = []
        for start in starts:
            path: list[Step] = []
            value: Value | None = start
            while value is not None and value not in self._seen:
                self._seen.add(value)
                step = self._step(value)
                value = None if step is None else step.target
                path += [step] if step is not None else []
            found.append(path)
        return found

    def _step(self, source: Value) -> Step | None:
        wiring = self._wiring
        try:
            target = self._sums.get(source) or self._join(source)
            if target is None:
                return None
            region = wiring.bypass(source, target)
        except TooMuchError:
            return None
        structure = digest((wiring.nodes[n] for n in sorted(region)), source)
        return Step(source, target, frozenset(region), source in self._sums, structure) if region else None

    def _join(self, source: Value) -> Value | None:
        """Where all paths meet, unless that is the end of another residual sum: an encoder that meets a decoder."""
        found = self._wiring.join(source)
        return None if found in self._ends else found


def _repeated(wiring: Wiring, path: list[Step]) -> list[list[Step]]:
    """Cut a path into the units that come at least twice in a row; the rest is left out.

    Steps that compute nothing are passed over: exporters put some of them here and not there.
    """
    path = [step for step in path if not all(idle(wiring.nodes[n]) for n in step.region)]
    tokens = np.unique([step.structure for step in path], return_inverse=True)[1] if path else np.zeros(0, int)
    runs = _runs(tokens)
    units: list[list[Step]] = []
    at = 0
    while at < len(path):
        covered = [(int(length[at]), -period) for period, length in runs.items() if at < len(length) and length[at]]
        covered = [(length - period, period) for length, period in covered if length >= -period]
        if not covered:
            at += 1
            continue
        length, period = max(covered)
        units += _aligned(wiring, path[at : at + length], -period)
        at += length
    return units


def _runs(tokens: np.ndarray) -> dict[int, np.ndarray]:
    """For each period and position: how many steps from there on equal the step one period later."""
    found = {}
    for period in range(1, min(_PERIOD, len(tokens) // 2) + 1):
        same = tokens[:-period] == tokens[period:]
        breaks = np.where(same, len(same), np.arange(len(same)))
        found[period] = np.minimum.accumulate(breaks[::-1])[::-1] - np.arange(len(same))
    return found


def _aligned(wiring: Wiring, run: list[Step], period: int) -> list[list[Step]]:
    """The units of a run: as many as fit, beginning where names agree best, else at a residual sum or at weights."""

    def quality(offset: int) -> tuple[int, int, bool, bool, int]:
        units, first = _cut(run, offset, period), run[offset]
        depth = sum(len(name_of(wiring, unit).replace("/", ".").split(".")) for unit in units)
        return len(units), depth, first.residual, bool(weight_names(wiring, [first])), -offset

    units = _cut(run, max(range(min(period, len(run))), key=quality), period)
    if len({common(weight_names(wiring, unit)) for unit in units}) == 1:
        units = [part for unit in units for part in _numbered(wiring, unit)]
    return [unit for unit in units if alike(unit[0].source, unit[-1].target) and _useful(wiring, unit)]


def _cut(run: list[Step], offset: int, period: int) -> list[list[Step]]:
    return [run[at : at + period] for at in range(offset, len(run) - period + 1, period)]


def name_of(wiring: Wiring, unit: Iterable[Step]) -> str:
    """What the nodes of some steps are called."""
    region = {n for step in unit for n in step.region}
    nodes = [wiring.nodes[n] for n in sorted(region)]
    values = dict.fromkeys(v for node in nodes for v in weights_of(node))
    own = [v for v in values if region.issuperset(wiring.weight_readers(v))]
    return block_name(nodes, [v for v in own if v.weight is not None and v.weight.trainable])


def _useful(wiring: Wiring, unit: list[Step]) -> bool:
    """A run of activations or the like is no block: it has to have weights."""
    return bool(weight_names(wiring, unit))


def weight_names(wiring: Wiring, unit: Iterable[Step]) -> list[str]:
    """The matrices that the nodes of some steps read."""
    nodes = (wiring.nodes[n] for step in unit for n in sorted(step.region))
    values = (v for node in nodes for v in weights_of(node))
    return [v.shown for v in values if v.weight is not None and v.weight.trainable and len(v.weight.shape) > 1]


def _numbered(wiring: Wiring, unit: list[Step]) -> list[list[Step]]:
    """A unit that spans several of the numbered siblings that all units lie in (layers of two kinds in turns), cut
    into these.
    """
    prefix = common(weight_names(wiring, unit))
    labels: list[str] = []
    for step in unit:
        parts = {sibling(prefix, name) for name in weight_names(wiring, [step])}
        if len(parts) > 1 or None in parts:
            return [unit]
        labels.append(next((p for p in parts if p is not None), labels[-1] if labels else ""))
    cuts = [at for at in range(1, len(unit)) if labels[at] != labels[at - 1]]
    distinct = len(set(labels)) == len(cuts) + 1 and len({stem(label) for label in labels}) == 1
    values = [unit[0].source, *(unit[at].source for at in cuts), unit[-1].target]
    if not cuts or not distinct or not all(alike(a, b) for a, b in pairwise(values)):
        return [unit]
    return [unit[a:b] for a, b in zip([0, *cuts], [*cuts, len(unit)], strict=True)]
