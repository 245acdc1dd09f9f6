"""Inputs made up for a proof: noise at the bound sizes, and ids that every table they look into has."""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np

from graphprune import frontends
from graphprune.errors import InputError
from graphprune.ir.graph import Case, Graph, Value
from graphprune.ops import inner
from graphprune.ops.base import Array

#: Elements of an input that is made up for the proof.
_MOST_INPUT = 1 << 30

#: Kinds that hand integer ids on unchanged.
_ID_MOVES = frozenset({"reshape", "transpose", "slice", "expand", "select"})


def random_inputs(graph: Graph, seed: int, case: Case | None = None) -> Any:
    """Inputs at the bound sizes, as the graph's own framework takes them. Where small inputs choose among branches, the
    seed says which way they lead, unless the `case` does.
    """
    if graph.frontend != "onnx":
        return frontends.of(graph).random_inputs(graph, seed)
    generator = np.random.default_rng(seed)
    case = case or (graph.cases[seed % len(graph.cases)] if graph.cases else Case({}))
    made = {v.name: _random_array(graph, _resized(v, case), generator) for v in graph.inputs}
    return {name: np.asarray(case.values.get(name, array)) for name, array in made.items()}  # of no axes, too


def _resized(value: Value, case: Case) -> Value:
    return Value(value.name, case.shapes.get(value.name, value.shape), value.dtype)


def _random_array(graph: Graph, value: Value, generator: np.random.Generator) -> Array:
    """Noise and, where there are further axes, an offset per channel: pure noise averages out in deep networks."""
    if prod(value.sizes) > _MOST_INPUT:
        raise InputError(
            f"the input '{value.name}' of shape {list(value.sizes)} is too large to be tried: say --input-shape"
        )
    if value.dtype == np.bool_:
        return generator.random(value.sizes) < 0.5
    if np.issubdtype(value.dtype, np.integer):
        return generator.integers(0, index_bound(graph, value), value.sizes).astype(value.dtype)
    noise = generator.standard_normal(value.sizes)
    shared = generator.standard_normal((*value.sizes[:2], *[1] * max(0, len(value.sizes) - 2)))
    return (noise + shared if len(value.sizes) > 2 else noise).astype(value.dtype)


def index_bound(graph: Graph, value: Value) -> int:
    """How large an integer input may be: the smallest table that it, unchanged in value, looks into; 2 if none."""
    same, bounds = {v for v in graph.inputs if v.name == value.name}, []
    for node in (step for outer in graph.flat_nodes for step in inner(outer)):
        if node.kind == "gather" and len(node.inputs) > 1 and node.inputs[1] in same and node.inputs[0] is not None:
            bounds.append(node.inputs[0].sizes[node.attrs["axis"]])
        elif (
            node.inputs
            and node.inputs[0] in same
            and (node.kind in _ID_MOVES or node.attrs.get("fn") in ("cast", "identity"))
        ):
            same.update(node.outputs)
    return min(bounds, default=2)
