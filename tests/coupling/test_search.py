"""Which of several walks is taken."""

from __future__ import annotations

from dataclasses import dataclass

from graphprune.coupling.search import best


@dataclass
class Coupled:
    """A coupling as the search sees it."""

    free: int

    def free_indices(self) -> int:
        return self.free


def test_what_was_freest_on_the_way_is_not_forgotten() -> None:
    """With both splits made the other way most is free, though one of them is stuck either way; alone, the other one
    frees little.
    """
    walks = {
        frozenset[str](): (4, frozenset({"heads", "groups"})),
        frozenset({"heads", "groups"}): (9, frozenset({"groups"})),
        frozenset({"heads"}): (6, frozenset({"groups"})),
    }

    def attempt(flipped: frozenset[str]) -> tuple[Coupled, frozenset[str]]:
        free, stuck = walks[flipped]
        return Coupled(free), stuck

    assert best(attempt).free == 9
