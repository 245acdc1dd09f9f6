"""Constant tuples of indices that form a grid: an axis that they address is picked along an axis of its own."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from graphprune.ir.graph import Value

from .base import Array, Kept


@dataclass(frozen=True)
class Line:
    """One addressed axis: the indices picked from it, in order along one axis of the tuples."""

    along: int
    picks: Array


def lines(tuples: Array | None) -> dict[int, Line]:
    """The addressed axes that are picked along an axis of their own, by their place in the tuples (which lie along the
    last axis of the array); none where the tuples are not known.
    """
    if tuples is None or tuples.ndim < 2 or not tuples.size:
        return {}
    found = {place: line for place in range(tuples.shape[-1]) if (line := _line(tuples[..., place])) is not None}
    varying = [_varies(tuples[..., place]) for place in range(tuples.shape[-1])]
    return {
        place: line
        for place, line in found.items()
        if sum(line.along in axes for axes in varying) == 1 and len(line.picks) > 1
    }


def _varies(indices: Array) -> list[int]:
    """The axes along which indices change."""
    return [a for a in range(indices.ndim) if (indices != indices.take([0], a)).any()]


def _line(indices: Array) -> Line | None:
    """Indices that change along one axis only, each another; None for others."""
    axes = _varies(indices)
    if len(axes) != 1:
        return None
    picks = np.moveaxis(indices, axes[0], 0).reshape(indices.shape[axes[0]], -1)[:, 0]
    return Line(axes[0], picks) if len(set(picks.tolist())) == len(picks) else None


def renumbered(tuples: Array, kept: Kept, x: Value, axes: list[int], along: dict[int, tuple[Value, int]]) -> Array:
    """Tuples after removal: those that are left along each of their own axes (`along` says where these lie in another
    value), counted anew on each axis of x that they address.
    """
    for own, (value, axis) in along.items():
        left = kept.indices(value, axis)
        tuples = tuples if left is None else tuples.take(left, axis=own)
    columns = []
    for place, axis in enumerate(axes):
        left, column = kept.indices(x, axis), tuples[..., place]
        columns.append(column if left is None else np.searchsorted(left, column))
    return np.stack(columns, axis=-1).astype(np.int64)
