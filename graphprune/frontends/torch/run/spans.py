"""Spans of a captured graph, run operator by operator on the weights that the graph holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree

from graphprune.ir.graph import Graph, Node, Value

from ...spans import Cut, Span, SpanRunner, cut
from ...treatment import Treatment
from ..arrays import shared, to_numpy
from ..origin import origin_of
from .execute import Reference
from .modes import split_inputs


def spans(graph: Graph, taps: Sequence[Sequence[Value]]) -> list[Span]:
    """Cut the graph so that each span makes one group of the values asked for; see `frontends.spans`."""
    steps = [([v.name for v in node.reads()], [v.name for v in node.outputs]) for node in graph.nodes]
    names = [[value.name for value in group] for group in taps]
    found = cut(steps, [v.name for v in graph.inputs], names)
    return [
        Span(c.reads, c.makes, tuple(own), c.done, partial(_open, graph, c))
        for c, own in zip(found, names, strict=True)
    ]


def named_inputs(graph: Graph, batch: Any) -> dict[str, np.ndarray]:
    """The arrays that a batch, as the captured module takes it, gives for the inputs of the graph."""
    origin = origin_of(graph)
    args, kwargs = split_inputs(batch)
    args, kwargs = args[: len(origin.args)] if origin.args else args, {n: kwargs[n] for n in origin.kwargs}
    leaves = pytree.tree_leaves((args, kwargs))
    given = dict(zip(origin.placeholders, leaves, strict=True))
    return {v.name: as_array(given[v.name]) for v in graph.inputs}


def as_array(item: Any) -> np.ndarray:
    """A tensor as an array; anything else as numpy takes it."""
    return to_numpy(item) if isinstance(item, torch.Tensor) else np.asarray(item)


def _open(graph: Graph, part: Cut) -> SpanRunner:
    nodes: list[Node] = [graph.nodes[i] for i in part.steps]
    read = {v for node in nodes for v in node.reads()}
    model = Reference(graph, Treatment(), nodes)
    values = {v.name: v for node in nodes for v in node.outputs} | {v.name: v for v in read}
    device = next((t.device for t in origin_of(graph).tensors.tensors.values() if t.device.type != "meta"), None)

    def run(given: Mapping[str, Any]) -> dict[str, Any]:
        env = {values[name]: _tensor(given[name], device) for name in part.reads}
        with torch.no_grad():
            made = model.through(env)
        return {name: _array(made[values[name]]) for name in part.makes}

    return run


def _tensor(item: Any, device: torch.device | None) -> Any:
    """Nothing in a captured graph writes to what it reads, so that no copy is needed."""
    return shared(item).to(device or "cpu") if isinstance(item, np.ndarray) else item


def _array(item: Any) -> Any:
    return to_numpy(item) if isinstance(item, torch.Tensor) else item
