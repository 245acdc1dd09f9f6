"""Proof: the pruned model must compute what the original computes with the removed indices masked.

The original is run with zeros put in after every operator wherever an index was removed, and with statistics taken over
the kept indices only. This uses the coupling's labels, but nothing of the rewriter: a wrong slice, a wrong size or a
wrong label shows as a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np

from graphprune import depth, frontends
from graphprune.calibration.dataflow import Piecewise
from graphprune.calibration.running import Runner, other_runner, reference_runner, rounds, runner
from graphprune.calibration.samples import Data, Samples
from graphprune.coupling import Coupling
from graphprune.errors import UnsupportedError
from graphprune.frontends.chance import Draws
from graphprune.ir.graph import Graph, Weight
from graphprune.ops.base import Array

from .comparing import FAILED, PASSED, UNDECIDED, Finding, Limits
from .draws import draws
from .input_kinds import further_kinds, quiet_inputs
from .inputs import by_case, made_up, sample_feeds
from .leaves import Leaves, leaves
from .masking import take_out, treatment
from .sides import Sides
from .trial import FLOORS, Bench, Trial

#: Largest difference allowed, as a share of how much an output varies with the input, by the narrowest float type.
TOLERANCES = {"float64": 1e-3, "float32": 1e-3, "float16": 5e-2, "bfloat16": 2e-1}
#: The same where values are rounded to integers of few bits: a float rounding may then decide between two steps.
STEPS = 2e-2

#: What a narrower float type does to a model, as a multiple of what rounding its inputs and matrices does.
NARROW = 3.0

#: A module among several that differs by more than this many times what rounding does is not worth a look in a wider
#: type.
HOPELESS = 100.0
#: Bytes of a weight that are looked at together.
_LOOK = 1 << 24

#: What helps where nothing was proven.
HINT = "give real samples with --data FILE.npz (in Python data=...)"


@dataclass(frozen=True)
class Proof:
    """The outcome: `verdict` is "passed", "FAILED" or "undecided", where the outputs said too little.

    `max_error` is a share of how much each reference output varies; `against` says what that reference is. `on` is what
    the models ran on.
    """

    verdict: str
    max_error: float
    tolerance: float
    inputs: int
    exact_groups: int
    renormalizing_groups: int
    detail: str = ""
    against: str = "the masked original"
    on: str = "random inputs"
    passed: bool = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "passed", self.verdict == PASSED)

    @property
    def failed(self) -> bool:
        """Whether the models are known to differ."""
        return self.verdict == FAILED

    @property
    def undecided(self) -> bool:
        """Whether nothing was proven: no difference was found, and none could have been."""
        return self.verdict == UNDECIDED

    @property
    def sentence(self) -> str:
        """What to say where the models differ, or where nothing was proven."""
        if self.undecided:
            return f"NOT PROVEN: {self.detail}; {HINT}"
        why = f": {self.detail}" if self.detail else ""
        return f"differs from {self.against} by {self.max_error:.2g} (allowed: {self.tolerance:.2g}){why}"


class Reference:
    """What the masked original computes on some inputs, for comparing any number of candidates with it.

    The inputs are made up, or `data`. `without` are blocks of the original that are taken out of it as well, `masks`
    say by name which entries of its weights stay. `precision` is the float type of the candidates, where it is another.
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
        data: Data | Samples | None = None,
        precision: str = "",
    ) -> None:
        graph, sides = coupling.graph, Sides(coupling, keep)
        self._graph, self._progress, self._seed = graph, progress, seed
        drawn, limits, self._note = draws(coupling, keep, without), _limits(graph, precision), ""
        if masked is None:
            build: Callable[[Graph], Any] = partial(_instrumented, coupling, keep, without, masks or {}, drawn)
            first: Callable[[Any], Runner] = partial(runner, graph, script=drawn.full)
            other: Callable[[Any], Runner] = partial(runner, graph, script=drawn.left)
            self._bench = Bench(
                graph, build(graph), build, first, other, sides, limits, seed, drawn, precision=precision
            )
        else:
            self._bench = Bench(masked, masked, _itself, Piecewise, Piecewise, sides, limits, seed, drawn, parted=True)
        self._on = "random inputs" if data is None else "samples"
        cases = by_case(graph, seed, made_up(graph, seed, inputs)) if data is None else [sample_feeds(graph, data)]
        self._trials = [self._first_trial(cases[0])]
        self._trials += [Trial(self._bench, feeds, case=at) for at, feeds in enumerate(cases[1:], 1)]
        if data is None and not self._bench.parted and not precision:
            quiet = by_case(graph, seed, quiet_inputs(graph, seed))
            self._trials += [Trial(self._bench, feeds, case=at) for at, feeds in enumerate(quiet)]
        self._needed = len(self._trials)
        self._kinds = further_kinds(graph, seed)
        touched = [g for g in coupling.groups if not keep[g.components].all()]
        self._exact = sum(g.exact for g in touched)
        self._renormalizing = len(touched) - self._exact

    def _first_trial(self, feeds: Sequence[Any]) -> Trial:
        """The original on the first inputs, by another runtime where the usual one refuses it."""
        bench = self._bench
        try:
            return Trial(bench, feeds, self._tell("the masked original"))
        except UnsupportedError as error:
            if bench.parted:
                raise
            first = bench.sides.within(feeds[0])
            _, start, self._note = other_runner(self._graph, bench.model, first, error, bench.draws.left)
            self._bench = replace(bench, start=start, start_original=partial(reference_runner, self._graph))
            return Trial(self._bench, feeds)

    def compare(self, pruned: Any) -> Proof:
        """Run a foreign model (`ModelProto`, path or `nn.Module`) on the same inputs; raises what running it raises."""
        return self._compare(pruned, [])

    def _compare(self, pruned: Any, first: Sequence[Leaves]) -> Proof:
        """`first` is what the model returned for the first inputs, where it ran on them already.

        While outputs say nothing, inputs of further kinds are tried.
        """
        known: dict[tuple[int, str], Finding] = {}
        for at, trial in enumerate(self._further(), 1):
            found = trial.candidate(pruned, first if at == 1 else [], self._tell("the pruned model"))
            for finding in trial.judge(pruned, found):
                key = trial.case, finding.output
                before = known.get(key)
                if before is None or finding.verdict == FAILED or before.verdict == UNDECIDED:
                    known[key] = finding if finding.verdict != UNDECIDED else before or finding
            verdicts = {f.verdict for f in known.values()}
            if FAILED in verdicts or (at >= self._needed and UNDECIDED not in verdicts):
                break
        return self._proof([*known.values()])

    def _further(self) -> Iterator[Trial]:
        """The trials that were made, then those that can be made of further inputs."""
        yield from self._trials
        if self._bench.parted:
            return
        for feeds in self._kinds:
            for case, own in enumerate(by_case(self._graph, self._seed, feeds)):
                try:
                    trial = Trial(self._bench, own, case=case)
                except Exception:  # inputs that the original refuses
                    continue
                self._trials.append(trial)
                yield trial

    def _proof(self, findings: Sequence[Finding]) -> Proof:
        rank = {FAILED: 2, UNDECIDED: 1, PASSED: 0}
        worst = max(findings, key=lambda f: (rank[f.verdict], f.error), default=Finding("", PASSED))
        chance = "" if worst.verdict == PASSED else self._bench.draws.left.beside
        detail = "; ".join(filter(None, (worst.why, self._note, chance)))
        counts = sum(len(t.feeds) for t in self._trials), self._exact, self._renormalizing
        on = (
            self._on
            if len(self._trials) == self._needed or self._on == "random inputs"
            else "samples and random inputs"
        )
        return Proof(worst.verdict, worst.error, worst.allowed or self._bench.limits.share, *counts, detail, on=on)

    def _tell(self, what: str) -> Callable[[float], None] | None:
        """Says how far a run of a model is."""
        told = self._progress
        return None if told is None else lambda part: told(f"verifying: {what}, {part:.0%}")

    def problem(self, pruned: Any) -> str:
        """What is wrong with a foreign model; empty if nothing is."""
        try:
            first, wrong = self._first_look(pruned)
            if wrong:
                return wrong
            proof = self._compare(pruned, first)
        except Exception as error:
            return str(error).partition("\n")[0] or type(error).__name__
        return (proof.detail or f"results differ by {proof.max_error:.2g}") if proof.failed else ""

    def _first_look(self, pruned: Any) -> tuple[list[Leaves], str]:
        """What a module returns for the first input, and what is wrong with it where that is no rounding: many modules
        may be tried, and most need no more than this.
        """
        if self._graph.frontend != "torch" or rounds(self._graph):
            return [], ""
        trial, bench = self._trials[0], self._bench
        found = leaves(list(bench.start(pruned)(bench.sides.cut_inputs(trial.feeds[0]))))
        worst = max(trial.at(0, found), key=lambda f: (f.verdict == FAILED, f.error), default=Finding("", PASSED))
        if worst.verdict != FAILED:
            return [found], ""
        near = worst.error <= HOPELESS * trial.rounding or worst.allowed == 0
        return [found], "" if near and worst.error < float("inf") else worst.why


def _itself(graph: Graph) -> Graph:
    return graph


def _limits(graph: Graph, precision: str) -> Limits:
    """What is allowed by the narrowest float type in use. A candidate of a narrower type than the original's differs
    everywhere: there the typical difference counts.
    """
    if precision:
        return Limits(TOLERANCES[precision], FLOORS[precision] / 16, NARROW, typical=True)
    names = {v.dtype.name for v in graph.values()} & TOLERANCES.keys()
    share = max((TOLERANCES[n] for n in names), default=1e-3)
    return Limits(max(share, STEPS) if rounds(graph) else share, max((FLOORS[n] for n in names), default=2e-6))


def _instrumented(
    coupling: Coupling,
    keep: Array,
    without: Sequence[depth.Block],
    masks: Mapping[str, Array],
    draws: Draws,
    graph: Graph,
) -> Any:
    """The masked original, of the caller's kind; `graph` is the coupled one, or one built alike."""
    treated = treatment(coupling, keep)
    treated.draws = draws
    take_out(treated, without)
    for name, mask in masks.items():
        treated.masks.setdefault(name, []).append(mask)
    return frontends.of(graph).instrument(graph, treated)


def verify(coupling: Coupling, keep: Array, pruned: Any, **options: Any) -> Proof:
    """Compare a foreign model (`ModelProto`, path or `nn.Module`) with the masked original; options are those of
    `Reference`.
    """
    return Reference(coupling, keep, **options).compare(pruned)


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
