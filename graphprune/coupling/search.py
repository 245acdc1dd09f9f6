"""Walks that differ in which of several axes stays active, where only one can; the best is taken."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from typing import Protocol, TypeVar

from graphprune.ops.joining import STACKED

#: Rounds of trying the other factor where the first one ended up frozen.
_FLIPS = 3
#: Rounds of trying that for one choice alone of those that hang together.
_ALONE = 4

#: Heads are preferred to their width where they free at least this part of what that does.
_NEARLY = 0.9
#: A choice that is not stuck is made the other way where so much more is free then.
_CLEARLY = 1.1


class Found(Protocol):
    """A coupling with some choices made the other way (`flipped`).

    `picked` are the origins of choices whose active axis is taken apart into whole values, `deep` those of choices
    among more than two axes.
    """

    flipped: frozenset[str]
    picked: frozenset[str]
    deep: frozenset[str]

    def free_indices(self) -> int:
        """How many indices may go."""

    def blamed(self) -> frozenset[str]:
        """The origins of choices because of which channels of layers must stay."""


T = TypeVar("T", bound=Found)
#: Couples with the choices of these origins made the other way; also the origins whose choice ended up frozen, in the
#: order of the walk, and the components that it was about.
Attempt = Callable[[frozenset[str]], tuple[T, Mapping[str, frozenset[int]]]]


def best(attempt: Attempt[T]) -> T:
    """The coupling with the choices that free most, in few walks.

    Of more than two axes the innermost is tried where the outermost is stuck; then the one after the outermost, which
    is taken if it frees nearly as much: of queries, keys and values whole heads go, rather than a part of each.
    A choice that is not stuck, but fixes channels of a layer, is made the other way if that frees clearly more.
    """
    found = _by_flips(attempt)
    blamed = found.blamed()
    if blamed:
        other, _ = attempt(found.flipped ^ blamed)
        found = other if other.free_indices() >= _CLEARLY * found.free_indices() else found
    deep = found.flipped & found.deep
    if not deep:
        return found
    other, _ = attempt((found.flipped - deep) | {second(origin) for origin in deep})
    return other if other.free_indices() >= _NEARLY * found.free_indices() else found


def second(origin: str) -> str:
    """How it is named that a choice falls on the axis after the outermost."""
    return f"{origin} second"


def _by_flips(attempt: Attempt[T]) -> T:
    first, choices, stacks = _with_stacks(attempt)
    if first.picked:
        first, choices, stacks = _spread(attempt, first, choices, stacks)
    stuck = _unstacked(choices)
    if not stuck:
        return first
    tried, found = stuck, first
    for _ in range(_FLIPS):
        other, rest = attempt(tried | stacks)
        found, still = _freer(found, other), _unstacked(rest)
        helped, met = tried - still, still - tried
        if not met:
            break
        tried |= met  # axes that only come to meet where others were split the other way
    # what was freed where all were flipped may be stuck again without those that seemed not to help
    found = _freer(found, attempt(helped | stacks)[0]) if helped else found
    sets = tangled({origin: parts for origin, parts in choices.items() if origin in stuck})
    return _one_by_one(attempt, found, [some for some in sets if not helped.issuperset(some)], helped, stacks)


def _one_by_one(
    attempt: Attempt[T], found: T, sets: list[list[str]], helped: frozenset[str], stacks: frozenset[str]
) -> T:
    """Of choices that hang together one alone may have been wrong: one of each set at a time, the last ones first."""
    base = helped.difference(*sets) | stacks
    alone: dict[str, str] = {}
    for place in range(min(_ALONE, max(map(len, sets), default=0))):
        picks = {some[0]: some[-1 - place] for some in sets if place < len(some) and some[0] not in alone}
        if not picks:
            break
        other, rest = attempt(base | frozenset(picks.values()))
        found = _freer(found, other)
        alone |= {name: origin for name, origin in picks.items() if origin not in rest}
    if len(sets) == 1 or not alone:
        return found
    others = [helped.intersection(some) for some in sets if some[0] not in alone]
    return _freer(found, attempt(base.union(alone.values(), *others))[0])


def tangled(choices: Mapping[str, frozenset[int]]) -> list[list[str]]:
    """Sets of two or more choices that share components, directly or by others."""
    above = {origin: origin for origin in choices}

    def top(origin: str) -> str:
        while above[origin] != origin:
            above[origin] = origin = above[above[origin]]
        return origin

    seen: dict[int, str] = {}
    for origin, components in choices.items():
        for component in components:
            above[top(origin)] = top(seen.setdefault(component, origin))
    sets = defaultdict(list)
    for origin in choices:
        sets[top(origin)].append(origin)
    return [some for some in sets.values() if len(some) > 1]


def _freer(a: T, b: T) -> T:
    return b if b.free_indices() > a.free_indices() else a


def _with_stacks(attempt: Attempt[T]) -> tuple[T, Mapping[str, frozenset[int]], frozenset[str]]:
    """Whole operands of stacks may go, where that frees anything: the coupling, what is stuck in it, those stacks."""
    first, stuck = attempt(frozenset())
    stacks = frozenset(stuck) - _unstacked(stuck)
    useful = stacks - attempt(stacks)[1].keys() if stacks else stacks
    if useful:
        second, rest = attempt(useful)
        if _freer(first, second) is second:
            return second, rest, useful
    return first, stuck, frozenset()


def _spread(
    attempt: Attempt[T], first: T, choices: Mapping[str, frozenset[int]], base: frozenset[str]
) -> tuple[T, Mapping[str, frozenset[int]], frozenset[str]]:
    """Where an axis that counts whole values (shift, scale and gate) was made the active one, rather their width, if
    that frees more.
    """
    other, rest = attempt(base | first.picked)
    return (other, rest, base | first.picked) if _freer(first, other) is other else (first, choices, base)


def _unstacked(origins: Iterable[str]) -> frozenset[str]:
    return frozenset(origin for origin in origins if not origin.endswith(STACKED))
