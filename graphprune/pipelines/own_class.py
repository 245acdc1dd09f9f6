"""What must stay for a module to come back in its own class: sizes that its code holds.

Where a class cannot hold the pruned sizes, the frontend names the operators at fault. If they split an axis, the other
factor is tried first (the width of heads whose number stands in the code); else the groups that they touch stay whole.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from graphprune import frontends
from graphprune.coupling import Coupling, couple, requested
from graphprune.errors import InputError
from graphprune.ir.graph import Graph
from graphprune.passes.remove_channels import remove_channels
from graphprune.pruning.budgets.allocation import Options, make_plan
from graphprune.pruning.budgets.targets import Targets
from graphprune.pruning.criteria import magnitude
from graphprune.pruning.plan import Plan

from .stages import Clock

#: Said where counts are those of `unrounded`.
EXACT = "counts are the very share that was asked for: the class does not hold those nearby that runtimes run faster"
#: Rounds of finding out what else the code holds.
_ROUNDS = 12


@dataclass(frozen=True)
class Held:
    """Splits at which the inner factor is taken, and groups that stay."""

    inner: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()

    @property
    def sentence(self) -> str:
        """What was done to keep the class; empty if nothing."""
        parts = []
        if self.inner:
            parts.append(f"heads lose width instead of going whole at {', '.join(self.inner)}")
        if self.groups:
            parts.append(f"{', '.join(self.groups)} stay whole, whose sizes stand in the code")
        return f"to keep the class, {' and '.join(parts)}" if parts else ""


@dataclass(frozen=True)
class Planning:
    """How a graph is coupled, scored and planned, but for what is held; `how` are further options of scoring."""

    graph: Graph
    targets: Targets
    criterion: str
    options: Options
    grouped: str
    how: Mapping[str, Any]
    clock: Clock

    def plan(self, held: Held) -> tuple[Coupling, Plan]:
        """Couple, score and choose."""
        with self.clock("coupling"):
            rows = requested(self.graph, self.options.include)
            coupled = couple(self.graph, grouped=self.grouped, rows=rows, inner=held.inner)
        return coupled, self.choose(coupled, held)

    def choose(self, coupled: Coupling, held: Held, align: int | None = None) -> Plan:
        """Score and choose, with counts that are multiples of `align` rather than of what the options say."""
        with self.clock("planning"):
            scores = magnitude.score(coupled, self.criterion, **self.how)
            options = replace(self.options, exclude=(*self.options.exclude, *held.groups))
            options = options if align is None else replace(options, align=align)
            return make_plan(coupled, scores, self.targets, options, self.criterion)

    def made(self, held: Held) -> tuple[Coupling, Any] | None:
        """What the frontend makes of the pruned graph; nothing where there is nothing to prune or too little."""
        try:
            coupled, plan = self.plan(held)
        except InputError:
            return None
        return coupled, frontends.emit(remove_channels(coupled, plan.kept(coupled)))


def what_to_hold(planning: Planning) -> Held:
    """The least that was found for the class to come back; nothing where it does not with anything held."""
    if planning.graph.frontend != "torch":
        return Held()
    held = Held()
    for _ in range(_ROUNDS):
        made = planning.made(held)
        if made is None:
            break
        coupled, emitted = made
        if emitted.form == "module":
            return held
        splits = [n.name for n in coupled.graph.nodes if n.name in emitted.blame and n.kind == "reshape"]
        narrower = Held((*held.inner, *(name for name in splits if name not in held.inner)), held.groups)
        if narrower != held and _leads_on(planning.made(narrower), emitted.blame):
            held = narrower
            continue
        groups = [name for name in _touched(coupled, emitted.blame) if name not in held.groups]
        if not groups:
            break
        held = Held(held.inner, (*held.groups, *groups))
    return Held()


def unrounded(planning: Planning, held: Held, coupled: Coupling, plan: Plan) -> Plan | None:
    """The plan for the very share that was asked for, where the class holds its counts but not those of `plan`, which
    were rounded to what runtimes run fast; None where that is not so.
    """
    if planning.options.align is not None or planning.targets.limits:
        return None
    exact = planning.choose(coupled, held, align=1)
    keep = exact.kept(coupled)
    if np.array_equal(keep, plan.kept(coupled)):
        return None
    with planning.clock("writing the model"):
        emitted = frontends.emit(remove_channels(coupled, keep))
    return exact if emitted.form == "module" else None


def _leads_on(made: tuple[Coupling, Any] | None, before: Sequence[str]) -> bool:
    """Whether something else is at fault now, if anything."""
    if made is None or made[1].form == "module":
        return made is not None
    return bool(made[1].blame) and not set(made[1].blame) & set(before)


def _touched(coupled: Coupling, names: Sequence[str]) -> tuple[str, ...]:
    """The groups that have indices in the results of these nodes."""
    values = [value for node in coupled.graph.nodes if node.name in names for value in node.outputs]
    components = [coupled.component[b.labels].reshape(-1) for v in values for b in coupled.blocks.get(v, ())]
    found = np.unique(coupled.group_of[np.concatenate(components)]) if components else np.empty(0, int)
    return tuple(coupled.groups[index].name for index in found.tolist() if index >= 0)
