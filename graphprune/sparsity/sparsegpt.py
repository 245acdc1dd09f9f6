"""SparseGPT: entries go column by column, and those that follow make up for them.

Where earlier layers have changed what a layer meets, its weights are first moved toward those that would give the old
outputs on the new data (asymmetric calibration, as Li et al. 2025 do it for quantisation, "GPTAQ: Efficient
Finetuning-Free Quantization for Asymmetric Calibration").
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar

import numpy as np
from scipy.linalg import LinAlgError, cholesky
from scipy.linalg.lapack import dtrtri

from graphprune.ops.base import Array

from .calibrated import Calibrated, Statistic, Told
from .layers import Layer
from .patterns import NM, Pattern, Unstructured, best_along
from .products import Meeting, from_matrices, run_of, to_matrices
from .wanda import masked

#: Columns whose updates of later ones are put off and made together; unstructured masks are chosen for so many at once.
BLOCK = 128
#: Part of the mean of the Hessian's diagonal that is added to it.
DAMPING = 0.01
#: How far weights go toward those that would make up for earlier layers. The whole way fits noise of the data: on a
#: sentence encoder half of it is better by far (and none worse than the whole).
TOWARD = 0.5
#: More columns are solved in slices on their own; the number divides into groups of all the usual sizes.
_MOST_COLUMNS = 6720
#: Bytes that the Hessians of one layer may take.
_MOST_BYTES = 4 << 30

#: Which of some neighbouring columns stay: (entries `[columns, rows]`, the factor's diagonal, first column) to a mask.
Choose = Callable[[Array, Array, int], Array]


class Hessian:
    """Sums of products of columns, `[matrices (or 1), columns, columns]`, in slices of columns; and what follows.

    `drift` are those of what the model met as it was, less what it meets, with what it meets.
    """

    def __init__(self) -> None:
        self.sums: list[list[Array]] = []
        self.drift: list[list[Array]] = []
        self._factors: dict[tuple[int, int], Array | None] = {}

    def add(self, rows: Array, before: Array | None = None) -> None:
        """See `Statistic`. Products in the type of the data, sums in float64."""
        if not self.sums:
            self.sums = _empty(rows)
            self.drift = _empty(rows) if before is not None else []
        for sums, matrix in zip(self.sums, rows, strict=True):
            for total, part in zip(sums, _slices(matrix), strict=True):
                total += part.T @ part
        for drift, matrix, old in zip(self.drift, rows, rows if before is None else before, strict=False):
            for total, part, other in zip(drift, _slices(matrix), _slices(old), strict=True):
                total += (other - part).T @ part

    @property
    def squares(self) -> Array:
        """Squared norms of the columns."""
        return np.stack([np.concatenate([np.diag(part) for part in sums]) for sums in self.sums])

    def factor(self, matrix: int, part: int) -> Array | None:
        """The upper triangle whose product (transposed first) is the inverse of the damped Hessian; None if there is
        none. Of columns that met only zeros it is that of the unit matrix.
        """
        if (matrix, part) not in self._factors:
            self._factors[matrix, part] = _factor(self.sums[matrix][part])
        return self._factors[matrix, part]

    def aimed(self, entries: Array, matrix: int, part: int) -> Array:
        """Weights `[rows, columns]` of a slice, moved toward those that would give the outputs the model had."""
        factor = self.factor(matrix, part)
        if not self.drift or factor is None or not np.isfinite(self.drift[matrix][part]).all():
            return entries
        drift = self.drift[matrix][part] / _mean(self.sums[matrix][part])
        moved: Array = TOWARD * (entries @ drift @ factor.T @ factor)
        return entries + moved.astype(entries.dtype)


def _empty(rows: Array) -> list[list[Array]]:
    widths = [part.shape[1] for part in _slices(rows[0])]
    return [[np.zeros((w, w)) for w in widths] for _ in rows]


def _mean(hessian: Array) -> float:
    """Of the diagonal, over columns that met anything."""
    diagonal = np.diag(hessian)
    return float(diagonal[diagonal > 0].mean())


def _slices(rows: Array) -> list[Array]:
    return [rows[:, start : start + _MOST_COLUMNS] for start in range(0, rows.shape[1], _MOST_COLUMNS)]


def _factor(hessian: Array) -> Array | None:
    """With the order of columns reversed, the inverse of a Cholesky factor is already what is wanted."""
    diagonal = np.diag(hessian)
    if not np.isfinite(diagonal).all() or not diagonal.any():
        return None
    mean = _mean(hessian)
    damping = DAMPING
    while damping <= 1:
        damped = hessian[::-1, ::-1] / mean
        damped[np.diag_indices_from(damped)] = np.where(diagonal > 0, diagonal / mean, 1)[::-1] + damping
        try:
            lower = cholesky(damped, lower=True, overwrite_a=True, check_finite=False)
        except LinAlgError:
            damping *= 10
            continue
        inverse, failed = dtrtri(lower, lower=1, overwrite_c=1)
        return None if failed else np.ascontiguousarray(inverse[::-1, ::-1])
    return None


class SparseGPT(Calibrated):
    """Frantar & Alistarh 2023, "SparseGPT: Massive Language Models Can Be Accurately Pruned in One-Shot".

    N:M masks are chosen as columns are reached, unstructured ones for `BLOCK` columns at a time; any other pattern is
    laid at once over what each entry costs, `w^2 / [H^-1]_jj`, before the values of what stays are updated. All of it
    starts from weights that half make up for what earlier layers lost (`TOWARD`).
    """

    name: ClassVar[str] = "sparsegpt"
    updates: ClassVar[bool] = True

    def statistic(self, meeting: Meeting) -> Statistic | str:
        """See `Calibrated`."""
        columns = meeting.columns
        needed = 2 * meeting.matrices * min(columns, _MOST_COLUMNS) * columns * 8
        return Hessian() if needed <= _MOST_BYTES else f"its Hessians would take {needed / 2**30:.0f} GB"

    def judge(self, layer: Layer, array: Array, pattern: Pattern, statistic: Statistic) -> tuple[Array, Array, Told]:
        """See `Calibrated`."""
        assert isinstance(statistic, Hessian)
        weight = layer.value.weight
        if weight is not None and not weight.plain:
            return masked(layer, array, pattern, statistic.squares, "by Wanda: its numbers are quantised")
        if not np.isfinite(statistic.squares).all():
            return masked(layer, array, pattern, statistic.squares, "")
        matrices = to_matrices(layer, array.astype(np.result_type(array.dtype, np.float32), copy=False))
        keep, new = _solved(layer, matrices, pattern, statistic)
        made = from_matrices(layer, new).astype(array.dtype)
        error = _error(matrices, to_matrices(layer, made.astype(matrices.dtype, copy=False)), statistic)
        return from_matrices(layer, keep), made, Told("", error)


def _solved(layer: Layer, matrices: Array, pattern: Pattern, hessian: Hessian) -> tuple[Array, Array]:
    """The mask and the new entries of all matrices of a layer."""
    matrices = _aimed(matrices, hessian)
    fixed = None if _adapts(pattern, layer) else to_matrices(layer, _mask(layer, matrices, pattern, hessian))
    keep, new = np.empty(matrices.shape, bool), np.empty_like(matrices)
    share = _Share(pattern.sparsity) if isinstance(pattern, Unstructured) else None
    for k, entries in enumerate(matrices):
        start = 0
        for part, sums in enumerate(hessian.sums[k if len(hessian.sums) > 1 else 0]):
            columns = slice(start, start + len(sums))
            factor = hessian.factor(k if len(hessian.sums) > 1 else 0, part)
            choose, step = _chooser(pattern, share, None if fixed is None else fixed[k, :, columns])
            keep[k, :, columns], new[k, :, columns] = solve(entries[:, columns], _alive(factor, sums), choose, step)
            start = columns.stop
    return keep, new


def _aimed(matrices: Array, hessian: Hessian) -> Array:
    """All matrices of a layer, moved as `Hessian.aimed` does."""
    found = matrices.copy()
    for k, entries in enumerate(matrices):
        start, own = 0, k if len(hessian.sums) > 1 else 0
        for part, sums in enumerate(hessian.sums[own]):
            columns = slice(start, start + len(sums))
            found[k, :, columns] = hessian.aimed(entries[:, columns], own, part)
            start = columns.stop
    return found


def _alive(factor: Array | None, sums: Array) -> tuple[Array, Array]:
    """The factor and which columns met anything; where no column did, entries are judged by magnitude."""
    if factor is None:
        return np.eye(len(sums)), np.ones(len(sums), bool)
    return factor, np.diag(sums) > 0


def _adapts(pattern: Pattern, layer: Layer) -> bool:
    """Whether the mask is chosen on the way."""
    if isinstance(pattern, NM):
        return run_of(layer) % pattern.m == 0
    return isinstance(pattern, Unstructured)


def _mask(layer: Layer, matrices: Array, pattern: Pattern, hessian: Hessian) -> Array:
    """Any pattern, over what it costs to remove each entry alone."""
    costs = np.empty(matrices.shape)
    for k, entries in enumerate(matrices):
        own = hessian.sums[k if len(hessian.sums) > 1 else 0]
        found = [hessian.factor(k if len(hessian.sums) > 1 else 0, part) for part in range(len(own))]
        spread = [np.ones(len(s)) if f is None else np.square(f).sum(0) for s, f in zip(own, found, strict=True)]
        costs[k] = np.square(entries) / np.concatenate(spread)
    return pattern.keep(from_matrices(layer, costs), layer)


class _Share:
    """So many entries of each block go that after every block the share over all so far is met."""

    def __init__(self, sparsity: float) -> None:
        self._sparsity = sparsity
        self._seen = self._gone = 0

    def __call__(self, part: Array, spread: Array, first: int) -> Array:
        self._seen += part.size
        gone = round(self._seen * self._sparsity) - self._gone
        self._gone += gone
        flat = np.square(part / spread[:, None]).reshape(-1)
        keep = np.ones(flat.size, bool)
        if gone > 0:
            keep[np.argpartition(flat, gone - 1)[:gone]] = False
        return keep.reshape(part.shape)


def _chooser(pattern: Pattern, share: _Share | None, fixed: Array | None) -> tuple[Choose, int]:
    """How the mask of columns is found, and of how many at once (0: a block)."""
    if fixed is not None:
        return lambda part, spread, first: fixed.T[first : first + len(part)], 0
    if share is not None:
        return share, 0
    assert isinstance(pattern, NM)
    return lambda part, spread, first: best_along(np.square(part / spread[:, None]), 0, pattern.n, pattern.m), pattern.m


def solve(entries: Array, factor: tuple[Array, Array], choose: Choose, step: int = 0) -> tuple[Array, Array]:
    """The mask and new entries of one matrix `[rows, columns]`, given the Hessian's factor and which columns live."""
    upper, alive = factor
    upper = upper.astype(entries.dtype, copy=False)
    left = np.ascontiguousarray(entries.T) * alive[:, None]
    keep = np.empty(left.shape, bool)
    size = BLOCK - BLOCK % step if step and step <= BLOCK else step or BLOCK
    for start in range(0, len(left), size):
        stop = min(start + size, len(left))
        own = upper[start:stop, start:stop]
        errors = _block(left[start:stop], own, keep[start:stop], choose, step or size, start)
        left[stop:] -= upper[start:stop, stop:].T @ errors
    return keep.T, left.T


def _block(part: Array, own: Array, keep: Array, choose: Choose, step: int, first: int) -> Array:
    """Work through the columns of a block (rows of `part`); returns what later columns have to make up for."""
    spread = np.diag(own)
    errors = np.empty_like(part)
    for i in range(len(part)):
        if i % step == 0:
            keep[i : i + step] = choose(part[i : i + step], spread[i : i + step], first + i)
        errors[i] = np.where(keep[i], 0, part[i]) / own[i, i]
        part[i + 1 :] -= np.multiply.outer(own[i, i + 1 :], errors[i])
        part[i] *= keep[i]
    return errors


def _error(before: Array, after: Array, hessian: Hessian) -> float:
    """The squared difference of the outputs on the calibration data, as a share of the squared outputs."""
    lost = total = 0.0
    for k, (old, new) in enumerate(zip(before, after, strict=True)):
        start = 0
        for sums in hessian.sums[k if len(hessian.sums) > 1 else 0]:
            columns = slice(start, start + len(sums))
            narrow = sums.astype(before.dtype, copy=False)
            gap = old[:, columns] - new[:, columns]
            lost += float(np.einsum("rc,rc->", gap @ narrow, gap, dtype=np.float64))
            total += float(np.einsum("rc,rc->", old[:, columns] @ narrow, old[:, columns], dtype=np.float64))
            start = columns.stop
    return lost / total if total > 0 else 0.0
