"""Choosing the sizes of free axes: such that the model runs at them, and a second set that tells what follows them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Generic, TypeVar

from .binding import Binding, Sizes

T = TypeVar("T")

#: Rounds without any change after which it is not the sizes that do not fit.
_PATIENCE = 3
#: Beyond so many nodes only few sizes are tried: each takes a walk over the whole model.
_LARGE = 4000
_FEW = 3
#: Axes that are moved alone.
_MOST = 8


@dataclass(frozen=True)
class Attempt(Generic[T]):
    """What came of some sizes: the nodes that they do not fit, under the first and only under the second binding; and
    how many results are of unknown sizes.
    """

    found: T
    sizes: Sizes
    others: Sizes
    refused: frozenset[str]
    moved: frozenset[str]
    unknown: int = 0

    @property
    def whole(self) -> bool:
        """Whether every node takes these sizes."""
        return not self.refused


#: Walks the model at sizes, with others in place of some for the second binding.
Build = Callable[[Sizes, Sizes], Attempt[T]]


def settle(binding: Binding, build: Build[T], nodes: int) -> Attempt[T]:
    """The first sizes at which every node runs, else those at which most do."""
    first = binding.first()
    attempt = build(first, {key: binding.moved(key, first[key])[0] for key in binding.free})
    if not attempt.whole and binding.open:
        fitting = _fitting(islice(binding.rounds(), 1, _FEW if nodes > _LARGE else None), build, attempt)
        if fitting is not attempt:
            others = {key: binding.moved(key, fitting.sizes[key])[0] for key in binding.free}
            attempt = build(fitting.sizes, others)
    return attempt if not attempt.moved and not attempt.unknown else _moving(binding, build, attempt)


def _fitting(rounds: Iterator[dict[str, int]], build: Build[T], best: Attempt[T]) -> Attempt[T]:
    same = 0
    for sizes in rounds:
        attempt = build(sizes, {})
        same = same + 1 if attempt.refused == best.refused else 0
        if len(attempt.refused) < len(best.refused):
            best = attempt
        if best.whole or same >= _PATIENCE:
            break
    return best


def _moving(binding: Binding, build: Build[T], attempt: Attempt[T]) -> Attempt[T]:
    """The same sizes with a second binding that runs: of axes that have no other size at which it does, any size."""
    held = build(attempt.sizes, {})
    if not attempt.moved and attempt.unknown <= held.unknown:
        return attempt
    others: dict[str, int] = {}
    for key in list(binding.free)[:_MOST]:
        for size in binding.moved(key, attempt.sizes[key]):
            moving = build(attempt.sizes, {key: size})
            if not moving.moved and moving.unknown <= held.unknown:
                others[key] = size
                break
    again = build(attempt.sizes, others)
    return held if again.moved or again.unknown > held.unknown else again
