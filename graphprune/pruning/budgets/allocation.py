"""Budgets: from scores to a plan that meets a target."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphprune import frontends
from graphprune.coupling import DEFAULT, Coupling, Group, on_request, pick_roles
from graphprune.coupling.kinds import kinds
from graphprune.errors import InputError, TargetError
from graphprune.ir.graph import uncollected
from graphprune.ops.base import Array

from ..cost import Counter
from ..plan import Plan, plan_groups
from ..selection import check_globs, matches
from .alignment import GLOBAL_ALIGN, fixed_count, quantum, round_up
from .rankings import Ladder, ranked
from .targets import Target, Targets
from .uniform import common_parts, families

#: No group keeps less than this part of its components unless asked to.
FLOOR = 0.1
#: A global budget is met within this part from below.
SLACK = 0.01
#: Rounds of swapping levels between two groups to get there, and pairs tried in each.
_SWAPS, _TRIES = 12, 8
#: Rounds of bringing components back where an axis would end up empty; each round only adds.
_REVIVALS = 8


@dataclass(frozen=True)
class Options:
    """`include`/`exclude`: globs on weight or node names; `overrides`: glob to ratio, first match wins.

    `roles` are those that may be pruned (see `coupling/roles.py`), also others where `include` or an override names the
    very axis (`weight[0]`). With `uniform`, groups that are alike up to numbers in their names (the layers of a
    transformer), or that the same settings of a configuration rule, keep the same part of what they have.
    """

    include: Sequence[str] = ()
    exclude: Sequence[str] = ()
    overrides: Mapping[str, float] = field(default_factory=dict)
    align: int | None = None
    floor: float = FLOOR
    uniform: bool = False
    roles: Sequence[str] | None = None

    @property
    def wanted(self) -> frozenset[str]:
        """The roles that may be pruned; raises InputError for one that is unknown."""
        return DEFAULT if self.roles is None else pick_roles(self.roles)


@uncollected()
def make_plan(coupling: Coupling, scores: Array, target: Target | Targets, options: Options, criterion: str) -> Plan:
    """Choose what stays.

    "channels" keeps the same part of every group; "params" and "macs" rank all components together and are met from
    below. Of several targets all are met: totals within their limits, and of no group more than its part.
    Raises InputError if nothing is prunable, TargetError if the target cannot be reached.
    """
    targets = Targets.of(target)
    if options.align is not None and options.align < 1:
        raise InputError(f"align must be at least 1, not {options.align}")
    if not 0 <= options.floor <= 1:
        raise InputError(f"floor must be between 0 and 1, not {options.floor}")
    open_groups = _selected(coupling, options)
    if not any(open_groups):
        raise InputError(_nothing_prunable(coupling, options))
    kind = kinds(coupling)
    ladders = [
        _ladder(coupling, alike, (scores, kind), targets, options, open_groups[alike[0].index])
        for alike in _families(coupling, open_groups, options)
    ]
    counter = Counter(coupling)
    keep = _chosen(coupling, ladders, counter, targets, scores)
    reason_of = {group.index: _reason(ladder, targets) for ladder in ladders for group in ladder.groups}
    wanted = _of_wanted_roles(coupling, options)
    reasons = [reason_of[g.index] if yes else on_request(g.role) for g, yes in zip(coupling, wanted, strict=True)]
    return Plan(
        coupling.graph.name,
        coupling.fingerprint,
        str(targets),
        criterion,
        plan_groups(coupling, keep, reasons),
        coupling.grouped,
        {"params": counter.parameters(keep), "macs": counter.macs(keep)},
        tuple(table.weight.name for table in coupling.tables),
        coupling.inner,
    )


def _chosen(coupling: Coupling, ladders: Sequence[Ladder], counter: Counter, targets: Targets, scores: Array) -> Array:
    """The kept components; what must come back to keep axes alive is taken off the budget and the rest met again."""
    if not targets.limits:
        keep = _mask(coupling, ladders)
        _keep_axes_alive(coupling, keep, scores)
        return keep
    cost = _cost(coupling, counter, targets)
    spare = 0.0
    for _ in range(_REVIVALS):
        _meet(coupling, ladders, cost, targets, spare)
        keep = _mask(coupling, ladders)
        _keep_axes_alive(coupling, keep, scores)
        if cost(keep) <= 1:
            return keep
        spare = max(spare, cost(keep) - cost(_mask(coupling, ladders)))
    raise TargetError(f"target {targets} cannot be reached without emptying an axis")


def _cost(coupling: Coupling, counter: Counter, targets: Targets) -> Callable[[Array], float]:
    """What a choice uses of the scarcest limit: at most 1 where all are met."""
    measures = {"params": counter.parameters, "macs": counter.macs}
    everything = np.ones(coupling.count, bool)
    limits = [(measures[kind], ratio * measures[kind](everything)) for kind, ratio in targets.limits.items()]
    return lambda keep: max(measure(keep) / limit if limit else 0.0 for measure, limit in limits)


def _nothing_prunable(coupling: Coupling, options: Options) -> str:
    if coupling.groups:
        others = sorted({group.role for group in coupling} - options.wanted)
        hint = f"; on request also {', '.join(others)}: --roles {','.join(others)}" if others else ""
        if options.include or options.exclude:
            return f"nothing prunable: no coupled group matches --include/--exclude{hint}"
        return f"nothing prunable: no coupled group is one of {', '.join(sorted(options.wanted))}{hint}"
    frozen = coupling.frozen_axes()
    first = f"; for example {frozen[0].weight} axis {frozen[0].axis}: {frozen[0].reason}" if frozen else ""
    return f"nothing prunable: every weight axis of '{coupling.graph.name}' must stay{first}"


def _selected(coupling: Coupling, options: Options) -> list[bool]:
    """Whether each group may be pruned under include and exclude; a glob that matches nothing is an error."""
    wanted = _of_wanted_roles(coupling, options)
    if not (options.include or options.exclude or options.overrides):
        return wanted
    names = coupling.names
    check_globs(coupling, names, [*options.include, *options.exclude, *options.overrides])
    return [
        yes and (not options.include or matches(n, options.include)) and not matches(n, options.exclude)
        for yes, n in zip(wanted, names, strict=True)
    ]


def _of_wanted_roles(coupling: Coupling, options: Options) -> list[bool]:
    """Whether each group has a role that is asked for, or is asked for by the name of its axis."""
    wanted = options.wanted
    axes = [glob for glob in (*options.include, *options.overrides) if glob.endswith("]")]
    return [group.role in wanted or (bool(axes) and matches(coupling.names[group.index], axes)) for group in coupling]


def _families(coupling: Coupling, open_groups: Sequence[bool], options: Options) -> list[list[Group]]:
    """The groups one by one, or those together that must keep the same part."""
    if not options.uniform:
        return [[group] for group in coupling]
    kinds = [(open_groups[group.index], _override(coupling, group, options)) for group in coupling]
    return families(list(coupling), kinds, lambda: frontends.rulers(coupling.graph))


def _ladder(
    coupling: Coupling,
    groups: Sequence[Group],
    scores: tuple[Array, Array],
    targets: Targets,
    options: Options,
    free: bool,
) -> Ladder:
    """How many of some groups may stay: any number between the floor and all of them for a limit on a total, one number
    for a fixed share, up to that number for both.
    """
    units = common_parts(groups)
    rows = ranked(groups, *scores, units)
    if not free:
        return Ladder(groups, [units], rows, fixed=True)
    steps = [len(g.components) * g.width * (g.components.shape[1] // units) for g in groups]
    override = _override(coupling, groups[0], options)
    ratio = targets.share if override is None else override
    most = units if ratio is None else fixed_count(ratio, units, options.align, steps)
    if override is not None or not targets.limits:
        return Ladder(groups, [most], rows, fixed=True)
    step = quantum(GLOBAL_ALIGN if options.align is None else options.align, steps)
    low = round_up(max(_needed(coupling, groups, units), math.ceil(options.floor * units)), step, units)
    return Ladder(groups, list(dict.fromkeys([*range(low, most, step), most])), rows)


def _needed(coupling: Coupling, groups: Sequence[Group], units: int) -> int:
    """How many units must stay, at least one: as many as an operator needs that works on a whole group."""
    least = 1
    for labels, count in coupling.at_least:
        components = coupling.component[labels]
        if any(np.isin(group.components, components).all() for group in groups):
            least = max(least, math.ceil(count * units / labels.size))
    return min(least, units)


def _override(coupling: Coupling, group: Group, options: Options) -> float | None:
    if not options.overrides:
        return None
    names = coupling.names[group.index]
    for glob, ratio in options.overrides.items():
        if matches(names, [glob]):
            if not 0 < ratio <= 1:
                raise InputError(f"override {glob}={ratio}: the ratio must be greater than 0 and at most 1")
            return ratio
    return None


def _mask(coupling: Coupling, ladders: Sequence[Ladder]) -> Array:
    keep = np.ones(coupling.count, bool)
    for ladder in ladders:
        ladder.mark(keep)
    return keep


def _meet(
    coupling: Coupling, ladders: Sequence[Ladder], cost: Callable[[Array], float], targets: Targets, spare: float
) -> None:
    """Raise the levels of the ladders, most important step first, while the cost is within 1 less `spare`."""
    for ladder in ladders:
        ladder.level = 0
    limit = 1 - spare
    keep = _mask(coupling, ladders)
    if cost(keep) > limit:
        raise TargetError(_out_of_reach(coupling, keep, targets))
    steps = sorted(
        ((-value, i, level) for i, ladder in enumerate(ladders) for level, value in _step_values(ladder)),
    )
    low, high = 0, len(steps)
    while low < high:
        middle = (low + high + 1) // 2
        if cost(_climb(coupling, ladders, steps[:middle])) <= limit:
            low = middle
        else:
            high = middle - 1
    keep = _climb(coupling, ladders, steps[:low])
    _fill(ladders, keep, steps[low:], cost, limit)
    for _ in range(_SWAPS):
        if cost(_mask(coupling, ladders)) >= (1 - SLACK) * limit or not _swap(coupling, ladders, cost, limit):
            return


def _out_of_reach(coupling: Coupling, keep: Array, targets: Targets) -> str:
    """What stays of each total when as little as may be of every group does."""
    counter, everything = Counter(coupling), np.ones(coupling.count, bool)
    measures = {"params": counter.parameters, "macs": counter.macs}
    least = [f"{measures[kind](keep) / measures[kind](everything):.3f} of the {kind}" for kind in targets.limits]
    return f"target {targets} cannot be reached: with every group at its floor {' and '.join(least)} stay"


def _swap(coupling: Coupling, ladders: Sequence[Ladder], cost: Callable[[Array], float], limit: float) -> bool:
    """Raise one group by a level and lower another where that uses more of the limit; the best of all pairs."""

    def cost_after(changes: Sequence[tuple[Ladder, int]]) -> float:
        for ladder, by in changes:
            ladder.level += by
        found = cost(_mask(coupling, ladders))
        for ladder, by in changes:
            ladder.level -= by
        return found

    now = cost_after([])
    up = [(cost_after([(x, 1)]) - now, x) for x in ladders if x.level + 1 < len(x.counts)]
    down = [(now - cost_after([(x, -1)]), x) for x in ladders if x.level > 0]
    gains = ((more - less, rise, fall) for more, rise in up for less, fall in down if rise is not fall)
    for _, rise, fall in sorted((g for g in gains if 0 < g[0] <= limit - now), key=lambda g: -g[0])[:_TRIES]:
        if now < cost_after([(rise, 1), (fall, -1)]) <= limit:
            rise.level, fall.level = rise.level + 1, fall.level - 1
            return True
    return False


def _step_values(ladder: Ladder) -> list[tuple[int, float]]:
    """Levels with values that never rise, so that a ranking takes them in order."""
    found, least = [], math.inf
    for level in range(1, len(ladder.counts)):
        least = min(least, ladder.step_value(level))
        found.append((level, least))
    return found


def _climb(coupling: Coupling, ladders: Sequence[Ladder], steps: Sequence[tuple[float, int, int]]) -> Array:
    for ladder in ladders:
        ladder.level = 0
    for _, i, level in steps:
        ladders[i].level = max(ladders[i].level, level)
    return _mask(coupling, ladders)


def _fill(
    ladders: Sequence[Ladder],
    keep: Array,
    steps: Sequence[tuple[float, int, int]],
    cost: Callable[[Array], float],
    limit: float,
) -> None:
    """After the first step that does not fit, take any later ones that still do."""
    closed: set[int] = set()
    for _, i, level in steps:
        if i in closed:
            continue
        ladder = ladders[i]
        new = ladder.gained(level)
        keep[new] = True
        if cost(keep) <= limit:
            ladder.level = level
        else:
            keep[new] = False
            closed.add(i)
        if len(closed) == len(ladders):
            return


def _keep_axes_alive(coupling: Coupling, keep: Array, scores: Array) -> None:
    """No axis of any value may end up empty: its best component comes back (in every row of its group). Where an
    operator asks for several to stay, as many come back.
    """
    _keep_enough(coupling, keep, scores)
    arrays = list(
        {id(b.labels): b.labels.reshape(-1) for bs in coupling.blocks.values() for b in bs if b.labels.size}.values()
    )
    if not arrays:
        return
    components = coupling.component[np.concatenate(arrays)]
    ends = np.cumsum([a.size for a in arrays])
    starts = np.concatenate([[0], ends[:-1]])
    for _ in range(_REVIVALS):
        empty = np.flatnonzero(~np.logical_or.reduceat(keep[components], starts))
        if not len(empty):
            return
        for i in empty:
            axis = components[starts[i] : ends[i]]
            if not keep[axis].any():
                _revive(coupling, keep, scores, int(axis[np.argmax(scores[axis])]))


def _keep_enough(coupling: Coupling, keep: Array, scores: Array) -> None:
    """Bring the best components back where fewer indices are left than an operator picks."""
    for labels, count in coupling.at_least:
        components = coupling.component[labels]
        while keep[components].sum() < count:
            gone = components[~keep[components]]
            _revive(coupling, keep, scores, int(gone[np.argmax(scores[gone])]))


def _revive(coupling: Coupling, keep: Array, scores: Array, component: int) -> None:
    """Bring a component back, and with it the best removed one of every other row of its group."""
    for row in coupling.groups[coupling.group_of[component]].components:
        gone = row[~keep[row]]
        keep[component if component in row else gone[np.argmax(scores[gone])]] = True


def _reason(ladder: Ladder, targets: Targets) -> str:
    if ladder.counts == [common_parts(ladder.groups)]:
        return "left alone"
    return "fixed share" if ladder.fixed else f"global ranking, {targets}"


def nothing_removed(coupling: Coupling, plan: Plan, options: Options) -> list[str]:
    """A sentence where a plan keeps everything, with the reason where it is known."""
    if any(group.kept < group.size for group in plan.groups):
        return []
    largest = max((group.size * group.width for group in coupling), default=0)
    why = f": align={options.align} is larger than every group (the largest has {largest})"
    return ["nothing was removed" + (why if options.align is not None and options.align > largest else "")]
