"""Random operators under control: what they would draw by chance is computed from uniform numbers that a script gives.

Only for comparing models: nothing of this is ever written to a user's file.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper
from onnx import load as load_model

from graphprune.ir.graph import Graph, Node

from ...chance import Left
from ..lower.random_operators import GENERATED, draws
from ..protos import attributes, subgraphs
from ..tensors import onnx_dtype, to_tensor


def is_random(graph: Graph) -> bool:
    """Whether some node of a graph draws random numbers."""
    return bool(drawing(graph))


def drawing(graph: Graph) -> dict[str, Node]:
    """The nodes that draw random numbers, by the name under which their first output is written."""
    found = {node.outputs[0].name: node for node in graph.flat_nodes if node.attrs.get("random")}
    renamed = zip(graph.outputs, graph.origin.model.graph.output, strict=True) if found else ()
    return found | {info.name: found[value.name] for value, info in renamed if value.name in found}


def drawn(node: Node) -> tuple[int, ...]:
    """How many numbers a node draws: laid out over what it makes; for positions, over the data that they are picked by,
    and then over the picks.
    """
    x, out = node.inputs[0] if node.inputs else None, node.outputs[0]
    if node.source.proto.op_type == "Multinomial" and x is not None:
        return (*x.sizes, out.sizes[-1])
    return out.sizes


def scripted(graph: Graph, model: ModelProto | str | Path, script: Left) -> ModelProto:
    """A copy of what is made of a graph, whose random nodes compute what the script says. One that the graph has not
    stays as it is, and is named.
    """
    nodes, twin = drawing(graph), ModelProto()
    twin.CopyFrom(load_model(str(model)) if isinstance(model, str | Path) else model)
    opset = next((o.version for o in twin.opset_import if o.domain in ("", "ai.onnx")), 1)
    for part in _graphs(twin.graph):
        made: list[NodeProto] = []
        for proto in part.node:
            node = nodes.get(proto.output[0]) if draws(proto) else None
            if node is not None:
                made += without_chance(proto, node, script.of(node.name, drawn(node)), opset)
                continue
            made.append(proto)
            if draws(proto) and proto.op_type != "Dropout":
                name = proto.name or proto.output[0]
                script.beside = f"node '{name}' ({proto.op_type}) draws random numbers that the original does not"
        copies = [NodeProto.FromString(proto.SerializeToString()) for proto in made]
        del part.node[:]
        part.node.extend(copies)
    return twin


def _graphs(graph: GraphProto) -> list[GraphProto]:
    return [graph, *(g for node in graph.node for inner in subgraphs(node) for g in _graphs(inner))]


def without_chance(proto: NodeProto, node: Node, numbers: np.ndarray, opset: int) -> list[NodeProto]:
    """Nodes that compute, from uniform numbers, what a random node (as it is in the graph, and written) would draw."""
    parts = _Parts(proto, node.outputs[0].dtype, opset)
    _MAKERS[proto.op_type](parts, numbers)
    return parts.nodes


class _Parts:
    """The nodes that take the place of one."""

    def __init__(self, proto: NodeProto, dtype: np.dtype[np.generic], opset: int) -> None:
        self.proto, self.nodes, self.attrs = proto, list[NodeProto](), attributes(proto)
        self._dtype, self._opset = dtype, opset

    def constant(self, array: np.ndarray | np.generic) -> str:
        """A constant."""
        return self.add("Constant", [], value=to_tensor(np.asarray(array), "value"))

    def add(self, op: str, inputs: list[str], output: str = "", **attrs: Any) -> str:
        """A node with one output."""
        name = output or f"{self.proto.output[0]}/chance_{len(self.nodes)}"
        self.nodes.append(helper.make_node(op, inputs, [name], f"{name}/{op}", **attrs))
        return name

    def typed(self, name: str, output: str = "") -> str:
        """A value in the type that the node says, else in that of its data."""
        kind = self.attrs.get("dtype")
        if kind is None and self.proto.input and self._opset >= 15:  # the first with this operator
            return self.add("CastLike", [name, self.proto.input[0]], output)
        return self.add("Cast", [name], output, to=onnx_dtype(self._dtype) if kind is None else kind)


def _generated(parts: _Parts, numbers: np.ndarray) -> None:
    from scipy.special import ndtri

    attrs = parts.attrs
    if "Normal" in parts.proto.op_type:
        found = attrs.get("mean", 0.0) + attrs.get("scale", 1.0) * ndtri(numbers)
    else:
        found = attrs.get("low", 0.0) + (attrs.get("high", 1.0) - attrs.get("low", 0.0)) * numbers
    parts.typed(parts.constant(found.astype(np.float32)), parts.proto.output[0])


def _bernoulli(parts: _Parts, numbers: np.ndarray) -> None:
    chance = parts.add("Cast", [parts.proto.input[0]], to=TensorProto.FLOAT)
    drawn = parts.add("Less", [parts.constant(numbers.astype(np.float32)), chance])
    parts.typed(drawn, parts.proto.output[0])


def _multinomial(parts: _Parts, numbers: np.ndarray) -> None:
    """The largest of the logarithms with Gumbel noise: each as likely as its weight says."""
    weights = parts.add("Cast", [parts.proto.input[0]], to=TensorProto.FLOAT)  # first: its input may be cut
    noise = parts.constant(-np.log(-np.log(numbers)).astype(np.float32))
    each = parts.add("Reshape", [weights, parts.constant(np.array([0, -1, 1], np.int64))])
    best = parts.add("ArgMax", [parts.add("Add", [each, noise])], axis=1, keepdims=0)
    parts.add("Cast", [best], parts.proto.output[0], to=parts.attrs.get("dtype", TensorProto.INT32))


def _dropout(parts: _Parts, numbers: np.ndarray) -> None:
    proto = parts.proto
    ratio = parts.constant(np.float32(0.5))
    if len(proto.input) > 1 and proto.input[1]:
        ratio = parts.add("Cast", [proto.input[1]], to=TensorProto.FLOAT)
    gone = parts.add("Less", [parts.constant(numbers.astype(np.float32)), ratio])
    wanted = proto.output[1] if len(proto.output) > 1 else ""
    stays = parts.add("Not", [gone], wanted)
    share = parts.add("Sub", [parts.constant(np.float32(1)), ratio])
    factor = parts.add("Where", [stays, parts.add("Reciprocal", [share]), parts.constant(np.float32(0))])
    parts.add("Mul", [proto.input[0], parts.typed(factor)], proto.output[0])


_MAKERS: dict[str, Callable[[_Parts, np.ndarray], None]] = {
    **dict.fromkeys(GENERATED, _generated),
    "Bernoulli": _bernoulli,
    "Multinomial": _multinomial,
    "Dropout": _dropout,
}
