"""Spans of a model as small ONNX models, cut where the written nodes meet."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto

from graphprune.errors import UnsupportedError
from graphprune.ir.graph import Graph, Value, Weight

from ...spans import Cut, Span, SpanRunner, cut
from ..origin import Origin
from ..read.order import reads
from ..tensors import numpy_dtype, onnx_dtype
from ..write.emit import build, fill
from ..write.writer import Writer

#: Compiles a model: inputs by name in, all outputs in order out.
Compile = Callable[[ModelProto], Callable[[Mapping[str, np.ndarray]], Sequence[np.ndarray]]]


def spans(graph: Graph, taps: Sequence[Sequence[Value]], compiled: Compile) -> list[Span]:
    """Cut the model so that each span makes one group of the values asked for; see `frontends.spans`."""
    model, _ = build(graph)
    named = Writer(graph).name
    names = [tuple(named(value) for value in group) for group in taps]
    steps = [(reads(node), [name for name in node.output if name]) for node in model.graph.node]
    inputs = [info.name for info in model.graph.input]
    found = cut(steps, inputs, names)
    types = _types(graph, named)
    return [
        Span(c.reads, c.makes, own, c.done, partial(_open, graph, c, types, compiled))
        for c, own in zip(found, names, strict=True)
    ]


def named_inputs(graph: Graph, batch: Any) -> dict[str, np.ndarray]:
    """The arrays that a batch (by name, or in order) gives for the inputs of the graph."""
    if not isinstance(batch, Mapping):
        given = batch if isinstance(batch, list | tuple) else [batch]
        batch = dict(zip((v.name for v in graph.inputs), given, strict=False))
    return {v.name: np.asarray(batch[v.name]) for v in graph.inputs}


def _types(graph: Graph, named: Callable[[Value], str]) -> dict[str, int]:
    """The element type of every value and parameter, by the name under which it is written."""
    origin: Origin = graph.origin
    known = {name: fact.elem_type for name, fact in origin.facts.items()}
    for value in graph.values():
        with suppress(KeyError, TypeError, ValueError):  # a type that ONNX has no number for
            known[named(value)] = onnx_dtype(value.dtype)
    return known


def _open(graph: Graph, part: Cut, types: Mapping[str, int], compiled: Compile) -> SpanRunner:
    if not part.steps or not part.makes:
        return lambda given: {}
    whole, weights = build(graph)  # anew: masks of quantised weights change the tensors they are stored in
    model = ModelProto()
    model.CopyFrom(whole)
    for name in ("node", "initializer", "sparse_initializer", "input", "output", "value_info"):
        model.graph.ClearField(name)
    model.graph.node.extend(whole.graph.node[i] for i in part.steps)
    _fill(model.graph, whole.graph, weights)
    fill(model, weights)
    model.graph.input.extend(_declared(name, types, part) for name in part.reads)
    model.graph.output.extend(ValueInfoProto(name=name) for name in part.makes)
    run = compiled(model)

    def through(given: Mapping[str, Any]) -> dict[str, Any]:
        feed = {name: given[name].astype(numpy_dtype(types[name]), copy=False) for name in part.reads}
        return dict(zip(part.makes, run(feed), strict=True))

    return through


def _fill(target: GraphProto, whole: GraphProto, weights: Mapping[str, Weight]) -> None:
    """The initializers that the nodes read, as headers."""
    wanted = {name for node in target.node for name in reads(node)}
    target.initializer.extend(t for t in whole.initializer if t.name in wanted and t.name in weights)
    target.sparse_initializer.extend(t for t in whole.sparse_initializer if t.values.name in wanted)


def _declared(name: str, types: Mapping[str, int], part: Cut) -> ValueInfoProto:
    kind = types.get(name, TensorProto.UNDEFINED)
    if kind == TensorProto.UNDEFINED:
        raise UnsupportedError(f"the type of '{name}', where the model would be cut to run step by step, is not known")
    info = ValueInfoProto(name=name)
    info.type.tensor_type.elem_type = kind
    return info
