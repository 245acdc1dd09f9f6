"""Wanda: an entry counts as much as its size times the norm of what it is multiplied with."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from graphprune.ops.base import Array

from .calibrated import Calibrated, Statistic, Told
from .layers import Layer
from .methods import zeroed
from .patterns import Pattern
from .products import Meeting, from_matrices, to_matrices


class Norms:
    """Norms of columns: `[matrices (or 1), columns]`."""

    def __init__(self) -> None:
        self._sums: Array = np.zeros(())

    def add(self, rows: Array, before: Array | None = None) -> None:
        """See `Statistic`."""
        self._sums = self._sums + np.einsum("krc,krc->kc", rows, rows, dtype=np.float64)

    @property
    def squares(self) -> Array:
        """Their squares."""
        return self._sums

    @property
    def finite(self) -> bool:
        """Whether the data were."""
        return bool(np.isfinite(self._sums).all())


class Wanda(Calibrated):
    """`|weight| * norm of its data` (Sun et al. 2023, "A Simple and Effective Pruning Approach for Large Language
    Models"), for convolutions at each kernel position; compared as the pattern compares.

    By data of the model as it was: nothing makes up for what earlier layers lose, and their errors are no guide (cosine
    on a sentence encoder 0.721; by what sparse layers leave 0.711).
    """

    name: ClassVar[str] = "wanda"
    follows: ClassVar[bool] = False

    def statistic(self, meeting: Meeting) -> Statistic:
        """See `Calibrated`."""
        return Norms()

    def judge(self, layer: Layer, array: Array, pattern: Pattern, statistic: Statistic) -> tuple[Array, Array, Told]:
        """See `Calibrated`."""
        assert isinstance(statistic, Norms)
        return masked(layer, array, pattern, statistic.squares, "")


def masked(layer: Layer, array: Array, pattern: Pattern, squares: Array, note: str) -> tuple[Array, Array, Told]:
    """A mask by Wanda's scores, from the squared norms of columns; by magnitude where data hold no finite numbers."""
    if not np.isfinite(squares).all():
        note, squares = "by magnitude: its data are not finite", np.ones_like(squares)
    mask = pattern.keep(weigh(layer, array, squares), layer)
    return mask, zeroed(array, mask), Told(note)


def weigh(layer: Layer, array: Array, squares: Array) -> Array:
    """Wanda's scores, laid out as the weight; `squares` are squared norms of columns: `[matrices (or 1), columns]`."""
    matrices = to_matrices(layer, np.abs(array.astype(np.result_type(array.dtype, np.float32), copy=False)))
    empty = ~squares.any(1, keepdims=True)  # matrices that no data reached
    norms = np.sqrt(np.where(empty, 1.0, squares)).astype(matrices.dtype)
    return from_matrices(layer, matrices * norms[:, None, :])
