"""Which of several walks is taken."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from graphprune.coupling.search import best, tangled


@dataclass
class Coupled:
    """A coupling as the search sees it."""

    free: int
    flipped: frozenset[str]
    picked: frozenset[str] = frozenset()
    deep: frozenset[str] = frozenset()
    blames: frozenset[str] = frozenset()

    def free_indices(self) -> int:
        return self.free

    def blamed(self) -> frozenset[str]:
        return self.blames


def test_what_was_freest_on_the_way_is_not_forgotten() -> None:
    """With both splits made the other way most is free, though one of them is stuck either way; alone, the other one
    frees little.
    """
    walks = {"": (4, "heads, groups"), "groups, heads": (9, "groups"), "heads": (6, "groups"), "groups": (4, "heads")}
    assert _best(walks).free == 9


def test_of_choices_that_hang_together_one_alone_is_tried() -> None:
    """A norm's groups may be whole groups only where the split before it stays as it is, and the other way round; with
    both made the other way nothing is free.
    """
    walks = {"": (4, "split, groups"), "groups, split": (4, "split, groups"), "groups": (8, "")}
    assert _best(walks).free == 8


def test_the_width_of_values_that_are_taken_apart_is_tried_though_their_number_is_free() -> None:
    """What is freer of both is where the search for what is stuck begins."""
    picks = {"pieces"}
    walks = {"": (4, "heads"), "pieces": (9, "heads"), "heads, pieces": (12, "")}
    assert _best(walks, picks).free == 12
    assert _best({"": (4, ""), "pieces": (3, "")}, picks).free == 4


def test_of_three_axes_the_second_is_taken_where_it_frees_nearly_as_much_as_the_last() -> None:
    walks = {"": (2, "view"), "view": (80, ""), "view second": (76, "")}
    found = _best(walks, deep={"view"})
    assert found.flipped == {"view second"}
    assert _best({**walks, "view second": (70, "")}, deep={"view"}).flipped == {"view"}


def test_choices_hang_together_by_what_they_are_about() -> None:
    parts = {"a": frozenset({1, 2}), "b": frozenset({3}), "c": frozenset({2, 4}), "d": frozenset({4})}
    assert tangled(parts) == [["a", "c", "d"]]
    assert tangled({}) == []


def test_a_choice_that_fixes_channels_is_made_the_other_way_where_that_frees_clearly_more() -> None:
    assert _best({"": (100, ""), "view": (120, "")}, blames={"view"}).free == 120
    assert _best({"": (100, ""), "view": (105, "")}, blames={"view"}).free == 100


def _best(
    walks: dict[str, tuple[int, str]],
    picked: Collection[str] = (),
    deep: Collection[str] = (),
    blames: Collection[str] = (),
) -> Coupled:
    """Walks by the choices made the other way: what is free, and which choices are stuck (all about one component).

    `picked` are choices whose active axis is taken apart, as long as they are not made the other way; `deep` are among
    more than two axes, `blames` fix channels.
    """

    def attempt(flipped: frozenset[str]) -> tuple[Coupled, dict[str, frozenset[int]]]:
        free, stuck = walks[", ".join(sorted(flipped))]
        found = Coupled(free, flipped, frozenset(picked) - flipped, frozenset(deep), frozenset(blames))
        return found, dict.fromkeys(filter(None, stuck.split(", ")), frozenset({7}))

    return best(attempt)
