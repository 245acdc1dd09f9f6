"""Kinds of made-up inputs: what leaves one model cold makes another speak."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from graphprune.calibration.random_inputs import index_bound, random_inputs
from graphprune.ir.graph import Graph, Value
from graphprune.ops import inner
from graphprune.ops.base import Array

from .sides import changed

Generator = np.random.Generator
#: Makes floats of some sizes.
Make = Callable[[tuple[int, ...], Generator], Array]

#: Elementwise functions that are flat far from zero on both sides.
_SATURATING = frozenset({"sigmoid", "tanh", "hard_sigmoid", "hardsigmoid", "erf", "clip", "clamp"})

#: Inputs of one kind: how much an output varies among them is what differences are measured by.
_EACH = 2


def further_kinds(graph: Graph, seed: int) -> Iterator[list[Any]]:
    """Inputs of one kind after the other, beyond the noise that a proof begins with; ids from all of each table."""
    for at, make in enumerate(_KINDS):
        generator = np.random.default_rng((seed, at + 1))
        yield [_feed(graph, make, generator, seed + i) for i in range(_EACH * max(1, len(graph.cases)))]


def quiet_inputs(graph: Graph, seed: int) -> list[Any]:
    """Soft noise, for models that noise saturates: where every gate is shut or open, no weight before it matters."""
    nodes = [step for node in graph.flat_nodes for step in inner(node)]
    saturates = any(n.kind == "recurrent" or n.attrs.get("fn") in _SATURATING for n in nodes)
    if not saturates or not any(_is_float(v) for v in graph.inputs):
        return []
    generator = np.random.default_rng((seed, 0))
    return [_feed(graph, _quiet, generator, seed + i) for i in range(_EACH * max(1, len(graph.cases)))]


def _feed(graph: Graph, make: Make, generator: Generator, seed: int) -> Any:
    change: Mapping[str, Any] = {v.name: _giving(make, generator) for v in graph.inputs if _is_float(v)}
    change = {**change, **{v.name: _ids(v, graph, generator) for v in graph.inputs if v.dtype.kind in "iu"}}
    return changed(graph, random_inputs(graph, seed), change)


def _is_float(value: Value) -> bool:
    return value.dtype.kind in "fV"


def _giving(make: Make, generator: Generator) -> Callable[[Array], Array]:
    def given(array: Array) -> Array:
        return np.asarray(make(array.shape, generator)).astype(array.dtype)

    return given


def _ids(value: Value, graph: Graph, generator: Generator) -> Callable[[Array], Array]:
    """Ids over the whole range where they look into a table; else those that a first look takes."""
    bound = index_bound(graph, value)
    if bound <= 2:  # no table
        return lambda array: array
    return lambda array: generator.integers(0, bound, array.shape).astype(array.dtype)


def _smooth(sizes: tuple[int, ...], generator: Generator) -> Array:
    """Values from 0 to 1 without steps along the last axes, as in pictures, spectra and sounds; else just random."""
    axes = [a for a in range(max(1, len(sizes) - 2), len(sizes)) if sizes[a] > 3]
    if len(sizes) < 3 or not axes:
        return generator.random(sizes)
    coarse = generator.random([max(2, min(n, 8)) if a in axes else n for a, n in enumerate(sizes)])
    for axis in axes:
        coarse = _stretched(coarse, axis, sizes[axis])
    return coarse


def _stretched(array: Array, axis: int, size: int) -> Array:
    """An axis by linear interpolation."""
    places = np.linspace(0, array.shape[axis] - 1, size)
    low = np.minimum(places.astype(int), array.shape[axis] - 2)
    part = (places - low).reshape([-1 if a == axis else 1 for a in range(array.ndim)])
    found: Array = array.take(low, axis) * (1 - part) + array.take(low + 1, axis) * part
    return found


def _bytes(sizes: tuple[int, ...], generator: Generator) -> Array:
    return 255 * _smooth(sizes, generator)


def _centred(sizes: tuple[int, ...], generator: Generator) -> Array:
    return 4 * _smooth(sizes, generator) - 2


def _loud(sizes: tuple[int, ...], generator: Generator) -> Array:
    return 30 * generator.standard_normal(sizes)


def _quiet(sizes: tuple[int, ...], generator: Generator) -> Array:
    return 0.03 * generator.standard_normal(sizes)


def _constant(sizes: tuple[int, ...], generator: Generator) -> Array:
    """One number for each index of the second axis."""
    return np.broadcast_to(3 * generator.standard_normal((*sizes[:2], *[1] * max(0, len(sizes) - 2))), sizes)


_KINDS = (_smooth, _bytes, _centred, _loud, _constant, _quiet)
