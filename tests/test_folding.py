"""Names that differ by layer numbers alone are one row, and its name says exactly which."""

from __future__ import annotations

import pytest

from graphprune.report.folding import fold
from graphprune.report.groups import short_count


def folded(*names: str) -> list[str]:
    return [f"{name} x{len(rows)}" for name, rows in fold(names)]


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["enc.0.w[0]", "enc.1.w[0]", "enc.2.w[0]"], ["enc.{0-2}.w[0] x3"]),
        (["l.9.w", "l.10.w", "l.11.w", "l.13.w"], ["l.{9-11,13}.w x4"]),
        (["l.0.w", "l.2.w"], ["l.{0,2}.w x2"]),
        (["l.0.w[0]", "l.0.w[1]", "l.1.w[0]"], ["l.{0,1}.w[0] x2", "l.0.w[1] x1"]),
        (["a.0.x.0", "a.0.x.1", "a.1.x.0", "a.1.x.1"], ["a.{0,1}.x.{0,1} x4"]),
        (["b1.l1", "b1.l2", "b2.l1", "b2.l2", "b2.l3"], ["b1.l{1,2} x2", "b2.l{1-3} x3"]),
        (["/f/f.0/c", "/f/f.1/c"], ["/f/f.{0,1}/c x2"]),
        (["f.0/f.0.1", "f.2/f.2.1"], ["f.{0,2}/f.{0,2}.1 x2"]),
        (["e.0/linear_3", "e.1/linear_7", "e.2/linear_11"], ["e.{0-2}/linear_* x3"]),
        (["l.01", "l.02", "l.03"], ["l.{01,02,03} x3"]),
        (["same", "same"], ["same x2"]),
        ([], []),
    ],
)
def test_what_is_alike_up_to_numbers_folds(names: list[str], expected: list[str]) -> None:
    assert folded(*names) == expected


def test_only_rows_with_equal_keys_fold_and_the_first_comes_first() -> None:
    names = ["l.0.a", "l.0.b", "l.1.a", "l.2.a", "l.1.b"]
    assert fold(names, [64, 8, 64, 128, 8]) == [("l.{0,1}.a", [0, 2]), ("l.{0,1}.b", [1, 4]), ("l.2.a", [3])]


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0"), (999, "999"), (1000, "1.00 k"), (44_355, "44.4 k"), (999_499, "999 k"), (999_552, "1.00 M"),
     (12_094_464, "12.1 M"), (7_000_000_000, "7.00 G")],
)  # fmt: skip
def test_three_digits_of_a_number(count: int, text: str) -> None:
    assert short_count(count) == text
