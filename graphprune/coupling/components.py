"""Solving: one connected-components call over all equalities, and count constraints checked against the result."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from graphprune.ops.base import Array

from .statements import MET, Statements

#: Rounds of tying positions where a count constraint cannot be met group by group; each round only adds equalities.
_ROUNDS = 8
#: The reason of indices that have a count constraint to themselves.
ALONE = "each group keeps at least one, and has no other"


@dataclass
class Solution:
    """`component[label]`; per component: `frozen`, `cause` (index into the causes, or -1) and `renormalizing`.

    `cells` are clusters of count constraints: 2-d arrays of components whose rows must keep equal numbers.
    """

    component: Array
    frozen: Array
    cause: Array
    renormalizing: Array
    cells: list[Array]


def solve(said: Statements, labels: int) -> tuple[Solution, list[tuple[int, str]]]:
    """Components, what is frozen and why, and the count constraints that hold group by group."""
    left, right, at = _edges(said)
    zero = (left == 0) | (right == 0)
    causes = [(node, why) for _, node, why in said.freeze]
    frozen_labels = [labels_ for labels_, _, _ in said.freeze]
    frozen_causes = [np.full(len(x), i) for i, x in enumerate(frozen_labels)]
    if zero.any():
        nodes, which = np.unique(at[zero], return_inverse=True)
        frozen_labels.append(np.maximum(left, right)[zero])
        frozen_causes.append(which + len(causes))
        causes += [(int(n), MET) for n in nodes]
    left, right = left[~zero], right[~zero]
    for _ in range(_ROUNDS):
        count, component = connected_components(
            coo_matrix((np.ones(len(left), np.int8), (left, right)), shape=(labels, labels)), directed=False
        )
        cells, ties = _cells(said, component)
        if not ties:
            break
        left = np.concatenate([left, *(a for a, _ in ties)])
        right = np.concatenate([right, *(b for _, b in ties)])
    for lonely, node in _alone(said, component, cells):
        frozen_labels.append(lonely)
        frozen_causes.append(np.full(len(lonely), len(causes)))
        causes.append((node, ALONE))
    frozen, cause = _freeze(component, count, frozen_labels, frozen_causes)
    _hold_apart(said, component, frozen, cause)
    renormalizing = np.zeros(count, bool)
    for taken, _ in said.statistic:
        renormalizing[component[taken]] = True
    return Solution(component, frozen, cause, renormalizing, cells), causes


def _alone(said: Statements, component: Array, cells: list[Array]) -> list[tuple[Array, int]]:
    """Labels whose component is the only one in its cell, so that it stays; with the node that states the count."""
    alone = np.zeros(int(component.max()) + 1, bool)
    for cell in cells:
        if cell.shape[1] == 1:
            alone[cell] = True
    if not alone.any():
        return []
    stated = ((labels.reshape(-1), node) for labels, node in said.balance)
    return [(labels[alone[component[labels]]], node) for labels, node in stated if alone[component[labels]].any()]


def _edges(said: Statements) -> tuple[Array, Array, Array]:
    if not said.equal:
        empty = np.zeros(0, np.int64)
        return empty, empty, empty
    lengths = [len(a) for a, _, _ in said.equal]
    left = np.concatenate([a for a, _, _ in said.equal])
    right = np.concatenate([b for _, b, _ in said.equal])
    at = np.repeat([n for _, _, n in said.equal], lengths)
    differ = left != right
    return left[differ], right[differ], at[differ]


def _freeze(component: Array, count: int, labels: list[Array], causes: list[Array]) -> tuple[Array, Array]:
    """Frozen components, each with the first cause stated."""
    frozen, cause = np.zeros(count, bool), np.full(count, -1)
    frozen[component[0]] = True
    if labels:
        hit, why = component[np.concatenate(labels)], np.concatenate(causes)
        frozen[hit] = True
        first = np.full(count, np.iinfo(np.int64).max)
        np.minimum.at(first, hit, why)
        cause = np.where(first < np.iinfo(np.int64).max, first, -1)
    return frozen, cause


def _hold_apart(said: Statements, component: Array, frozen: Array, cause: Array) -> None:
    """All of an axis that is taken apart stays where one of its indices does; in place."""
    for _ in range(len(said.apart)):
        before = int(frozen.sum())
        for labels, _ in said.apart:
            own = component[labels]
            stuck = own[frozen[own]]
            if stuck.size:
                cause[own[~frozen[own]]] = cause[stuck].max()
                frozen[own] = True
        if int(frozen.sum()) == before:
            return


def _cells(said: Statements, component: Array) -> tuple[list[Array], list[tuple[Array, Array]]]:
    """Count constraints as disjoint clusters of equal cells; or the equalities that make the unmeetable ones hold."""
    seen: set[tuple[tuple[int, ...], bytes]] = set()
    rows: list[Array] = []
    stated: list[Array] = []
    ties: list[tuple[Array, Array]] = []
    for labels, _ in said.balance:
        parts = component[labels]
        key = parts.shape, parts.tobytes()
        if key in seen:
            continue
        seen.add(key)
        ordered = np.sort(parts, axis=1)
        if (ordered == ordered[0]).all():
            continue
        unique = _distinct(ordered)
        if unique is None:
            ties.append(_tie(labels))
        else:
            rows.append(unique)
            stated.append(labels)
    if ties:
        return [], ties
    return _clusters(rows, stated)


def _distinct(ordered: Array) -> Array | None:
    """Rows without repetition, if all rows repeat alike and share nothing."""
    fresh = np.ones(ordered.shape, bool)
    fresh[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    counts = fresh.sum(1)
    if (counts != counts[0]).any() or ordered.shape[1] % counts[0]:
        return None
    starts = np.nonzero(fresh)[1].reshape(len(ordered), -1)
    if (np.diff(starts, axis=1, append=ordered.shape[1]) != ordered.shape[1] // counts[0]).any():
        return None
    unique: Array = ordered[fresh].reshape(len(ordered), -1)
    return unique if len(np.unique(unique)) == unique.size else None


def _tie(labels: Array) -> tuple[Array, Array]:
    """The same positions in every row."""
    return np.repeat(labels[:1], len(labels) - 1, axis=0).reshape(-1), labels[1:].reshape(-1)


def _clusters(rows: list[Array], stated: list[Array]) -> tuple[list[Array], list[tuple[Array, Array]]]:
    """Join constraints that share components; split each cluster into cells that lie in one row of each of them."""
    cells, ties = [], []
    for cluster in _sharing(rows):
        found = _refine([rows[i] for i in cluster])
        if found is None:
            ties += [_tie(stated[i]) for i in cluster]
        else:
            cells.append(found)
    return cells, ties


def _sharing(rows: list[Array]) -> list[list[int]]:
    """The constraints by clusters that share components, directly or through others; the latest first in each."""
    if not rows:
        return []
    place = np.repeat(np.arange(len(rows)), [matrix.size for matrix in rows])
    _, met = np.unique(np.concatenate([matrix.reshape(-1) for matrix in rows]), return_inverse=True)
    size = len(rows) + int(met.max()) + 1
    links = coo_matrix((np.ones(len(place), np.int8), (place, len(rows) + met.reshape(-1))), shape=(size, size))
    _, cluster = connected_components(links, directed=False)
    found: dict[int, list[int]] = {}
    for i in reversed(range(len(rows))):
        found.setdefault(int(cluster[i]), []).append(i)
    return list(found.values())[::-1]


def _refine(constraints: list[Array]) -> Array | None:
    """Cells of equal size such that equal numbers in each cell meet every constraint; None if there are none."""
    members = np.unique(np.concatenate([c.reshape(-1) for c in constraints]))
    keys = np.full((len(members), len(constraints)), -1)
    for i, matrix in enumerate(constraints):
        keys[np.searchsorted(members, matrix.reshape(-1)), i] = np.repeat(np.arange(len(matrix)), matrix.shape[1])
    _, cell, counts = np.unique(keys, axis=0, return_inverse=True, return_counts=True)
    if (counts != counts[0]).any():
        return None
    order = np.argsort(cell.reshape(-1), kind="stable")
    found: Array = members[order].reshape(len(counts), -1)
    return found
