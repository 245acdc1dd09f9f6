"""Classes that multiply by a number which they derive from a size that was cut: the layer before makes up for it.

Mostly it is the scale of attention, from the width of a head. The graph scores by `s q k` with the scale `s` of the
original, the class by `s' q k`. With the rows that make the queries (and their biases) times `s / s'` both are the
same. These are the rows of the last layer before them: a linear one, a convolution, a norm, or a gain alone.
"""

from __future__ import annotations

import torch
from torch import nn

from graphprune.ir.graph import Graph, Node, Value

from ...treatment import Treatment
from ..capture.tracing import export, lower_program
from ..run.execute import Reference, example_inputs
from ..run.modes import split_inputs

#: Kinds of operators that move elements and leave them what they are.
_MOVES = frozenset({"reshape", "transpose", "select", "slice", "split", "unbind", "expand"})


def rescaled(graph: Graph, module: nn.Module) -> str:
    """Scale what makes queries, or what else is multiplied, in a rebuilt class, in place; what was done, empty where
    nothing can be.
    """
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
            found.append((wanted, ratio))
    done = [_scale(graph, module, _scored(graph, node), ratio) for node, ratio in found]
    if not done or not all(done):
        return ""
    more = f" and {len(done) - 1} more" if len(done) > 1 else ""
    scores = all(node.kind == "attention" or _of_scores(graph, node) for node, _ in found)
    why = "the scale of attention follows the width of a head" if scores else "a number in the code follows a size"
    return f"scaled {done[0]}{more}, since {why}"


def _ratio(mine: Node, wanted: Node) -> float:
    """By how much more the graph multiplies than the class."""
    if wanted.kind == "attention":
        return float(wanted.attrs["scale"] / mine.attrs["scale"])
    fn, ours, theirs = wanted.attrs.get("fn"), mine.attrs.get("scalars"), wanted.attrs.get("scalars")
    if fn not in ("mul", "div") or ours == theirs or not ours or not theirs or len(ours) != 1 or len(theirs) != 1:
        return 1.0
    return float(theirs[0] / ours[0] if fn == "mul" else ours[0] / theirs[0])


def _of_scores(graph: Graph, node: Node) -> Node | None:
    """The product of two computed values that a node scales."""
    maker = graph.producers().get(node.inputs[0]) if node.inputs[0] is not None else None
    if maker is None or maker.kind != "matmul" or maker.inputs[1] is None or maker.inputs[1].weight is not None:
        return None
    return maker


def _scored(graph: Graph, node: Node) -> Value | None:
    """The queries of attention; of scores that are scaled alone, their first operand; else what is multiplied."""
    scores = _of_scores(graph, node) if node.kind != "attention" else None
    return node.inputs[0] if scores is None else scores.inputs[0]


def _rows(node: Node) -> tuple[int, list[Value]] | None:
    """The axis of its result that a layer scales along with the rows of its parameters, and these; None where none."""
    kind, attrs, last = node.kind, node.attrs, node.outputs[0].rank - 1
    learned = [v for v in node.inputs if v is not None and v.weight is not None]
    if attrs.get("fn") == "mul":
        return (last, learned) if [v.rank for v in learned] == [1] else None
    if node.inputs[1:2] in ([], [None]):
        return None
    parameters = [v for v in node.inputs[1:3] if v is not None]
    if (kind == "matmul" and attrs.get("trans_b")) or (kind == "layer_norm" and list(attrs["axes"]) == [last]):
        return last, parameters
    return (1, parameters) if kind == "batch_norm" or (kind == "conv" and not attrs["transposed"]) else None


def _passes(node: Node) -> bool:
    """Whether a node hands on what it gets, outside of training."""
    return node.attrs.get("fn") in ("identity", "dropout") and not node.attrs.get("random")


@torch.no_grad()
def _scale(graph: Graph, module: nn.Module, value: Value | None, ratio: float) -> str:
    """Scale the rows of the layer that make a value; the name of its weight, empty where there is none."""
    producers, chain = graph.producers(), list[Node]()
    node = producers.get(value) if value is not None else None
    while node is not None and (node.kind in _MOVES or _passes(node)):
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
