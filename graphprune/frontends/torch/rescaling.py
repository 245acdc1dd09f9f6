"""Attention that derives its scale from the width of a head, where that width was cut: queries make up for it.

The graph scores by `s q k` with the scale `s` of the original, the class by `s' q k`. With the rows that make the
queries (and their biases) times `s / s'` both are the same. These are the rows of the last layer before them: a linear
one, a convolution, or a norm with a gain.
"""

from __future__ import annotations

import torch
from torch import nn

from ...graph import Graph, Node, Value
from ..treatment import Treatment
from .execute import Reference, example_inputs
from .tracing import export, lower_program, split_inputs

#: Kinds of operators that move elements and leave them what they are.
_MOVES = frozenset({"reshape", "transpose", "select", "slice", "split", "unbind", "expand"})


def rescaled(graph: Graph, module: nn.Module) -> str:
    """Scale the projections of queries in a rebuilt class, in place; what was done, empty where nothing can be."""
    args, kwargs = split_inputs(example_inputs(graph))
    try:
        own = lower_program(export(module, args, kwargs), module, args, kwargs, graph.name)
    except Exception:
        return ""
    found = []
    for mine, wanted in zip(own.nodes, graph.nodes, strict=False):
        if mine.op != wanted.op or [v.shape for v in mine.outputs] != [v.shape for v in wanted.outputs]:
            return ""
        ratio = _ratio(mine, wanted)
        if ratio != 1.0:
            found.append((_scored(graph, wanted), ratio))
    done = [_scale(graph, module, value, ratio) for value, ratio in found]
    if not done or not all(done):
        return ""
    more = f" and {len(done) - 1} more" if len(done) > 1 else ""
    return f"scaled {done[0]}{more}, since the scale of attention follows the width of a head"


def _ratio(mine: Node, wanted: Node) -> float:
    """By how much more the graph multiplies than the class."""
    if wanted.kind == "attention":
        return float(wanted.attrs["scale"] / mine.attrs["scale"])
    fn, ours, theirs = wanted.attrs.get("fn"), mine.attrs.get("scalars"), wanted.attrs.get("scalars")
    if fn not in ("mul", "div") or ours == theirs or not ours or not theirs or len(ours) != 1 or len(theirs) != 1:
        return 1.0
    return float(theirs[0] / ours[0] if fn == "mul" else ours[0] / theirs[0])


def _scored(graph: Graph, node: Node) -> Value | None:
    """The queries of attention; of scores that are scaled alone, their first operand."""
    value = node.inputs[0]
    maker = graph.producers().get(value) if value is not None else None
    if node.kind != "attention" and maker is not None and maker.kind == "matmul":
        first, second = maker.inputs[:2]
        return first if second is not None and second.weight is None else value
    return value


def _rows(node: Node) -> tuple[int, tuple[Value, ...]] | None:
    """The axis of its result that a layer scales along with the rows of its parameters, and these; None where none."""
    kind, attrs = node.kind, node.attrs
    last = node.outputs[0].rank - 1
    linear = kind == "matmul" and attrs.get("trans_b")
    if linear or (kind == "layer_norm" and list(attrs["axes"]) == [last]):
        axis = last
    elif kind == "batch_norm" or (kind == "conv" and not attrs["transposed"]):
        axis = 1
    else:
        return None
    return (axis, tuple(v for v in node.inputs[1:3] if v is not None)) if node.inputs[1] is not None else None


@torch.no_grad()
def _scale(graph: Graph, module: nn.Module, value: Value | None, ratio: float) -> str:
    """Scale the rows of the layer that make a value; the name of its weight, empty where there is none."""
    producers, chain = graph.producers(), list[Node]()
    node = producers.get(value) if value is not None else None
    while node is not None and (node.kind in _MOVES or node.attrs.get("fn") == "identity"):
        chain.append(node)
        node = producers.get(node.inputs[0]) if node.inputs[0] is not None else None
    rows = _rows(node) if node is not None else None
    if node is None or value is None or rows is None:
        return ""
    (axis, parameters), made = rows, node.outputs[0]
    known = dict(module.named_parameters(remove_duplicate=False))
    if not all(v.weight is not None and v.name in known for v in parameters):
        return ""
    numbers = torch.arange(made.sizes[axis], dtype=torch.float64)
    numbers = numbers.reshape(-1, *[1] * (made.rank - 1 - axis)).expand(made.sizes)
    reached = Reference(graph, Treatment(), nodes=chain[::-1]).through({made: numbers})[value].unique().long()
    for parameter in parameters:
        known[parameter.name][reached.to(known[parameter.name].device)] *= ratio
    return parameters[0].shown
