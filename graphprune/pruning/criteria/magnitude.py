"""Magnitude criteria: how much each component matters, judged from the weights alone.

Scores are summed over everything that a component couples (Fang et al. 2023, "DepGraph", for the idea of group-level
importance), then normalized within each group so that one ranking can compare groups.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod

import numpy as np

from graphprune.coupling import Coupling, Group, Use
from graphprune.coupling.kinds import kinds
from graphprune.errors import InputError
from graphprune.ir.graph import Weight, uncollected
from graphprune.ops import lookup, reader
from graphprune.ops.base import Array, Block
from graphprune.registry import pick

#: What a criterion computes: a score per component of the coupling, not yet normalized.
Criterion = Callable[[Coupling, str, int], Array]

_NORM_KINDS = frozenset({"batch_norm", "layer_norm", "group_norm", "instance_norm"})
CRITERIA: dict[str, Criterion] = {}
#: Elements of a weight that are looked at together.
_PART = 1 << 24
#: The largest number whose squares can be added up.
_LARGEST = 1e16
REDUCTIONS = ("sum", "mean", "max")
NORMALIZATIONS = ("mean", "max", "sum", "none")


def criterion(name: str) -> Callable[[Criterion], Criterion]:
    """Register a criterion."""

    def register(function: Criterion) -> Criterion:
        CRITERIA[name] = function
        return function

    return register


@uncollected()
def score(
    coupling: Coupling, name: str = "l2", *, reduction: str = "sum", normalization: str = "mean", seed: int = 0
) -> Array:
    """Score every component (float64, `[components]`; higher matters more).

    `reduction` joins what a component has on several weight axes ("sum", "mean", "max"); `normalization` divides each
    group's scores by their mean, max or sum, or leaves them ("none"). Raises InputError for an unknown name.
    """
    name = pick("criterion", name, sorted(CRITERIA))
    reduction = pick("reduction", reduction, sorted(REDUCTIONS))
    normalization = pick("normalization", normalization, sorted(NORMALIZATIONS))
    scores = CRITERIA[name](coupling, reduction, seed)
    for group in coupling.groups:
        if not np.isfinite(scores[group.components]).all():
            raise InputError(f"the weights around '{group.name}' hold NaN or infinite numbers, which cannot be ranked")
    if normalization != "none" and name != "lamp":
        scores = _comparable(coupling, scores)
        _normalize(coupling, scores, normalization)
    return scores


def _comparable(coupling: Coupling, scores: Array) -> Array:
    """Scores with the same mean for every kind of component (see `coupling/kinds.py`)."""
    kind = kinds(coupling)
    mean = np.bincount(kind, scores) / np.bincount(kind)
    return scores / np.where((mean > 0) & np.isfinite(mean), mean, 1)[kind]


def _normalize(coupling: Coupling, scores: Array, how: str) -> None:
    for group in coupling.groups:
        own = scores[group.components]
        scale = {"mean": own.mean(), "max": own.max(), "sum": own.sum()}[how]
        if scale > 0:
            scores[group.components] = own / scale


def _weights(coupling: Coupling) -> Iterator[Use]:
    """Uses of trainable weights, each tied weight once."""
    seen = set()
    for use in coupling.uses:
        weight = use.value.weight
        if weight is not None and weight.trainable and use.value not in seen:
            if weight.tied:
                seen.add(use.value)
            yield use


def _axis_sums(use: Use, power: Callable[[Array], Array]) -> Sequence[tuple[Array, Array]]:
    """For each labeled axis: (labels, sum of `power(weight)` per index).

    In a table that is merely added, numbers that are infinite or too large to be squared are a mask, and weigh nothing.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        found = list(_plain_sums(use, power))
        if all(np.isfinite(sums).all() for _, sums in found) or lookup(reader(use.node, use.slot)[0].kind).bears:
            return found
        return list(_plain_sums(use, lambda array: power(np.where(np.abs(array) > _LARGEST, 0, array))))


def _all_sums(coupling: Coupling, use: Use, power: Callable[[Array], Array]) -> Iterator[tuple[Array, Array]]:
    """The same, and for indices without which the weight is of no use: all of it."""
    found = list(_axis_sums(use, power))
    yield from found
    labels, weight = coupling.fates.get(use.value), use.value.weight
    if labels is not None and weight is not None:
        total = found[0][1].sum() if found else power(_wide(weight.array())).sum()
        yield labels, np.full(len(labels), float(total))


def _plain_sums(use: Use, power: Callable[[Array], Array]) -> Iterator[tuple[Array, Array]]:
    weight = use.value.weight
    assert weight is not None
    blocks = [b for b in use.blocks if not b.joint]
    if not blocks and use.columns is None:
        return
    if use.columns is None and weight.size > _PART:
        yield from _sums_in_parts(weight, blocks, power)
        return
    mass = power(_wide(weight.array()))
    if mass.ndim == 1:
        yield blocks[0].labels, mass.astype(np.float64)
        return
    grouped = [use.columns.axis, use.columns.by] if use.columns is not None else []
    mass = _without_tail(mass, max([*grouped, *(b.axes[0] for b in blocks)]))
    for block in blocks:
        yield block.labels, _sum_to(mass, block.axes)
    if use.columns is not None:
        columns = use.columns
        matrix = _sum_to(mass, (columns.by, columns.axis))
        yield columns.labels.reshape(-1), matrix.reshape(len(columns.labels), -1, matrix.shape[1]).sum(1).reshape(-1)


def _wide(array: Array) -> Array:
    return array if array.dtype == np.float32 else array.astype(np.float32)


def _sums_in_parts(
    weight: Weight, blocks: Sequence[Block], power: Callable[[Array], Array]
) -> Iterator[tuple[Array, Array]]:
    """The same for a weight too large to hold as float32: some rows at a time."""
    sums = [np.zeros(b.labels.size) for b in blocks]
    step = max(1, _PART * weight.shape[0] // weight.size)
    for at, rows in enumerate(weight.by_rows(step)):
        mass, start = power(_wide(rows)), at * step
        for block, total in zip(blocks, sums, strict=True):
            if block.axes == (0,):
                total[start : start + step] = _sum_to(mass, (0,))
            else:
                total += _sum_to(mass, block.axes)
    yield from ((b.labels, total) for b, total in zip(blocks, sums, strict=True))


def _sum_to(mass: Array, axes: tuple[int, ...]) -> Array:
    """Sum over all other axes; as matrix products with ones, which are much faster than sums over short axes."""
    first, last = min(axes), max(axes)
    mass = _without_tail(mass, last)
    head = prod(mass.shape[:first])
    if head > 1:
        mass = (np.ones(head, mass.dtype) @ mass.reshape(head, -1)).reshape(mass.shape[first:])
    mass = mass.reshape(mass.shape[-(last - first + 1) :])
    middle = tuple(a for a in range(1, last - first))
    return mass.sum(axis=middle, dtype=np.float64) if middle else mass.astype(np.float64)


def _without_tail(mass: Array, last: int) -> Array:
    """Sum over the axes after `last`."""
    tail = prod(mass.shape[last + 1 :])
    flat = mass.reshape(-1, tail) @ np.ones(tail, mass.dtype) if tail > 1 else mass
    return flat.reshape(mass.shape[: last + 1])


def _accumulate(coupling: Coupling, parts: Iterator[tuple[Array, Array]], reduction: str) -> Array:
    """Join what each component has on its weight axes."""
    found = list(parts)
    if not found:
        return np.zeros(coupling.count)
    components = coupling.component[np.concatenate([labels for labels, _ in found])]
    sums = np.concatenate([sums for _, sums in found])
    if reduction == "max":
        largest = np.zeros(coupling.count)
        np.maximum.at(largest, components, sums)
        return largest
    total: Array = np.bincount(components, sums, coupling.count)
    if reduction == "mean":
        total = total / np.maximum(np.bincount(components, minlength=coupling.count), 1)
    return total


@criterion("l1")
def l1(coupling: Coupling, reduction: str, seed: int) -> Array:
    """Sum of absolute weights (Li et al. 2017)."""
    parts = (p for use in _weights(coupling) for p in _all_sums(coupling, use, np.abs))
    return _accumulate(coupling, parts, reduction)


@criterion("l2")
def l2(coupling: Coupling, reduction: str, seed: int) -> Array:
    """Euclidean norm of all coupled weights."""
    parts = (p for use in _weights(coupling) for p in _all_sums(coupling, use, np.square))
    return np.sqrt(_accumulate(coupling, parts, reduction))


@criterion("bn-scale")
def bn_scale(coupling: Coupling, reduction: str, seed: int) -> Array:
    """Absolute scale of the norms on a channel (network slimming, Liu et al. 2017); L2 for kinds without one."""
    scales = [u for u in _weights(coupling) if _is_norm_scale(u)]
    if not scales:
        raise InputError("criterion 'bn-scale' needs normalization layers with a scale; this model has none (folded?)")
    found = _accumulate(coupling, (p for use in scales for p in _axis_sums(use, np.abs)), reduction)
    kind = kinds(coupling)
    missing = (np.bincount(kind, found) == 0)[kind]
    if missing.any():
        found[missing] = l2(coupling, reduction, seed)[missing]
    return found


def _is_norm_scale(use: Use) -> bool:
    node, slot = reader(use.node, use.slot)
    return node.kind in _NORM_KINDS and slot == 1


@criterion("fpgm")
def fpgm(coupling: Coupling, reduction: str, seed: int) -> Array:
    """Sum of distances to the other filters: what lies near the geometric median is replaceable (He et al. 2019)."""

    def distances(use: Use) -> Iterator[tuple[Array, Array]]:
        weight = use.value.weight
        assert weight is not None
        for block in use.blocks:
            if (
                not block.joint
                and len(weight.shape) > 1
                and (coupling.group_of[coupling.component[block.labels]] >= 0).any()
            ):
                array = np.moveaxis(weight.array(), block.axes[0], 0).astype(np.float64)
                flat = array.reshape(len(array), -1)
                square = (flat * flat).sum(1)
                gaps = square[:, None] + square[None, :] - 2 * flat @ flat.T
                yield block.labels, np.sqrt(np.maximum(gaps, 0)).sum(1)

    return _accumulate(coupling, (p for use in _weights(coupling) for p in distances(use)), reduction)


@criterion("lamp")
def lamp(coupling: Coupling, reduction: str, seed: int) -> Array:
    """Squared norm over that of everything at least as large in the group (Lee et al. 2021); normalized by design."""
    squares = _comparable(coupling, np.square(l2(coupling, reduction, seed)))
    for group in coupling.groups:
        squares[group.components] = _lamp(squares, group)
    return squares


def _lamp(squares: Array, group: Group) -> Array:
    own = squares[group.components].reshape(-1)
    order = np.argsort(own, kind="stable")
    left = np.cumsum(own[order][::-1])[::-1]
    scores = np.empty_like(own)
    scores[order] = own[order] / np.maximum(left, np.finfo(float).tiny)
    return scores.reshape(group.components.shape)


@criterion("random")
def random(coupling: Coupling, reduction: str, seed: int) -> Array:
    """A baseline: uniform scores from a seed."""
    return np.random.default_rng(seed).random(coupling.count)
