"""Walks that differ in which of several axes stays active, where only one can; the best is taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from ..ops.joining import STACKED

#: Rounds of trying the other factor where the first one ended up frozen.
_FLIPS = 3


class Found(Protocol):
    """A coupling."""

    def free_indices(self) -> int:
        """How many indices may go."""


T = TypeVar("T", bound=Found)
#: Couples with the choices of these origins made the other way; also the origins whose choice ended up frozen.
Attempt = Callable[[frozenset[str]], tuple[T, frozenset[str]]]


def best(attempt: Attempt[T]) -> T:
    """The coupling with the choices that free most, in few walks."""
    first, stuck, stacks = _with_stacks(attempt)
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
    return _freer(found, attempt(helped | stacks)[0]) if helped else found


def _freer(a: T, b: T) -> T:
    return b if b.free_indices() > a.free_indices() else a


def _with_stacks(attempt: Attempt[T]) -> tuple[T, frozenset[str], frozenset[str]]:
    """Whole operands of stacks may go, where that frees anything: the coupling, what is stuck in it, those stacks."""
    first, stuck = attempt(frozenset())
    stacks = stuck - _unstacked(stuck)
    useful = stacks - attempt(stacks)[1] if stacks else stacks
    if useful:
        second, rest = attempt(useful)
        if _freer(first, second) is second:
            return second, _unstacked(rest), useful
    return first, _unstacked(stuck), frozenset()


def _unstacked(origins: frozenset[str]) -> frozenset[str]:
    return frozenset(origin for origin in origins if not origin.endswith(STACKED))
