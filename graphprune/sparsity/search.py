"""Which columns should be neighbours, so that N:M keeps most: exchanges of two columns, annealed (Pool & Yu 2021,
"Channel Permutations for N:M Sparsity", search for the same by greedy exchanges).

What a group of M columns keeps, summed over rows, does not depend on other groups. With one column of a group replaced
by `x`, a row keeps `a + max(b, x)`: `a` is the sum of the N-1 largest of the others, `b` the next one. So one matrix,
for each place and each column that could come there, gives the gain of every exchange.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from ..ops.base import Array

#: Columns that are searched at once; more are dealt out at random, `_DEALS` times in the time that is given.
_TOGETHER = 128
_DEALS = 2
#: The first deal is finished unless it takes so many times as long as it should.
_PATIENCE = 2.0
#: Rows that gains are estimated from, and rounds of an annealing.
_ROWS = 4096
_ROUNDS = 1000
#: Temperatures at the start and at the end of an annealing, in units of the largest gain of the first exchange.
_HOT, _COLD = 0.1, 0.05
#: Share of an annealing in which it is warm; then only gains are taken.
_WARM = 0.85
_SMALLEST_GAIN = 1e-6


def kept_magnitude(matrix: Array, n: int, m: int) -> float:
    """What the `n` largest of each `m` neighbouring columns sum to. `matrix` is `[rows, columns]`, not negative."""
    groups = matrix.reshape(len(matrix), -1, m)
    return (
        float(np.partition(groups, m - n - 1, axis=-1)[..., m - n :].sum(dtype=np.float64))
        if n < m
        else float(matrix.sum())
    )


def search(
    matrix: Array, n: int, m: int, *, seconds: float, seed: int = 0, progress: Callable[[float], None] = lambda _: None
) -> Array:
    """An order of the columns of `matrix` (`[rows, columns]`, not negative) of which N:M keeps more.

    Never worse than the order they are in. Takes about `seconds`; `progress` is told the share of them that is over.
    """
    start, random = time.perf_counter(), np.random.default_rng(seed)
    columns = matrix.shape[1]
    order = np.arange(columns)
    groups = columns // m
    if groups < 2:
        return order
    part = max(2, min(groups, _TOGETHER // m))
    share = seconds / max(_DEALS, 1) * part / groups
    for deal in range(1 << 20):
        dealt = random.permutation(groups)
        for own in (dealt[i : i + part] for i in range(0, groups, part)):
            spent = (time.perf_counter() - start) / seconds
            progress(min(1.0, spent))
            if spent >= 1 and (deal or spent >= _PATIENCE):
                return order
            if len(own) > 1:
                _improve(matrix, order, own, n, m, random, share)
    return order


def _improve(
    matrix: Array, order: Array, groups: Array, n: int, m: int, random: np.random.Generator, seconds: float
) -> None:
    """Search among some groups of `order`, and take what was found where all rows together gain by it."""
    places = (np.sort(groups)[:, None] * m + np.arange(m)).reshape(-1)
    own = matrix[:, order[places]]
    rows = own if len(own) <= _ROWS else own[random.choice(len(own), _ROWS, replace=False)]
    found = _Annealing(np.ascontiguousarray(rows.T, np.float32), n, m, random).run(_ROUNDS, seconds)
    if kept_magnitude(own[:, found], n, m) > kept_magnitude(own, n, m) * (1 + _SMALLEST_GAIN):
        order[places] = order[places][found]


class _Annealing:
    """One annealing over a few hundred columns (`[columns, rows]`, float32)."""

    def __init__(self, columns: Array, n: int, m: int, random: np.random.Generator) -> None:
        self._columns, self._n, self._m, self._random = columns, n, m, random
        count = len(columns)
        self._order = np.arange(count)
        self._replaced = np.empty((count, count), np.float32)  # what a group keeps with this place holding that column
        group = np.arange(count) // m
        upper = np.triu(np.ones((count, count), bool)) & (group[:, None] != group[None, :])
        self._closed = np.where(upper, np.float32(0), np.float32(-np.inf))
        self._noise = random.gumbel(size=max(1 << 18, 2 * count * count)).astype(np.float32)
        self._refresh(np.arange(count // m))

    def run(self, rounds: int, seconds: float) -> Array:
        """The best order that was met in so many rounds, or fewer where they take longer than `seconds`."""
        start = time.perf_counter()
        best, kept = self._order.copy(), self._kept()
        most = max(1, len(self._order) // self._m // 4)  # exchanges at a time, when warm
        scale = max(float(self._gains().max()), 0.0)
        for step in range(2 * rounds):
            spent = max(step / rounds, (time.perf_counter() - start) / seconds)
            warm = spent < _WARM
            heat = scale * _HOT * (_COLD / _HOT) ** (spent / _WARM) if warm else 0.0
            pairs = self._pairs(heat, most if warm else len(self._order))
            if not pairs or spent > 2:
                break
            for i, j in pairs:
                self._order[[i, j]] = self._order[[j, i]]
            self._refresh(np.unique([place // self._m for pair in pairs for place in pair]))
            now = self._kept()
            if now > kept:
                best, kept = self._order.copy(), now
        return best

    def _kept(self) -> float:
        return float(np.diagonal(self._replaced[:, self._order])[:: self._m].sum(dtype=np.float64))

    def _gains(self) -> Array:
        """What each exchange of two places would gain."""
        moved = self._replaced[:, self._order]
        own = np.diagonal(moved)
        gains = moved + moved.T
        gains -= own[:, None]
        gains -= own[None, :]
        gains += self._closed
        return gains

    def _pairs(self, heat: float, most: int) -> list[tuple[int, int]]:
        """The best exchanges, no two of which touch the same group, under random noise of this size."""
        gains = self._gains()
        if heat:
            at = int(self._random.integers(0, self._noise.size - gains.size))
            gains += np.float32(heat) * self._noise[at : at + gains.size].reshape(gains.shape)
        partner = gains.argmax(1)
        value = gains[np.arange(len(gains)), partner]
        pairs: list[tuple[int, int]] = []
        taken: set[int] = set()
        for i in np.argsort(-value)[: 4 * most].tolist():
            groups = {i // self._m, int(partner[i]) // self._m}
            if value[i] <= _SMALLEST_GAIN or len(pairs) == most:
                break
            if not groups & taken:
                taken |= groups
                pairs.append((i, int(partner[i])))
        return pairs

    def _refresh(self, groups: Array) -> None:
        """What these groups keep with each column in each place."""
        places = groups[:, None] * self._m + np.arange(self._m)
        own = self._columns[self._order[places]]  # [groups, m, rows]
        ranked = np.sort(own, axis=1)[:, ::-1]
        least = ranked[:, self._n - 1, None]  # the smallest that stays
        inside = own >= least
        a = ranked[:, : self._n].sum(1)[:, None] - np.where(inside, own, least)
        b = np.where(inside, ranked[:, self._n, None], least)
        rows = own.shape[-1]
        a, b = a.reshape(-1, rows), b.reshape(-1, rows)
        step = max(1, (1 << 24) // self._columns.size)
        for first in range(0, len(b), step):
            part = b[first : first + step]
            self._replaced[places.reshape(-1)[first : first + step]] = np.maximum(
                part[:, None, :], self._columns[None]
            ).sum(-1)
        self._replaced[places.reshape(-1)] += a.sum(-1)[:, None]
