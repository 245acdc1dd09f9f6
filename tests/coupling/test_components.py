"""Solving: components, what is frozen and why, and count constraints (no model, only statements)."""

from __future__ import annotations

import numpy as np

from graphprune.coupling.components import Solution, solve
from graphprune.coupling.statements import Statements
from graphprune.ops.base import Array


def labels(*rows: list[int]) -> Array:
    return np.array(rows if len(rows) > 1 else rows[0], np.int64)


def statements(
    equal: list[tuple[list[int], list[int]]] | None = None,
    freeze: list[tuple[list[int], str]] | None = None,
    balance: list[Array] | None = None,
) -> Statements:
    """The node of each statement is its number."""
    said = Statements()
    said.equal = [(labels(a), labels(b), i) for i, (a, b) in enumerate(equal or [])]
    said.freeze = [(labels(a), 100 + i, why) for i, (a, why) in enumerate(freeze or [])]
    said.balance = [(rows, i) for i, rows in enumerate(balance or [])]
    return said


def parts(solution: Solution) -> set[frozenset[int]]:
    found: dict[int, set[int]] = {}
    for label, component in enumerate(solution.component.tolist()):
        found.setdefault(component, set()).add(label)
    return {frozenset(part) for part in found.values()}


def cells(solution: Solution) -> list[list[list[int]]]:
    """Cells by the first label of each component."""
    first = {c: label for label, c in reversed(list(enumerate(solution.component.tolist())))}
    return [sorted(sorted(first[c] for c in row) for row in cell.tolist()) for cell in solution.cells]


def test_equal_labels_are_one_component() -> None:
    solution, _ = solve(statements([([1, 2], [3, 4]), ([3], [5])]), 7)
    assert parts(solution) == {frozenset(p) for p in ([0], [1, 3, 5], [2, 4], [6])}
    assert solution.frozen.sum() == 1


def test_what_meets_label_zero_is_frozen_and_the_node_named() -> None:
    solution, causes = solve(statements([([1, 2], [3, 4]), ([3, 4], [0, 5])]), 6)
    assert solution.frozen[solution.component[[1, 3]]].all()
    assert not solution.frozen[solution.component[[2, 4, 5]]].any()
    assert causes[solution.cause[solution.component[1]]] == (1, "it meets an index that must stay")


def test_the_first_reason_wins() -> None:
    solution, causes = solve(statements([([1], [2])], [([2], "first"), ([1], "second")]), 3)
    assert causes[solution.cause[solution.component[1]]] == (100, "first")


def test_one_count_constraint_is_one_cell() -> None:
    rows = labels([1, 2, 3], [4, 5, 6])
    solution, _ = solve(statements(balance=[rows, rows]), 7)
    assert cells(solution) == [[[1, 2, 3], [4, 5, 6]]]


def test_rows_that_are_one_need_no_constraint() -> None:
    solution, _ = solve(statements([([1, 2], [3, 4])], balance=[labels([1, 2], [4, 3])]), 5)
    assert solution.cells == []


def test_finer_and_coarser_counts_refine() -> None:
    """Two rows of four and four rows of two with the same numbers in memory: the finer serves both."""
    coarse, fine = labels([1, 2, 3, 4], [5, 6, 7, 8]), labels([1, 2], [3, 4], [5, 6], [7, 8])
    solution, _ = solve(statements(balance=[coarse, fine]), 9)
    assert cells(solution) == [[[1, 2], [3, 4], [5, 6], [7, 8]]]


def test_crossing_counts_refine_to_their_intersections() -> None:
    by_rows, by_columns = labels([1, 2, 3, 4], [5, 6, 7, 8]), labels([1, 2, 5, 6], [3, 4, 7, 8])
    solution, _ = solve(statements(balance=[by_rows, by_columns]), 9)
    assert cells(solution) == [[[1, 2], [3, 4], [5, 6], [7, 8]]]


def test_counts_that_cannot_be_met_together_become_ties() -> None:
    """Two rows of three and three rows of two share no cells of equal size: the same positions go everywhere."""
    halves, thirds = labels([1, 2, 3], [4, 5, 6]), labels([1, 2], [3, 4], [5, 6])
    solution, _ = solve(statements(balance=[halves, thirds]), 7)
    assert solution.cells == []
    assert len(set(solution.component[1:].tolist())) == 1


def test_a_row_with_repeats_is_counted_by_what_it_holds() -> None:
    """Every channel copied twice: equal counts of channels are equal counts of copies."""
    solution, _ = solve(statements(balance=[labels([1, 1, 2, 2], [3, 3, 4, 4])]), 5)
    assert cells(solution) == [[[1, 2], [3, 4]]]


def test_rows_that_share_an_index_become_ties() -> None:
    solution, _ = solve(statements(balance=[labels([1, 2], [2, 3])]), 4)
    assert solution.cells == []
    assert len(set(solution.component[[1, 2, 3]].tolist())) == 1


def test_nothing_said() -> None:
    solution, causes = solve(statements(), 3)
    assert solution.frozen.tolist() == [True, False, False] and causes == []
