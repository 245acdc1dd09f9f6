"""Rankings of components, cut into steps: what a group, or several together, may keep."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphprune.coupling import Group
from graphprune.ops.base import Array


@dataclass(frozen=True, eq=False)
class Ranked:
    """Rows of components in order of importance, and their scores; `unit` components of each row go at a time."""

    components: Array
    values: Array
    unit: int


@dataclass(eq=False)
class Ladder:
    """How many units a group may keep per row, ascending; or several groups that keep the same part."""

    groups: Sequence[Group]
    counts: list[int]
    rows: Sequence[Ranked]
    level: int = 0
    fixed: bool = False

    def gained(self, level: int) -> Array:
        """The components that come with a level, in addition to those of the one below."""
        low, high = self.counts[level - 1] if level else 0, self.counts[level]
        return np.concatenate([r.components[:, low * r.unit : high * r.unit].reshape(-1) for r in self.rows])

    def mark(self, keep: Array) -> None:
        """Set what stays at this level in a mask over components."""
        for r in self.rows:
            keep[r.components] = False
            keep[r.components[:, : self.counts[self.level] * r.unit]] = True

    def step_value(self, level: int) -> float:
        """Mean importance of what is gained by going up to `level`."""
        low, high = self.counts[level - 1], self.counts[level]
        found = [r.values[:, low * r.unit : high * r.unit] for r in self.rows]
        return float(found[0].mean() if len(found) == 1 else np.concatenate([v.reshape(-1) for v in found]).mean())


def ranked(groups: Sequence[Group], scores: Array, kind: Array, units: int) -> list[Ranked]:
    """The components of all groups, those together that have as many.

    However many stay, they are about the same share of each kind: scores of several kinds are unlike sums.
    """
    alike: dict[int, list[Array]] = {}
    for group in groups:
        alike.setdefault(group.components.shape[1], []).append(group.components)
    found = []
    for size, members in alike.items():
        components = np.concatenate(members)
        falling = -scores[components]
        order = np.lexsort((falling, _shares(falling, kind[components])), axis=1)
        ordered = np.take_along_axis(components, order, axis=1)
        found.append(Ranked(ordered, scores[ordered], size // units))
    return found


def _shares(falling: Array, kind: Array) -> Array:
    """The share of its kind, in its row, that stays when a component is the next one to come."""
    order = np.lexsort((falling, kind), axis=1)
    ordered = np.take_along_axis(kind, order, axis=1)
    place = np.broadcast_to(np.arange(kind.shape[1]), kind.shape)
    change = np.diff(ordered, axis=1) != 0
    start = np.maximum.accumulate(np.where(np.insert(change, 0, True, axis=1), place, 0), axis=1)
    last = np.where(np.insert(change, change.shape[1], True, axis=1), place, kind.shape[1])
    end = np.minimum.accumulate(last[:, ::-1], axis=1)[:, ::-1]
    found = np.empty(kind.shape)
    np.put_along_axis(found, order, (place - start + 0.5) / (end - start + 1), axis=1)
    return found
