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
    tried = stuck
    for _ in range(_FLIPS):
        still = _unstacked(attempt(tried | stacks)[1])
        helped, met = tried - still, still - tried
        if not met:
            break
        tried |= met  # axes that only come to meet where others were split the other way
    if not helped:
        return first
    second, _ = attempt(helped | stacks)
    return second if second.free_indices() > first.free_indices() else first


def _with_stacks(attempt: Attempt[T]) -> tuple[T, frozenset[str], frozenset[str]]:
    """Whole operands of stacks may go, where that frees anything: the coupling, what is stuck in it, those stacks."""
    first, stuck = attempt(frozenset())
    stacks = stuck - _unstacked(stuck)
    useful = stacks - attempt(stacks)[1] if stacks else stacks
    if useful:
        second, rest = attempt(useful)
        if second.free_indices() > first.free_indices():
            return second, _unstacked(rest), useful
    return first, _unstacked(stuck), frozenset()


def _unstacked(origins: frozenset[str]) -> frozenset[str]:
    return frozenset(origin for origin in origins if not origin.endswith(STACKED))
