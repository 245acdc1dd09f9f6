"""Weights that lie in files: slices and masks of them are read row by row too."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.ir.graph import Weight

ARRAY = np.arange(120.0, dtype=np.float32).reshape(10, 4, 3)


def lazy(seen: list[tuple[int, int]]) -> Weight:
    def rows(start: int, stop: int) -> np.ndarray:
        seen.append((start, stop))
        return ARRAY[start:stop]

    return Weight(ARRAY.shape, ARRAY.dtype, lambda: pytest.fail("read whole"), lazy=True, read_rows=rows)


@pytest.mark.parametrize("together", [1, 200, 1 << 20])
@pytest.mark.parametrize("rows", [[0, 1, 2, 6, 7, 9], [9, 2, 5], [4], list(range(10))])
def test_a_slice_reads_the_rows_that_it_has(rows: list[int], together: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ascending or not; `together` are bytes of neighbours that may be read in between (a row has 48)."""
    monkeypatch.setattr("graphprune.ir.weights._TOGETHER", together)
    seen: list[tuple[int, int]] = []

    def cut(array: np.ndarray) -> np.ndarray:
        array = array[rows] if len(array) > 1 else array
        return array[:, :, [0, 2]] if array.shape[2] > 1 else array

    sliced = lazy(seen).sliced(cut, (len(rows), 4, 2), alone=True)
    np.testing.assert_array_equal(np.concatenate(list(sliced.by_rows(2))), cut(ARRAY))
    np.testing.assert_array_equal(sliced.array(), cut(ARRAY))
    if together == 1:
        assert seen == [(row, row + 1) for pair in range(0, len(rows), 2) for row in sorted(rows[pair : pair + 2])] + [
            (row, row + 1) for row in rows
        ]


def test_a_mask_is_laid_over_the_rows_that_are_read() -> None:
    seen: list[tuple[int, int]] = []
    masks = [(np.arange(10) % 3 > 0).reshape(10, 1, 1), np.array([True, False, True])]
    masked = lazy(seen).masked(masks)
    expected = ARRAY * masks[0] * masks[1]
    np.testing.assert_array_equal(np.concatenate(list(masked.by_rows(3))), expected)
    assert seen == [(0, 3), (3, 6), (6, 9), (9, 10)]
