"""Making a graph's weights sparse: which of them, by which method, and what that cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from graphprune.calibration.store import Scratch
from graphprune.errors import InputError
from graphprune.ir.graph import Graph, Weight
from graphprune.ops.base import Array
from graphprune.pruning.selection import matches, no_match

from .calibrated import Calibrated, Told
from .layers import Layer, Left, find_layers
from .masks import Masks
from .methods import Method, Scored, settled, zeroed
from .patterns import Pattern, Unstructured

_UNWANTED = "the user left it out"
_PACKED = "its integers are packed, several in a byte"


@dataclass(frozen=True)
class Made:
    """What became of one weight: zeros in it, and the share of its magnitude (sum of absolute values) that is left.

    `told` is what a method that looks at data says about it.
    """

    layer: Layer
    zeros: int
    magnitude: float
    told: Told = field(default_factory=Told)


@dataclass
class Outcome:
    """A sparse graph, the masks of its weights, and what became of each; `updated` if values that stay changed."""

    graph: Graph
    masks: Masks
    rows: list[Made] = field(default_factory=list)
    updated: bool = False


def choose(
    graph: Graph, pattern: Pattern, include: Sequence[str] = (), exclude: Sequence[str] = ()
) -> tuple[list[Layer], list[Left]]:
    """The layers that the pattern fits and the user wants; and all others with the reason.

    Raises InputError for a glob that matches nothing, and where no layer is left.
    """
    layers, left = find_layers(graph)
    names = [layer.names for layer in layers] + [{row.value.name, row.value.shown} for row in left]
    for glob in (*include, *exclude):
        if not any(matches(own, [glob]) for own in names):
            raise InputError(no_match(glob, graph.name, {name for own in names for name in own}))
    chosen = []
    for layer in layers:
        wanted = (not include or matches(layer.names, include)) and not matches(layer.names, exclude)
        packed = layer.value.weight is not None and layer.value.weight.packed
        reason = _UNWANTED if not wanted else _PACKED if packed else pattern.unfit(layer)
        if reason:
            left.append(Left(layer.value, reason, layer.node))
        else:
            chosen.append(layer)
    if not chosen:
        own = [row for row in left if row.reason != _UNWANTED] or left
        first = f": '{own[0].value.shown}': {own[0].reason}" if own else ""
        raise InputError(f"no weight of '{graph.name}' can take the pattern {pattern.text}{first}")
    return chosen, left


def make_sparse(
    graph: Graph,
    layers: Sequence[Layer],
    pattern: Pattern,
    method: Method,
    progress: Callable[[str], None] = lambda _: None,
) -> Outcome:
    """A new graph whose `layers` have the pattern; weights are worked on one at a time.

    Raises InputError where a method that goes layer by layer is to compare all weights at once.
    """
    if isinstance(method, Scored):
        method = settled(method, pattern, layers)
    elif isinstance(pattern, Unstructured) and pattern.everywhere:
        raise InputError(f"pattern {pattern.text} compares all weights at once, but data are looked at layer by layer")
    made = Outcome(graph.copy(), Masks(pattern.text), updated=isinstance(method, Calibrated) and method.updates)
    values, scratch = made.graph.weights(), Scratch()
    order = method.walk(made.graph, layers, progress) if isinstance(method, Calibrated) else layers
    for number, layer in enumerate(order):
        progress(f"making weights sparse ({number + 1} of {len(layers)})")
        weight = layer.value.weight
        assert weight is not None
        array = weight.array()
        mask, new = method.sparsify(layer, array, pattern)
        made.masks.add(layer.value.name, mask)
        told = method.told.get(layer.value.name, Told()) if isinstance(method, Calibrated) else Told()
        made.rows.append(Made(layer, int(mask.size - np.count_nonzero(mask)), _left(array, new), told))
        values[layer.value.name].weight = _replaced(weight, new, layer, made, scratch)
    place = {layer.value: i for i, layer in enumerate(layers)}
    made.rows.sort(key=lambda row: place[row.layer.value])
    return made


def _left(before: Array, after: Array) -> float:
    total = _magnitude(before)
    return _magnitude(after) / total if total else 1.0


def _magnitude(array: Array) -> float:
    """The sum of absolute values; in float64 where it must be, which takes longer."""
    found = float(np.abs(array).sum()) if array.dtype == np.float32 else math.inf
    return found if math.isfinite(found) else float(np.abs(array).sum(dtype=np.float64))


def _replaced(weight: Weight, new: Array, layer: Layer, made: Outcome, scratch: Scratch) -> Weight:
    """The new weight: of a quantised one its integers masked; of one that lies in a file made again when it is read, or
    written to another file.
    """
    name, masks = layer.value.name, made.masks
    if not weight.plain:
        return weight.masked([masks[name]])
    if not weight.lazy:
        return Weight.of(np.ascontiguousarray(new), trainable=weight.trainable, tied=weight.tied)
    if not made.updated:
        return weight.sliced(lambda array: zeroed(array, masks[name]), weight.shape)
    read = scratch.written(new)
    return Weight(weight.shape, weight.dtype, read, trainable=weight.trainable, tied=weight.tied, lazy=True)
