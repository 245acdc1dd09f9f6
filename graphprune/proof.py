"""Proof: the pruned model must compute what the original computes with the removed indices masked.

The original is run with zeros put in after every operator wherever an index was removed, and with statistics taken over
the kept indices only. This uses the coupling's labels, but nothing of the rewriter: a wrong slice, a wrong size or a
wrong label shows as a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import numpy as np

from . import depth, frontends
from .coupling import Coupling
from .drawing import draws
from .errors import UnsupportedError
from .feeds import random_inputs
from .frontends.chance import Draws
from .graph import Graph, Value, Weight
from .kept import kept_rows
from .masking import take_out, treatment
from .ops.base import Array
from .piecewise import Piecewise
from .running import Runner, other_runner, rounds, runner, together, wide_runner, wide_type

#: Largest difference allowed, in units of how much an output varies with the input, by the narrowest float type in use.
TOLERANCES = {"float64": 1e-3, "float32": 1e-3, "float16": 5e-2, "bfloat16": 2e-1}

#: The same where values are rounded to integers of few bits: a float rounding may then decide between two steps.
STEPS = 2e-2

#: What fails is run again in a wider float type, where no more than this is allowed.
WIDE = {"float64": 1e-6, "float32": TOLERANCES["float32"]}

#: A difference is forgiven if it is at most this many times what rounding the inputs does to the reference itself.
ROUNDING = 10.0
#: A module among several that differs by more than this many times as much is not worth a look in a wider type.
HOPELESS = 100.0
_ROUNDINGS = {"float64": 1e-15, "float32": 1e-6, "float16": 4e-3, "bfloat16": 3e-2}

#: Bytes of a weight that are looked at together.
_LOOK = 1 << 24

#: Differences are measured in units of an output's variation over inputs, but at least this part of its spread:
#: below lies float noise.
STEADY = 1e-2


@dataclass(frozen=True)
class Proof:
    """The outcome. `max_error` is in units of how much each reference output varies; `against` says what that is."""

    passed: bool
    max_error: float
    tolerance: float
    inputs: int
    exact_groups: int
    renormalizing_groups: int
    detail: str = ""
    against: str = "the masked original"


class Reference:
    """What the masked original computes on random inputs, for comparing any number of candidates with it.

    Where the original as a graph with masked weights is given (`masked`), that and the candidates, graphs as well, run
    part by part: their weights lie in files.
    """

    def __init__(
        self,
        coupling: Coupling,
        keep: Array,
        *,
        inputs: int = 3,
        seed: int = 0,
        without: Sequence[depth.Block] = (),
        masks: Mapping[str, Array] | None = None,
        progress: Callable[[str], None] | None = None,
        masked: Graph | None = None,
    ) -> None:
        graph = self._graph = coupling.graph
        self._progress = progress
        self._draws = draws(coupling, keep, without)
        instrumented = partial(_instrumented, coupling, keep, without, masks or {}, self._draws)
        self._model = masked if masked is not None else instrumented()
        self._alive = keep[coupling.component]
        renumbered = {v for table in coupling.tables for v, _ in table.outputs}
        ends = (*graph.inputs, *graph.outputs)
        self._blocks = {v: coupling.blocks.get(v, ()) for v in ends if v.follows or v in renumbered}
        self._ids = {v.name: ids for table, ids in kept_rows(coupling, keep) for v in table.inputs}
        self._feeds = [self._within(random_inputs(graph, seed + i)) for i in range(inputs)]
        self._start: Callable[[Any], Runner] = partial(runner, graph, script=self._draws.left)
        if masked is not None:
            self._start = Piecewise
        self._note = ""
        self._wide: dict[int, list[Array]] = {}
        try:
            self._run = runner(graph, self._model, self._draws.full) if masked is None else Piecewise(self._model)
            self._expected = self._original(self._feeds, self._tell("the masked original"))
        except UnsupportedError as error:
            if masked is not None:
                raise
            self._run, self._start, self._note = other_runner(
                graph, self._model, self._feeds[0], error, self._draws.left
            )
            self._expected = self._original(self._feeds)
        touched = [g for g in coupling.groups if not keep[g.components].all()]
        self._exact = sum(g.exact for g in touched)
        self._renormalizing = len(touched) - self._exact

    def compare(self, pruned: Any) -> Proof:
        """Run a foreign model (`ModelProto`, path or `nn.Module`) on the same inputs; raises what running it raises."""
        return self._compare(pruned, [])

    def _compare(self, pruned: Any, first: Sequence[list[Array]]) -> Proof:
        """`first` is what the model returned for the first inputs, where it ran on them already."""
        tolerance = _tolerance(self._graph)
        candidate = self._start(pruned)
        feeds = [self._cut_inputs(feed) for feed in self._feeds[len(first) :]]
        found = [*first, *([*made] for made in together(candidate, feeds, self._tell("the pruned model")))]
        worst, detail = _largest_difference(self._expected, found)
        if tolerance < worst <= STEPS and rounds(self._graph):
            tolerance = STEPS
            detail = f"the model rounds to integers of few bits, so that differences up to {STEPS:.2g} are allowed"
        if tolerance < worst < float("inf"):
            worst, tolerance, detail = self._second_look(pruned, found, worst, tolerance, detail)
        passed = worst <= tolerance
        for note in filter(None, (self._note, "" if passed else self._draws.left.beside)):
            detail = f"{detail or ('' if passed else f'results differ by {worst:.2g}')}; {note}".removeprefix("; ")
        return Proof(passed, worst, tolerance, len(self._feeds), self._exact, self._renormalizing, detail)

    def _second_look(
        self, pruned: Any, found: Sequence[list[Array]], worst: float, tolerance: float, detail: str
    ) -> tuple[float, float, str]:
        """Whether a difference is rounding: both run in a wider float type, where there is one, decide by themselves.

        Only on inputs where they differ, where most first, up to one where they differ there as well. Else the
        difference is compared with what rounding the inputs does to the reference.
        """
        gaps = [self._gap_at(at, made) for at, made in enumerate(found)]
        doubtful = [at for at in range(len(gaps)) if gaps[at] > tolerance]
        wide = self._wide_difference(pruned, sorted(doubtful, key=lambda at: -gaps[at]), tolerance)
        kind = wide_type(self._graph)
        if wide is not None and not WIDE[kind] < wide <= tolerance:
            same = f"in {kind} they differ by {wide:.2g}"
            return wide, WIDE[kind], f"results differ by {worst:.2g} in the model's own float type; {same}"
        rounding, _ = _largest_difference(self._expected, self._shaken)
        if worst <= ROUNDING * rounding:
            tolerance = ROUNDING * rounding
            shift = f"rounding its inputs alone changes its outputs by {rounding:.2g}"
            detail = f"the model is ill-conditioned: {shift}"
        return worst, tolerance, detail

    def _gap_at(self, at: int, found: list[Array]) -> float:
        """How much results for one input differ."""
        return _largest_difference([self._expected[at]], [found], self._expected)[0]

    def _wide_difference(self, pruned: Any, which: Sequence[int], tolerance: float) -> float | None:
        """The largest difference in the wider type for some inputs, up to the first beyond the tolerance; None where
        there is no such type, or it cannot be run.
        """
        if not wide_type(self._graph):
            return None
        worst = 0.0
        try:
            candidate = wide_runner(self._graph, pruned, self._draws.left)
            for at in which:
                expected, found = self._wide_expected(at), list(candidate(self._cut_inputs(self._feeds[at])))
                worst = max(worst, _largest_difference([expected], [found], self._expected)[0])
                if worst > tolerance:
                    break
        except Exception:  # an operator without a kernel for it, or types that are written down
            return None
        return worst

    def _wide_expected(self, at: int) -> list[Array]:
        if at not in self._wide:
            self._wide[at] = self._cut_outputs(self._wide_original(self._feeds[at]))
        return self._wide[at]

    @cached_property
    def _wide_original(self) -> Runner:
        return wide_runner(self._graph, self._model, self._draws.full)

    def _tell(self, what: str) -> Callable[[float], None] | None:
        """Says how far a run of a model is."""
        told = self._progress
        return None if told is None else lambda part: told(f"verifying: {what}, {part:.0%}")

    @cached_property
    def _rounding(self) -> float:
        """What rounding the first input does to the reference."""
        return self._gap_at(0, self._original([_shaken(self._feeds[0])])[0])

    @cached_property
    def _shaken(self) -> list[list[Array]]:
        return self._original([_shaken(feed) for feed in self._feeds])

    def _original(self, feeds: Sequence[Any], progress: Callable[[float], None] | None = None) -> list[list[Array]]:
        return [self._cut_outputs(found) for found in together(self._run, feeds, progress)]

    def _cut(self, value: Value, array: Array) -> Array:
        """What is left of an input or output on axes that follow (see `Value.follows`)."""
        for block in self._blocks.get(value, ()):
            if not block.joint:
                array = array.compress(self._alive[block.labels], axis=block.axes[0])
        return array

    def _within(self, feed: Any) -> Any:
        """Inputs whose ids are among those that stay."""
        change = {name: partial(_pick, ids) for name, ids in self._ids.items()}
        return self._changed(feed, change) if change else feed

    def _cut_inputs(self, feed: Any) -> Any:
        """Inputs as the pruned model takes them."""
        change: dict[str, Callable[[Array], Array]] = {n: partial(_renumber, ids) for n, ids in self._ids.items()}
        change.update({v.name: partial(self._cut, v) for v in self._graph.inputs if v in self._blocks})
        return self._changed(feed, change) if change else feed

    def _changed(self, feed: Any, change: Mapping[str, Callable[[Array], Array]]) -> Any:
        if self._graph.frontend != "onnx":
            return frontends.of(self._graph).change_inputs(self._graph, feed, change)
        return {name: change[name](array) if name in change else array for name, array in feed.items()}

    def _cut_outputs(self, arrays: Sequence[Array]) -> list[Array]:
        return (
            [self._cut(v, a) for v, a in zip(self._graph.outputs, arrays, strict=True)] if self._blocks else [*arrays]
        )

    def problem(self, pruned: Any) -> str:
        """What is wrong with a foreign model; empty if nothing is."""
        try:
            first, wrong = self._first_look(pruned)
            if wrong:
                return wrong
            proof = self._compare(pruned, first)
        except Exception as error:
            return str(error).partition("\n")[0] or type(error).__name__
        return "" if proof.passed else proof.detail or f"results differ by {proof.max_error:.2g}"

    def _first_look(self, pruned: Any) -> tuple[list[list[Array]], str]:
        """What a module returns for the first input, and what is wrong with it where that is no rounding: many modules
        may be tried, and most need no more than this.
        """
        if self._graph.frontend != "torch" or rounds(self._graph):
            return [], ""
        found, tolerance = list(self._start(pruned)(self._cut_inputs(self._feeds[0]))), _tolerance(self._graph)
        error, detail = _largest_difference(self._expected[:1], [found], self._expected)
        if tolerance < error < float("inf"):
            if error <= HOPELESS * self._rounding:
                error = self._wide_difference(pruned, [0], tolerance) or 0.0
            detail = f"results differ by {error:.2g}"
        return [found], detail if error > tolerance else ""


def _instrumented(
    coupling: Coupling, keep: Array, without: Sequence[depth.Block], masks: Mapping[str, Array], draws: Draws
) -> Any:
    """The masked original, of the caller's kind."""
    treated = treatment(coupling, keep)
    treated.draws = draws
    take_out(treated, without)
    for name, mask in masks.items():
        treated.masks.setdefault(name, []).append(mask)
    return frontends.of(coupling.graph).instrument(coupling.graph, treated)


def _pick(kept: Array, ids: Array) -> Array:
    return kept[ids % len(kept)].astype(ids.dtype)


def _renumber(kept: Array, ids: Array) -> Array:
    return np.searchsorted(kept, ids).astype(ids.dtype)


def verify(
    coupling: Coupling,
    keep: Array,
    pruned: Any,
    *,
    inputs: int = 3,
    seed: int = 0,
    without: Sequence[depth.Block] = (),
    masks: Mapping[str, Array] | None = None,
) -> Proof:
    """Compare a foreign model (`ModelProto`, path or `nn.Module`) with the masked original on random inputs.

    `without` are blocks of the original that are taken out of it as well, `masks` say by name which entries of its
    weights stay.
    """
    return Reference(coupling, keep, inputs=inputs, seed=seed, without=without, masks=masks).compare(pruned)


@contextmanager
def livened(graph: Graph) -> Iterator[bool]:
    """Fill matrices that are all zero (fresh heads, adapters) at random while this lasts; yield whether there are any.

    A zero matrix hides everything before it: whatever was done there, the outputs agree.
    """
    generator = np.random.default_rng(0)
    before = {v: v.weight for v in graph.weights().values() if v.weight is not None and _is_zero_matrix(v.weight)}
    for value, weight in before.items():
        filled = (0.02 * generator.standard_normal(weight.shape)).astype(weight.dtype)
        value.weight = Weight.of(filled, trainable=weight.trainable, tied=weight.tied)
    try:
        yield bool(before)
    finally:
        for value, weight in before.items():
            value.weight = weight


def _is_zero_matrix(weight: Weight) -> bool:
    if not (weight.plain and weight.trainable and len(weight.shape) > 1):
        return False
    return not any(rows.any() for rows in weight.by_rows(weight.rows_in(_LOOK)))


def _largest_difference(
    expected: list[list[Array]], found: list[list[Array]], runs: list[list[Array]] | None = None
) -> tuple[float, str]:
    """Largest difference over all runs and outputs, each in units of how much that output varies (over `runs`, where
    those given are not all); infinite where shapes differ. An output that hardly depends on the input proves little:
    the returned sentence says so.
    """
    worst, detail = 0.0, ""
    for outputs, candidates in zip(expected, found, strict=True):
        if len(outputs) != len(candidates):
            return float("inf"), f"{len(candidates)} outputs instead of {len(outputs)}"
    for i in range(len(expected[0])):
        wants, haves = [run[i] for run in expected], [run[i] for run in found]
        unit, steady = _unit(wants if runs is None else [run[i] for run in runs])
        if steady:
            detail = f"output {i} hardly depends on the input, so this proves little"
        for want, have in zip(wants, haves, strict=True):
            if want.shape != have.shape:
                return float("inf"), f"output {i} has shape {have.shape} instead of {want.shape}"
            error = _gap(want, have) / unit
            if error > worst or not np.isfinite(error):
                worst = error if np.isfinite(error) else float("inf")
    return worst, detail


def _shaken(feed: Any) -> Any:
    """The inputs with every float changed by a few roundings."""
    if isinstance(feed, dict):
        return {name: _shaken(leaf) for name, leaf in feed.items()}
    if isinstance(feed, list | tuple):
        return type(feed)(_shaken(leaf) for leaf in feed)
    kind = str(getattr(feed, "dtype", "")).rpartition(".")[2]
    return feed * (1 + _ROUNDINGS[kind]) if kind in _ROUNDINGS else feed


def _unit(runs: list[Array]) -> tuple[float, bool]:
    """How much an output varies with the input, but at least `STEADY` of its spread; and whether it varies less."""
    if not runs[0].size or any(run.shape != runs[0].shape for run in runs):
        return 1.0, False
    stack = np.stack([run.astype(np.float64) for run in runs])
    stack = np.where(np.isfinite(stack), stack, 0.0)
    spread = max(float(stack.std()), STEADY * float(np.abs(stack).max()))
    varied = float(stack.std(axis=0).mean()) if len(runs) > 1 else spread
    steady = varied < STEADY * STEADY * spread
    return max(varied, STEADY * spread) or 1.0, steady or spread == 0


def _gap(want: Array, have: Array) -> float:
    """Largest absolute difference of finite elements; infinite where one is finite and the other is not."""
    wide, other = want.astype(np.float64), have.astype(np.float64)
    finite = np.isfinite(wide)
    if (finite != np.isfinite(other)).any():
        return float("inf")
    return float(np.abs(wide[finite] - other[finite]).max()) if finite.any() else 0.0


def _tolerance(graph: Graph) -> float:
    names = {v.dtype.name for v in graph.values()} & TOLERANCES.keys()
    return max((TOLERANCES[n] for n in names), default=1e-3)
