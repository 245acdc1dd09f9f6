"""One set of inputs: what the reference makes of them, and how candidates compare with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from graphprune.calibration.running import UNROUNDED, Runner, inner_runner, together, wide_runner, wide_type
from graphprune.frontends.chance import Draws
from graphprune.ir.graph import Graph, Value

from .comparing import FAILED, NOWHERE, PASSED, UNDECIDED, Finding, Limits, compare
from .inner_values import Taps, contracting, jumps, taps_before
from .leaves import Leaves, inner_name, leaves, output_of
from .noise import shaken_graph, shaking
from .sides import Sides, changed

#: What any element may be off by, relative to its size, by float type: 16 roundings.
FLOORS = {"float64": 3.6e-15, "float32": 2e-6, "float16": 1.6e-2, "bfloat16": 1.3e-1}
#: The same for what runs in a wider type; in float64 long sums of what was float32 may be off by thousands.
WIDE_FLOORS = {"float64": 1e-12, "float32": 2e-6, UNROUNDED: 2e-6}
#: What does not pass is run again in a wider float type, where no more than this is allowed.
WIDE = {"float64": 1e-6, "float32": 1e-3, UNROUNDED: 1e-3}

#: How often the reference is shaken before a difference is called one; and where results jump.
_SHAKES, _JUMPING = (1, 4), (1, 4, 12)


@dataclass
class Bench:
    """What trials have in common: the original, what makes the masked original of a graph built like it, and what runs
    that and candidates. `parted` says that graphs run part by part, as their weights lie in files; `precision` is the
    float type of the candidates, if another than that of the original.
    """

    graph: Graph
    model: Any
    build: Callable[[Graph], Any]
    start_original: Callable[[Any], Runner]
    start: Callable[[Any], Runner]
    sides: Sides
    limits: Limits
    seed: int
    draws: Draws
    parted: bool = False
    precision: str = ""

    @cached_property
    def run(self) -> Runner:
        """Runs the masked original."""
        return self.start_original(self.model)

    @cached_property
    def wide_run(self) -> Runner:
        """Runs the masked original in a wider float type."""
        return wide_runner(self.graph, self.model, self.draws.full)

    @cached_property
    def shaken(self) -> Callable[[int], Any]:
        """The masked original with weights off by a few roundings, by number; each is made once."""
        made: dict[int, Any] = {}

        def model(number: int) -> Any:
            if number not in made:
                made[number] = self.build(shaken_graph(self.graph, self.seed + 1000 * number, self.precision))
            return made[number]

        return model

    def taps(self, output: Value) -> Taps:
        """The values before an output that both models have and that can be compared."""
        return taps_before(self.graph, output, self.sides)


class Trial:
    """The inputs and all that was run on them so far. `case` is the number of the way through branches they take."""

    def __init__(
        self, bench: Bench, feeds: Sequence[Any], tell: Callable[[float], None] | None = None, case: int = 0
    ) -> None:
        self.case = case
        self._bench, self.feeds = bench, [bench.sides.within(feed) for feed in feeds]
        self.expected = self._original(bench.run, self.feeds, tell)
        self._wide: dict[int, Leaves] = {}
        self._noise: list[list[Leaves]] = []
        self._inner: dict[tuple[str, ...], tuple[list[Leaves], list[list[Leaves]]]] = {}

    def candidate(self, pruned: Any, first: Sequence[Leaves], tell: Callable[[float], None] | None) -> list[Leaves]:
        """What a foreign model makes of the inputs; `first` is what it made of the first ones already."""
        feeds = [self._bench.sides.cut_inputs(feed) for feed in self.feeds[len(first) :]]
        return [*first, *map(leaves, together(self._bench.start(pruned), feeds, tell))]

    def judge(self, pruned: Any, found: Sequence[Leaves]) -> list[Finding]:
        """A finding for each output. What is open is run in a wider float type, where there is one: that may decide by
        itself. Else a difference is compared with what rounding does to the reference, several times before it is
        called one; and where an output says nothing, what goes into it is compared.
        """
        findings = compare(self.expected, found, self._bench.limits)
        if not any(f.open for f in findings):
            return findings
        wide = self._wide_findings(pruned, found, findings)
        final = {f.output: f for f in (*findings, *wide) if not f.open}
        left = [final.get(f.output, f) for f in findings]
        for count in self._shakes(left):
            if not any(f.open or (f.output not in final and f.verdict == FAILED) for f in left):
                break
            known = {f.output: f for f in compare(self.expected, found, self._bench.limits, self._shaken(count))}
            left = [final.get(f.output) or known.get(f.output, f) for f in left]
        return self._looked_into(pruned, left)

    def at(self, at: int, found: Leaves) -> list[Finding]:
        """The findings for one input, without a closer look."""
        return compare(self.expected[at : at + 1], [found], self._bench.limits, units=self.expected)

    @cached_property
    def rounding(self) -> float:
        """What rounding the first input does to the reference."""
        graph, run = self._bench.graph, self._bench.run
        shaken = self._original(run, [changed(graph, self.feeds[0], shaking(graph, self._bench.seed))])
        return max((f.error for f in self.at(0, shaken[0])), default=0.0)

    def _original(self, run: Runner, feeds: Sequence[Any], tell: Callable[[float], None] | None = None) -> list[Leaves]:
        return [leaves(self._bench.sides.cut_outputs(found)) for found in together(run, feeds, tell)]

    def _shakes(self, findings: Sequence[Finding]) -> Sequence[int]:
        outputs = self._bench.graph.outputs
        doubtful = [output_of(f.output) for f in findings if f.verdict == FAILED]
        return _JUMPING if any(jumps(self._bench.graph, outputs[at]) for at in doubtful) else _SHAKES

    def _shaken(self, count: int) -> list[list[Leaves]]:
        """The reference's results with inputs and weights off by a few roundings, so many times."""
        while len(self._noise) < count:
            number = len(self._noise) + 1
            run = self._bench.start_original(self._bench.shaken(number))
            self._noise.append(self._original(run, self._shaken_feeds(number)))
        return self._noise[:count]

    def _shaken_feeds(self, number: int) -> list[Any]:
        graph, seed, precision = self._bench.graph, self._bench.seed + 1000 * number, self._bench.precision
        return [changed(graph, feed, shaking(graph, seed + at, precision)) for at, feed in enumerate(self.feeds)]

    def _wide_findings(self, pruned: Any, found: Sequence[Leaves], findings: Sequence[Finding]) -> list[Finding]:
        """What runs in the wider type decide; nothing where there is no such type, or it cannot be run.

        Only on inputs where the models differ, where most first, up to one where they differ as much there as well.
        """
        bench, own = self._bench, {f.output: f for f in findings if f.open}
        kind = wide_type(bench.graph)
        if not kind or bench.parted:
            return []
        wants, haves = list[Leaves](), list[Leaves]()
        try:
            candidate = wide_runner(bench.graph, pruned, bench.draws.left)
            for at in self._doubtful(found):
                wants.append(self._wide_expected(at))
                haves.append(leaves(candidate(bench.sides.cut_inputs(self.feeds[at]))))
                same = compare(
                    wants[-1:], haves[-1:], Limits(bench.limits.share, WIDE_FLOORS[kind]), units=self.expected
                )
                worse = [f for f in same if f.verdict == FAILED and f.output in own]
                if any(f.error > 0.1 * own[f.output].error for f in worse if own[f.output].verdict == FAILED):
                    return [_told(f, own[f.output], kind) for f in worse]
        except Exception:  # an operator without a kernel for it, or types that are written down
            return []
        units = wants if len(wants) > 1 else self.expected
        decided = compare(wants, haves, Limits(WIDE[kind], WIDE_FLOORS[kind]), units=units)
        known = [f for f in decided if f.verdict == PASSED or f.error > bench.limits.share]
        return [_told(f, own[f.output], kind) for f in known if f.output in own]

    def _doubtful(self, found: Sequence[Leaves]) -> list[int]:
        """The inputs for which results differ, those first that have run; the first two, where they do for none."""
        errors = [
            max((f.error for f in self.at(i, r) if f.verdict == FAILED), default=0.0) for i, r in enumerate(found)
        ]
        order = sorted(
            (at for at, error in enumerate(errors) if error), key=lambda at: (at not in self._wide, -errors[at])
        )
        return order or list(range(min(2, len(found))))

    def _wide_expected(self, at: int) -> Leaves:
        if at not in self._wide:
            self._wide[at] = leaves(self._bench.sides.cut_outputs(self._bench.wide_run(self.feeds[at])))
        return self._wide[at]

    def _looked_into(self, pruned: Any, findings: Sequence[Finding]) -> list[Finding]:
        """The findings, where an output was undecided by what goes into it."""
        silent = sorted({output_of(f.output) for f in findings if f.verdict == UNDECIDED})
        if self._bench.parted or not silent:
            return list(findings)
        known = {at: self._inside(pruned, self._bench.graph.outputs[at]) for at in silent}
        return [known[output_of(f.output)](f) if f.verdict == UNDECIDED else f for f in findings]

    def _inside(self, pruned: Any, output: Value) -> Callable[[Finding], Finding]:
        """What the values before an output make of the finding for it."""
        taps = self._bench.taps(output)
        if taps.whole and not taps.values:  # no weight has a part in it
            return lambda f: replace(f, verdict=PASSED, why="") if f.error == 0 else f
        if not taps.whole:
            return lambda f: f
        try:
            findings = self._inner_findings(pruned, taps.values)
        except Exception:  # what a runtime refuses to hand out
            return lambda f: f
        # A pass may compute the same by way of other values, and a class by modules that do more than one operator.
        firm = not self._bench.sides.whole and (self._bench.graph.frontend == "onnx" or hasattr(pruned, "graph"))
        return lambda f: _settled(f, findings, len(taps.values), firm)

    def _inner_findings(self, pruned: Any, values: Sequence[Value]) -> list[Finding]:
        bench, wanted = self._bench, {v.name: contracting(self._bench.graph, v) for v in values}
        run = inner_runner(bench.graph, pruned, wanted, bench.start, bench.draws.left)
        found = [_named(run(bench.sides.cut_inputs(feed))) for feed in self.feeds]
        expected = self._inner_expected(values, wanted, bench.model, self.feeds)
        if any(set(want) != set(have) for want, have in zip(expected, found, strict=True)):
            return []
        findings, noise = compare(expected, found, bench.limits), list[list[Leaves]]()
        for count in _SHAKES:
            if not any(f.open or f.verdict == FAILED for f in findings):
                break
            for number in range(len(noise) + 1, count + 1):
                noise.append(self._inner_expected(values, wanted, bench.shaken(number), self._shaken_feeds(number)))
            findings = compare(expected, found, bench.limits, noise)
        return findings

    def _inner_expected(
        self, values: Sequence[Value], wanted: Mapping[str, str], model: Any, feeds: Sequence[Any]
    ) -> list[Leaves]:
        bench, cut = self._bench, self._bench.sides.cut_inner
        run = inner_runner(bench.graph, model, wanted, bench.start_original, bench.draws.full)
        return [_named({v.name: cut(v, made[v.name]) for v in values if v.name in made}) for made in map(run, feeds)]


def _named(found: Mapping[str, Any]) -> Leaves:
    return {inner_name(name): array for name, array in found.items()}


def _settled(finding: Finding, findings: Sequence[Finding], count: int, firm: bool) -> Finding:
    """The finding for an output, given those for the values before it; `firm` says that these must be the same."""
    wrong = next((f for f in findings if f.verdict == FAILED), None)
    if wrong is not None and firm:
        return replace(
            finding, verdict=FAILED, error=wrong.error, allowed=wrong.allowed, why=f"{wrong.output}: {wrong.why}"
        )
    if finding.why.endswith(NOWHERE) or len(findings) < count or any(f.verdict != PASSED for f in findings):
        return finding
    worst = max(findings, key=lambda f: f.error)
    what = "the value it is made from was" if count == 1 else f"the {count} values it is made from were"
    why = f"{finding.output} says too little by itself, so that {what} compared"
    return replace(finding, verdict=PASSED, error=worst.error, allowed=worst.allowed, why=why)


def _told(wide: Finding, own: Finding, kind: str) -> Finding:
    """What a wider type decided, with the reason why it was asked."""
    if kind == UNROUNDED:
        same = f"quantisers that round otherwise make results differ by {own.error:.2g}, else by {wide.error:.2g}"
    else:
        before = f"results differ by {own.error:.2g} in the model's own float type"
        same = f"{before}; in {kind} they differ by {wide.error:.2g}"
    return replace(wide, why=same, measured=True)
