"""What float arithmetic alone does to a model: it is run again with inputs and weights off by a few roundings."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np

from graphprune.ir.graph import Graph, Value, Weight
from graphprune.ops.base import Array

#: How far an element may be off, relative to its size, by its type.
ROUNDINGS = {"float64": 1e-15, "float32": 1e-6, "float16": 4e-3, "bfloat16": 3e-2}


def shaking(graph: Graph, seed: int, precision: str = "") -> Mapping[str, Callable[[Array], Array]]:
    """What changes each float input by a few roundings (of a float type, if not its own), by name."""
    floats = [v for v in graph.inputs if v.dtype.name in ROUNDINGS]
    return {v.name: partial(shaken, seed=seed + at, precision=precision) for at, v in enumerate(floats)}


def shaken(array: Array, seed: int, precision: str = "") -> Array:
    """An array with every element off by up to a few roundings; scaling all alike would be undone by a first norm."""
    step = ROUNDINGS.get(precision or array.dtype.name)
    if step is None:
        return array
    wide = array.astype(np.float64 if array.dtype.itemsize == 8 else np.float32)
    off = np.random.default_rng(seed).uniform(-step, step, array.shape).astype(wide.dtype)
    found: Array = (wide * (1 + off)).astype(array.dtype)
    return found


def shaken_graph(graph: Graph, seed: int, precision: str = "") -> Graph:
    """A copy with every element of its matrices off by up to a few roundings (of a float type, if not their own).

    Vectors are left: sizes and scales of resizing operators are among them, where a rounding may change a shape.
    """
    twin = graph.copy()
    for at, value in enumerate(twin.weights().values()):
        if value.weight is not None and _is_matrix(value):
            value.weight = _shaken_weight(value.weight, seed + at, precision)
    return twin


def _is_matrix(value: Value) -> bool:
    weight = value.weight
    return weight is not None and weight.plain and weight.trainable and value.rank > 1 and value.dtype.name in ROUNDINGS


def _shaken_weight(weight: Weight, seed: int, precision: str) -> Weight:
    def cut(array: Array, start: int = 0) -> Array:
        return shaken(array, seed + start, precision)

    found, read_rows = weight.sliced(cut, weight.shape), weight.read_rows
    if found.lazy and read_rows is not None:
        found.read_rows = lambda start, stop: cut(read_rows(start, stop), start)
    return found
