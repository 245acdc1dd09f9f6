"""Constant tensors, read when first asked for; whole, or row by row where that can be."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from math import prod
from typing import Any

import numpy as np

#: Reads the indices from a start to a stop of a tensor's first axis.
RowReader = Callable[[int, int], np.ndarray]

#: Bytes of neighbouring rows that are read together where a tensor is read row by row.
_TOGETHER = 1 << 26


class Weight:
    """A constant tensor, read when first asked for.

    `trainable` is True for what the model counts as a parameter (a torch `Parameter`, a floating-point ONNX
    initializer) and False for buffers, masks and index tables. `tied` says that all uses of the tensor must stay
    one tensor; where it is False, uses that end up with different slices are given copies. `lazy` says that the
    elements lie in a file: each `array()` maps them anew, so that what is derived from them is derived when needed.
    `units` says for an axis how many neighbouring indices are stored together, so that they can only go together.
    `read_rows` reads the indices from a start to a stop of the first axis without the others, where a file allows that.

    A frontend may store the elements in several tensors (integers with scales and zero points): then it gives a
    subclass that is no longer `plain`. To all rules and criteria it is the tensor that it stands for.
    """

    plain = True
    #: Whether several elements share a byte, so that none of them can be masked.
    packed = False

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: np.dtype[Any],
        read: Callable[[], np.ndarray],
        *,
        trainable: bool = True,
        tied: bool = True,
        lazy: bool = False,
        read_rows: RowReader | None = None,
    ) -> None:
        self.shape = tuple(int(n) for n in shape)
        self.dtype = np.dtype(dtype)
        self.trainable = trainable
        self.tied = tied
        self.lazy = lazy
        self.units: dict[int, int] = {}
        self.read_rows = read_rows
        self._read = read

    @classmethod
    def of(cls, array: np.ndarray, *, trainable: bool = True, tied: bool = True) -> Weight:
        """Wrap an array that is in memory already."""
        return cls(array.shape, array.dtype, lambda: array, trainable=trainable, tied=tied)

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    def array(self) -> np.ndarray:
        """The elements, of `shape` and `dtype` (bfloat16 as `ml_dtypes.bfloat16`); treat it as read-only."""
        return self._read()

    def by_rows(self, count: int) -> Iterator[np.ndarray]:
        """The elements, `count` indices of the first axis at a time; the others are not read where that can be."""
        read, starts = self.read_rows, range(0, self.shape[0], count)
        if read is not None:
            yield from (read(start, min(start + count, self.shape[0])) for start in starts)
        else:
            array = self.array()
            yield from (array[start : start + count] for start in starts)

    @property
    def stored_bytes(self) -> int:
        """What the elements take in a file."""
        return self.size * self.dtype.itemsize

    def rows_in(self, limit: int) -> int:
        """How many indices of the first axis take no more than so many bytes, but at least one."""
        return _rows_in(limit, self.shape, self.dtype)

    def sliced(self, cut: Callable[[np.ndarray], np.ndarray], shape: tuple[int, ...], *, alone: bool = False) -> Weight:
        """What `cut` leaves, whose sizes are `shape`.

        `cut` takes any array laid out over this weight's axes, of size 1 where it does not vary. `alone` says that it
        only picks indices of each axis, so that one index of the first axis may be cut without the others.
        """

        def read() -> np.ndarray:
            return np.asarray(cut(self.array()), order="C")  # `ascontiguousarray` would give a scalar an axis

        if not self.lazy:
            return Weight.of(read(), trainable=self.trainable, tied=self.tied)
        rows = self._cut_rows(cut, self.read_rows) if alone and self.read_rows is not None else None
        whole = read if rows is None else joined(rows, shape, self.dtype)
        return Weight(shape, self.dtype, whole, trainable=self.trainable, tied=self.tied, lazy=True, read_rows=rows)

    def _cut_rows(self, cut: Callable[[np.ndarray], np.ndarray], read_rows: RowReader) -> RowReader:
        rows, *others = (self._stays(cut, axis) for axis in range(len(self.shape)))
        few = self.rows_in(_TOGETHER)

        def read(start: int, stop: int) -> np.ndarray:
            array = _gathered(read_rows, rows[start:stop], few)
            for axis, stay in enumerate(others, 1):
                array = array if len(stay) == array.shape[axis] else np.take(array, stay, axis=axis)
            return array

        return read

    def _stays(self, cut: Callable[[np.ndarray], np.ndarray], axis: int) -> np.ndarray:
        """Which indices of an axis `cut` picks, where it does that and nothing else."""
        shape = [1] * len(self.shape)
        shape[axis] = self.shape[axis]
        return cut(np.arange(self.shape[axis]).reshape(shape)).reshape(-1)

    def masked(self, masks: Iterable[np.ndarray]) -> Weight:
        """The weight with zeros where any mask (broadcastable) is False."""
        laid, read_rows = list(masks), self.read_rows

        def cut(array: np.ndarray, start: int = 0, stop: int | None = None) -> np.ndarray:
            for mask in laid:
                own = mask[start:stop] if mask.ndim == array.ndim and len(mask) > 1 else mask
                array = np.where(own, array, np.zeros((), array.dtype)).astype(array.dtype, copy=False)
            return array

        found = self.sliced(cut, self.shape)
        if found.lazy and read_rows is not None:
            found.read_rows = lambda start, stop: cut(read_rows(start, stop), start, stop)
        return found


def joined(read_rows: RowReader, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Callable[[], np.ndarray]:
    """The reader of a whole tensor from that of its rows: no more than some of them are there twice."""

    def read() -> np.ndarray:
        array, step = np.empty(shape, dtype), _rows_in(_TOGETHER, shape, dtype)
        for start in range(0, shape[0], step):
            array[start : start + step] = read_rows(start, min(start + step, shape[0]))
        return array

    return read


def _rows_in(limit: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return max(1, limit // max(1, prod(shape[1:]) * dtype.itemsize))


def _gathered(read_rows: RowReader, rows: np.ndarray, few: int) -> np.ndarray:
    """Some rows, in their order; those within a few are read with what lies between them."""
    order = np.argsort(rows, kind="stable")
    ascending = rows[order]
    runs = np.split(ascending, np.flatnonzero(np.diff(ascending // few)) + 1)
    parts = [_picked(read_rows, run) for run in runs]
    array = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return array if np.array_equal(ascending, rows) else np.take(array, np.argsort(order), axis=0)


def _picked(read_rows: RowReader, rows: np.ndarray) -> np.ndarray:
    """Ascending rows."""
    if not len(rows):
        return read_rows(0, 0)
    first, last = int(rows[0]), int(rows[-1])
    array = read_rows(first, last + 1)
    return array if len(array) == len(rows) else np.take(array, rows - first, axis=0)
