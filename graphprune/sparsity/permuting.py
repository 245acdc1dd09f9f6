"""Which channels may trade places, and what that means for every weight.

The labels say it: two components of a group that lie on the same axes, equally often, may trade places everywhere at
once, and nothing changes but the order of sums. Where an operator tells them apart (another piece of a split, another
group of a grouped convolution, another input) their axes differ.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from graphprune.errors import GraphPruneError
from graphprune.ops.base import Array

from ..coupling import Coupling, Use
from .layers import Layer
from .methods import Scored
from .patterns import NM
from .search import kept_magnitude, search

#: Rows of the weights that contract a set of channels are sampled down to so many.
_MOST_ROWS = 1 << 13
#: Seconds that all searches of a model may take together.
SECONDS = 60.0


@dataclass(frozen=True, eq=False)
class Trade:
    """Components that may trade places and, in the order of slots along an axis, whole groups of M of them.

    `layers` are those whose sums run over them in this arrangement.
    """

    name: str
    slots: Array
    layers: tuple[tuple[Layer, Array], ...]  # with the places of the slots along the contracted axis


def find_trades(coupling: Coupling, layers: Sequence[Layer], pattern: NM) -> list[Trade]:
    """Sets of components whose order matters to N:M groups of some layer, the largest layers first."""
    kinds = alike(coupling)
    found: dict[int, list[tuple[Layer, Array]]] = {}
    for layer in sorted(layers, key=lambda layer: -layer.value.sizes[layer.how.axis] * layer.rows):
        components = _along(coupling, layer)
        if components is None:
            continue
        for kind in np.unique(kinds[components]).tolist():
            if kind >= 0:
                places = _whole_groups(components, kinds == kind, pattern.m)
                if len(places) > pattern.m:
                    found.setdefault(kind, []).append((layer, places))
    return [_trade(coupling, rows, pattern.m) for rows in found.values()]


def alike(coupling: Coupling) -> Array:
    """For each component a number that those which may trade places share; -1 where it must stay in its place."""
    random = np.random.default_rng(0)
    sign = coupling.group_of.astype(np.uint64)
    part = _places(coupling.component)
    seen: dict[int, Array] = {}  # held, so that no other array gets the number of one that is gone
    for labels in _label_arrays(coupling):
        if id(labels) not in seen:
            seen[id(labels)] = labels
            _mark(sign, coupling.component, part, labels.reshape(-1), random)
    for group in coupling.groups:
        for number, row in enumerate(group.components):
            sign[row] += np.array([number], np.uint64) * random.integers(1, 1 << 63, dtype=np.uint64)
    _, kinds = np.unique(sign, return_inverse=True)
    kinds = kinds.astype(np.int64)
    kinds[coupling.frozen | coupling.ordered | _shuffled(coupling) | (coupling.group_of < 0)] = -1
    for value in (*coupling.graph.inputs, *coupling.graph.outputs):  # caches, ids of vocabularies
        for block in coupling.blocks.get(value, ()):
            kinds[coupling.component[block.labels.reshape(-1)]] = -1
    for table in coupling.tables:
        for block in coupling.blocks[table.weight]:
            if table.axis in block.axes:
                kinds[coupling.component[block.labels.reshape(-1)]] = -1
    return kinds


def _shuffled(coupling: Coupling) -> Array:
    """Components several of whose elements have one label where an operator moves elements: in which order they come
    out cannot be told.
    """
    found = np.zeros(coupling.count, bool)
    for node in coupling.graph.flat_nodes:
        if not coupling.rule(node).moves or node.inputs[0] is None:
            continue
        whole = {id(block.labels) for output in node.outputs for block in coupling.blocks.get(output, ())}
        for block in coupling.blocks.get(node.inputs[0], ()):
            if id(block.labels) not in whole:
                labels, counts = np.unique(block.labels, return_counts=True)
                found[coupling.component[labels[counts > 1]]] = True
    return found


def _mark(sign: Array, component: Array, part: Array, labels: Array, random: np.random.Generator) -> None:
    """Add to the sign of each component which of its parts lie in an array of labels, in which order."""
    own = component[labels]
    place = _places(own)
    number = random.integers(1, 1 << 63, 2, dtype=np.uint64)
    if place.any():  # a trade moves the first element of one to where the first of the other was, and so on
        mixed = (place.astype(np.uint64) << np.uint64(32)) + part[labels].astype(np.uint64) + np.uint64(1)
        mixed = (mixed * number[1]) ^ (mixed * number[1] >> np.uint64(29))
        np.add.at(sign, own, mixed * number[0])
    else:
        sign[own] += number[0]


def _places(numbers: Array) -> Array:
    """How often the number at each place occurred before."""
    order = np.argsort(numbers, kind="stable")
    ranked = numbers[order]
    first = np.flatnonzero(np.concatenate([[True], ranked[1:] != ranked[:-1]])) if numbers.size else order
    found = np.empty(numbers.size, np.int64)
    found[order] = np.arange(numbers.size) - np.repeat(first, np.diff([*first, numbers.size]))
    return found


def _label_arrays(coupling: Coupling) -> Iterator[Array]:
    """Every array of labels in the graph; of columns that differ by row group, each row on its own."""
    for blocks in coupling.blocks.values():
        yield from (block.labels for block in blocks)
    for use in coupling.uses:
        yield from (block.labels for block in use.blocks)
        if use.columns is not None:
            yield from list(use.columns.labels)


def _along(coupling: Coupling, layer: Layer) -> Array | None:
    """The component of each index of the contracted axis; None where rows differ in it."""
    for use in coupling.uses:
        if use.value is layer.value:
            block = next((b for b in use.blocks if b.axes == (layer.how.axis,)), None)
            return None if block is None or use.columns is not None else coupling.component[block.labels]
    return None


def _whole_groups(components: Array, mine: Array, m: int) -> Array:
    """Places along an axis in groups of M that hold nothing but components of a kind, each of which lies there once."""
    count = np.bincount(components, minlength=mine.size)
    own = mine[components] & (count[components] == 1)
    whole = own[: own.size // m * m].reshape(-1, m).all(1)
    return np.flatnonzero(np.repeat(whole, m))


def _trade(coupling: Coupling, rows: list[tuple[Layer, Array]], m: int) -> Trade:
    """The arrangement of the largest layer, and all layers that have the same groups."""
    layer, places = rows[0]
    components = _along(coupling, layer)
    assert components is not None
    slots = components[places]
    groups = {frozenset(group) for group in slots.reshape(-1, m).tolist()}
    fitting = []
    for other, _ in rows:
        along = _along(coupling, other)
        assert along is not None
        position = np.full(coupling.count, -1)
        position[along] = np.arange(along.size)
        at = position[slots]
        if (at >= 0).all() and {frozenset(g) for g in along[np.sort(at)].reshape(-1, m).tolist()} == groups:
            fitting.append((other, at))
    return Trade(f"{layer.name}[{layer.how.axis}]", slots, tuple(fitting))


@dataclass(frozen=True)
class Gain:
    """What a trade brought: the share of the magnitude that N:M keeps of its layers, before and after, and the share
    that keeping the best of each layer without any pattern would keep.
    """

    name: str
    channels: int
    before: float
    after: float
    free: float


def choose_order(
    coupling: Coupling,
    trades: Sequence[Trade],
    pattern: NM,
    method: Scored,
    *,
    seconds: float = SECONDS,
    seed: int = 0,
    progress: Callable[[str], None] = lambda _: None,
) -> tuple[Array, list[Gain]]:
    """For each component the one that takes its place, and what that gains. `seconds` bounds all searches together."""
    moved = np.arange(coupling.count)
    sizes = np.array([len(t.slots) * sum(layer.value.sizes[layer.how.axis] for layer, _ in t.layers) for t in trades])
    gains = []
    for number, trade in enumerate(trades):
        progress(f"reordering channels ({number + 1} of {len(trades)})")
        scores = _scores(trade, method, seed)
        order = search(scores, pattern.n, pattern.m, seconds=seconds * float(sizes[number] / sizes.sum()), seed=seed)
        moved[trade.slots] = trade.slots[order]
        gains.append(_gain(trade, scores, order, pattern))
    return moved, gains


def _scores(trade: Trade, method: Scored, seed: int) -> Array:
    """The scores of all weights that contract these channels, one under the other: `[rows, slots]`."""
    random = np.random.default_rng(seed)
    total = sum(layer.value.sizes[layer.how.axis] and _rows(layer) for layer, _ in trade.layers)
    parts = []
    for layer, places in trade.layers:
        assert layer.value.weight is not None
        matrix = layer.matrices(method.scores(layer, layer.value.weight.array()))
        matrix = matrix.reshape(-1, matrix.shape[-1])
        if total > _MOST_ROWS:
            wanted = max(1, round(len(matrix) * _MOST_ROWS / total))
            matrix = matrix[random.choice(len(matrix), wanted, replace=False)]
        parts.append(matrix[:, places].astype(np.float32))
    return np.concatenate(parts)


def _rows(layer: Layer) -> int:
    return int(np.prod(layer.value.sizes)) // layer.length


def _gain(trade: Trade, scores: Array, order: Array, pattern: NM) -> Gain:
    total = float(scores.sum(dtype=np.float64)) or 1.0
    gone = round(scores.size * (1 - pattern.n / pattern.m))
    free = float(np.partition(scores.reshape(-1), gone)[gone:].sum(dtype=np.float64))
    kept = [kept_magnitude(matrix, pattern.n, pattern.m) for matrix in (scores, scores[:, order])]
    return Gain(trade.name, len(trade.slots), kept[0] / total, kept[1] / total, free / total)


class Exchange:
    """Slices weights so that each component's elements lie where `moved` puts them (see `passes.permute`)."""

    def __init__(self, coupling: Coupling, moved: Array) -> None:
        self._coupling, self._moved = coupling, moved
        self._known: dict[int, tuple[Array, Array | None]] = {}  # with the labels, so that their number stays theirs

    def key(self, use: Use) -> tuple[bytes, ...]:
        """Equal for uses that need the same order of the same weight; empty where nothing moves."""
        found = []
        for block in use.blocks:
            order = self._order(block.labels)
            if order is not None:
                found.append(repr(block.axes).encode() + order.tobytes())
        if use.columns is not None:
            orders = [self._order(row) for row in use.columns.labels]
            if any(order is not None for order in orders):
                found.append(b"columns" + b"".join(b"-" if o is None else o.tobytes() for o in orders))
        return tuple(found)

    def weight_shape(self, use: Use, shape: tuple[int, ...]) -> tuple[int, ...]:
        """No size changes."""
        return shape

    def slice_weight(self, use: Use, array: Array) -> Array:
        """The elements in their new places; `array` may have size 1 where it does not vary."""
        for block in use.blocks:
            order = self._order(block.labels)
            if order is None:
                continue
            if block.joint:
                raise GraphPruneError(f"weight '{use.value.name}' is labeled jointly")
            if array.shape[block.axes[0]] > 1:
                array = np.take(array, order, axis=block.axes[0])
        return array if use.columns is None else self._columns(use, array)

    def _columns(self, use: Use, array: Array) -> Array:
        columns = use.columns
        assert columns is not None
        if array.shape[columns.axis] == 1:
            return array
        parts = np.split(array, len(columns.labels), axis=columns.by)
        orders = [self._order(row) for row in columns.labels]
        moved = [p if o is None else np.take(p, o, axis=columns.axis) for p, o in zip(parts, orders, strict=True)]
        return np.concatenate(moved, axis=columns.by)

    def _order(self, labels: Array) -> Array | None:
        """For each index along a label array the index whose elements come there; None where all stay."""
        key = id(labels)
        if key not in self._known:
            self._known[key] = labels, self._find(self._coupling.component[labels.reshape(-1)])
        return self._known[key][1]

    def _find(self, components: Array) -> Array | None:
        wanted = self._moved[components]
        if np.array_equal(wanted, components):
            return None
        have, want = np.argsort(components, kind="stable"), np.argsort(wanted, kind="stable")
        order = np.empty_like(have)
        order[want] = have  # the first place that wants a component gets its first elements, and so on
        return order
