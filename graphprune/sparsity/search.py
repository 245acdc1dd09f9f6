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

from graphprune.ops.base import Array

#: Columns that are searched at once; more are dealt out at random, at least `_DEALS` times in the time that is given.
_TOGETHER = 128
_DEALS = 2
#: The first deal is finished, and an annealing when it is cold, unless it takes so many times as long as it should.
_PATIENCE, _LONGEST = 2.0, 1.5
#: Rows that gains are estimated from.
_ROWS = 4096
#: Temperatures at the start and at the end of an annealing, in units of the largest gain of the first exchange.
_HOT, _COLD = 0.08, 0.04
#: Share of an annealing in which it is warm; then only gains are taken, with time for so many rounds.
_WARM, _COOLING = 0.98, 12
_SMALLEST_GAIN = 1e-6

Clock = Callable[[], float]


def kept_magnitude(matrix: Array, n: int, m: int) -> float:
    """What the `n` largest of each `m` neighbouring columns sum to. `matrix` is `[rows, columns]`, not negative."""
    groups = matrix.reshape(len(matrix), -1, m)
    return (
        float(np.partition(groups, m - n - 1, axis=-1)[..., m - n :].sum(dtype=np.float64))
        if n < m
        else float(matrix.sum())
    )


def search(
    matrix: Array,
    n: int,
    m: int,
    *,
    seconds: float,
    seed: int = 0,
    progress: Callable[[float], None] = lambda _: None,
    clock: Clock = time.perf_counter,
) -> Array:
    """An order of the columns of `matrix` (`[rows, columns]`, not negative) of which N:M keeps more.

    Never worse than the order they are in. Takes about `seconds` by `clock`; `progress` is told the share of them that
    is over.
    """
    start, random = clock(), np.random.default_rng(seed)
    columns = matrix.shape[1]
    order = np.arange(columns)
    groups = columns // m
    if groups < 2:
        return order
    part = max(2, min(groups, _TOGETHER // m))
    share = seconds * part / groups / (1 if part == groups else _DEALS)
    for deal in range(1 << 20):
        dealt = random.permutation(groups)
        for own in (dealt[i : i + part] for i in range(0, groups, part)):
            spent = (clock() - start) / seconds
            progress(min(1.0, spent))
            if spent >= (1 if deal else _PATIENCE):
                return order
            if len(own) > 1:
                left = max(1 - spent, 0.0) * seconds if deal else share
                _improve(matrix, order, own, _Annealing(n, m, random, min(share, left), clock, alone=part == groups))
    return order


def _improve(matrix: Array, order: Array, groups: Array, annealing: _Annealing) -> None:
    """Search among some groups of `order`, and take what was found where all rows together gain by it."""
    n, m = annealing.n, annealing.m
    places = (np.sort(groups)[:, None] * m + np.arange(m)).reshape(-1)
    own = matrix[:, order[places]]
    rows = own if len(own) <= _ROWS else own[annealing.random.choice(len(own), _ROWS, replace=False)]
    found = annealing.run(np.ascontiguousarray(rows.T, np.float32))
    if kept_magnitude(own[:, found], n, m) > kept_magnitude(own, n, m) * (1 + _SMALLEST_GAIN):
        order[places] = order[places][found]


class _Annealing:
    """An annealing of so many seconds over a few hundred columns."""

    def __init__(
        self, n: int, m: int, random: np.random.Generator, seconds: float, clock: Clock, *, alone: bool
    ) -> None:
        self.n, self.m, self.random = n, m, random
        self._seconds, self._clock, self._alone = seconds, clock, alone

    def run(self, columns: Array) -> Array:
        """The best order that was met of columns (`[columns, rows]`, float32)."""
        start = self._clock()
        self._begin(columns)
        begun = self._clock() - start  # a round refreshes half as much
        warm = min(_WARM, 1 - _COOLING * begun / (2 * self._seconds))
        if warm > 0:
            self._noise = self.random.gumbel(size=max(1 << 18, 2 * self._closed.size)).astype(np.float32)
        best, kept = self._order.copy(), (now := self._kept())
        most = max(1, len(columns) // self.m // 4)  # exchanges at a time, when warm
        scale = max(float(self._gains().max()), 0.0)
        while (spent := (self._clock() - start) / self._seconds) < _LONGEST:
            heat = scale * _HOT * (_COLD / _HOT) ** (spent / warm) if spent < warm else 0.0
            pairs = self._pairs(heat, most if heat else len(columns))
            if not pairs:
                if heat and self._alone:  # other noise may find some; elsewhere another deal is the better use of time
                    continue
                break
            for i, j in pairs:
                self._order[[i, j]] = self._order[[j, i]]
            self._refresh(np.unique([place // self.m for pair in pairs for place in pair]))
            before, now = now, self._kept()
            if now > kept:
                best, kept = self._order.copy(), now
            if not heat and now <= before:  # what is left to gain is rounding
                break
        return best

    def _begin(self, columns: Array) -> None:
        count = len(columns)
        self._columns, self._ones = columns, np.ones(columns.shape[1], np.float32)
        self._order = np.arange(count)
        self._replaced = np.empty((count, count), np.float32)  # what a group keeps with this place holding that column
        group = np.arange(count) // self.m
        upper = np.triu(np.ones((count, count), bool)) & (group[:, None] != group[None, :])
        self._closed = np.where(upper, np.float32(0), np.float32(-np.inf))
        self._refresh(np.arange(count // self.m))

    def _kept(self) -> float:
        return float(np.diagonal(self._replaced[:, self._order])[:: self.m].sum(dtype=np.float64))

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
            at = int(self.random.integers(0, self._noise.size - gains.size))
            gains += np.float32(heat) * self._noise[at : at + gains.size].reshape(gains.shape)
        partner = gains.argmax(1)
        value = gains[np.arange(len(gains)), partner]
        pairs: list[tuple[int, int]] = []
        taken: set[int] = set()
        for i in np.argsort(-value)[: 4 * most].tolist():
            groups = {i // self.m, int(partner[i]) // self.m}
            if value[i] <= _SMALLEST_GAIN or len(pairs) == most:
                break
            if not groups & taken:
                taken |= groups
                pairs.append((i, int(partner[i])))
        return pairs

    def _refresh(self, groups: Array) -> None:
        """What these groups keep with each column in each place."""
        places = (groups[:, None] * self.m + np.arange(self.m)).reshape(-1)
        own = self._columns[self._order[places]].reshape(len(groups), self.m, -1)  # [groups, m, rows]
        ranked = np.sort(own, axis=1)[:, ::-1]
        least = ranked[:, self.n - 1, None]  # the smallest that stays
        inside = own >= least
        a = ranked[:, : self.n].sum(1)[:, None] - np.where(inside, own, least)
        b = np.where(inside, ranked[:, self.n, None], least).reshape(len(places), -1)
        step = max(1, (1 << 18) // self._columns.size)  # what fits into a cache
        for first in range(0, len(b), step):
            larger = np.maximum(b[first : first + step, None, :], self._columns[None])
            sums = larger.reshape(-1, larger.shape[-1]).dot(self._ones)  # a product is the fastest sum
            self._replaced[places[first : first + step]] = sums.reshape(len(larger), -1)
        self._replaced[places] += a.reshape(len(places), -1).sum(-1)[:, None]
