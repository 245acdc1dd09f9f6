"""Proof: the pruned model must compute what the original computes with the removed indices masked.

The original is run with zeros put in after every operator wherever an index was removed, and with statistics taken over
the kept indices only. This uses the coupling's labels, but nothing of the rewriter: a wrong slice, a wrong size or a
wrong label shows as a difference.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from . import frontends
from .coupling import Coupling
from .frontends.treatment import Compaction, Index, Treatment
from .graph import Graph, Node, Value
from .ops import Block, Statistic, lookup
from .ops.base import Array

#: Largest difference allowed, in units of the spread of the reference output, by the narrowest float type in use.
TOLERANCES = {"float64": 1e-3, "float32": 1e-3, "float16": 5e-2, "bfloat16": 2e-1}

Runner = Callable[[Any], Sequence[np.ndarray]]


@dataclass(frozen=True)
class Proof:
    """The outcome. `max_error` is relative to the spread (standard deviation) of each reference output."""

    passed: bool
    max_error: float
    tolerance: float
    inputs: int
    exact_groups: int
    renormalizing_groups: int
    detail: str = ""


def treatment(coupling: Coupling, keep: Array) -> Treatment:
    """Masks for every computed value that lost indices, and compactions for nodes that take statistics over them."""
    alive = keep[coupling.component]
    found = Treatment()
    for node in coupling.graph.nodes:
        for value in node.outputs:
            masks = [_mask(value, b, alive[b.labels]) for b in coupling.blocks.get(value, ())]
            masks = [m for m in masks if not m.all()]
            if masks:
                found.masks[value.name] = masks
        rule = lookup(node.kind).statistic
        statistic = rule(node) if rule is not None and node.inputs[0] is not None else None
        if statistic is not None:
            compaction = _compaction(node, statistic, coupling, alive)
            if compaction.inputs:
                found.compactions[node.name] = compaction
    return found


def _mask(value: Value, block: Block, mask: Array) -> Array:
    """The block's mask on all axes of the value."""
    shape = [1] * value.rank
    for axis, size in zip(block.axes, mask.shape, strict=True):
        shape[axis] = size
    return mask.transpose(np.argsort(block.axes)).reshape(shape)


def _compaction(node: Node, statistic: Statistic, coupling: Coupling, alive: Array) -> Compaction:
    x = node.inputs[0]
    assert x is not None
    found = Compaction()
    for block in coupling.blocks.get(x, ()):
        mask = alive[block.labels]
        axes = [a for a in block.axes if a in statistic.axes]
        if not axes or mask.all():
            continue
        index = _index(x, block, mask, axes[-1])
        found.inputs.setdefault(0, []).append(index)
        for slot, pairs in statistic.params.items():
            for own, theirs in pairs:
                if theirs == index.axis:
                    found.inputs.setdefault(slot, []).append(Index(own, index.indices))
        for i, output in enumerate(node.outputs):
            if output.shape == x.shape:
                found.outputs.setdefault(i, []).append(index)
        if statistic.groups and not block.joint:
            found.groups = int(mask.reshape(statistic.groups, -1).any(1).sum())
    return found


def _index(x: Value, block: Block, mask: Array, axis: int) -> Index:
    """Kept positions along an axis; for a joint block, those of each row (rows keep equal numbers or nothing)."""
    if not block.joint:
        return Index(axis, np.flatnonzero(mask))
    last = np.moveaxis(mask, block.axes.index(axis), -1)
    width = int(last.sum(-1).max())
    order = np.argsort(~last, axis=-1, kind="stable")[..., :width]
    order = np.moveaxis(np.sort(order, axis=-1), -1, block.axes.index(axis))
    shape = [1] * x.rank
    for a, size in zip(block.axes, order.shape, strict=True):
        shape[a] = size
    return Index(axis, order.transpose(np.argsort(block.axes)).reshape(shape))


def verify(coupling: Coupling, keep: Array, pruned: Any, *, inputs: int = 3, seed: int = 0) -> Proof:
    """Compare the pruned model (foreign: `ModelProto`, path or `nn.Module`) with the masked original on random inputs."""
    graph = coupling.graph
    reference = _runner(graph, frontends.of(graph).instrument(graph, treatment(coupling, keep)))
    candidate = _runner(graph, pruned)
    tolerance = _tolerance(graph)
    worst, detail = 0.0, ""
    for i in range(inputs):
        feed = random_inputs(graph, seed + i)
        error, why = _difference(reference(feed), candidate(feed))
        if error > worst or why:
            worst, detail = error, why
    touched = [g for g in coupling.groups if not keep[g.components].all()]
    exact = sum(g.exact for g in touched)
    return Proof(worst <= tolerance, worst, tolerance, inputs, exact, len(touched) - exact, detail)


def _runner(graph: Graph, model: Any) -> Runner:
    if graph.frontend == "torch":
        frontend = frontends.of(graph)
        return lambda feed: frontend.run(model, feed)
    from .runtimes import get

    return get("onnxruntime").compile(model).run


def _difference(expected: Sequence[np.ndarray], found: Sequence[np.ndarray]) -> tuple[float, str]:
    """Largest difference over all outputs, relative to each output's spread; infinite where shapes differ."""
    if len(expected) != len(found):
        return float("inf"), f"{len(found)} outputs instead of {len(expected)}"
    worst = 0.0
    for i, (a, b) in enumerate(zip(expected, found, strict=True)):
        if a.shape != b.shape:
            return float("inf"), f"output {i} has shape {b.shape} instead of {a.shape}"
        if not a.size:
            continue
        wide, other = a.astype(np.float64), b.astype(np.float64)
        if not np.isfinite(wide).all():
            same = np.isfinite(wide) == np.isfinite(other)
            if not same.all():
                return float("inf"), f"output {i} is not finite where the reference is, or the reverse"
            wide, other = wide[np.isfinite(wide)], other[np.isfinite(other)]
            if not wide.size:
                continue
        gap = float(np.abs(wide - other).max())
        spread, size = float(wide.std()), float(np.abs(wide).max())
        unit = spread if spread > 1e-4 * size else size
        error = gap / unit if unit > 0 else gap
        worst = max(worst, error if np.isfinite(error) else float("inf"))
    return worst, ""


def _tolerance(graph: Graph) -> float:
    names = {v.dtype.name for v in graph.values()} & TOLERANCES.keys()
    return max((TOLERANCES[n] for n in names), default=1e-3)


def random_inputs(graph: Graph, seed: int) -> Any:
    """Inputs at the bound sizes, as the graph's own framework takes them."""
    if graph.frontend == "torch":
        return frontends.of(graph).random_inputs(graph, seed)
    generator = np.random.default_rng(seed)
    return {v.name: _random_array(graph, v, generator) for v in graph.inputs}


def _random_array(graph: Graph, value: Value, generator: np.random.Generator) -> Array:
    if value.dtype == np.bool_:
        return generator.random(value.sizes) < 0.5
    if np.issubdtype(value.dtype, np.integer):
        return generator.integers(0, index_bound(graph, value), value.sizes).astype(value.dtype)
    return generator.standard_normal(value.sizes).astype(value.dtype)


def index_bound(graph: Graph, value: Value) -> int:
    """How large an integer input may be: the smallest table that it, unchanged in value, looks into; 2 if none."""
    same, bounds = {value}, []
    for node in graph.nodes:
        if node.kind == "gather" and len(node.inputs) > 1 and node.inputs[1] in same and node.inputs[0] is not None:
            bounds.append(node.inputs[0].sizes[node.attrs["axis"]])
        elif node.kind in ("reshape", "transpose", "slice", "expand", "select") and node.inputs[0] in same:
            same.update(node.outputs)
        elif node.kind == "elementwise" and node.attrs.get("fn") in ("cast", "identity") and node.inputs[0] in same:
            same.update(node.outputs)
    return min(bounds, default=2)
