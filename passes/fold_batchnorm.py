"""The pass that folds batch norms into the convolution or matrix product before them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphprune.graph import Graph, Node, Value, Weight
from graphprune.ops.base import Array

from .base import Pass, register
from .rewrite import fresh_name

# onnxruntime's fused operators apply an activation that `attrs` does not tell of.
_FUSED = frozenset({"FusedConv", "FusedGemm"})


@register
@dataclass(frozen=True)
class FoldBatchnorm(Pass):
    """Multiply the scale of a batch norm into the weight of the conv or matmul it follows, and its shift into the bias.

    At inference a batch norm is `x * scale + shift` per channel, with scale = weight / sqrt(variance + epsilon) and
    shift = bias - mean * scale. It is folded where its statistics are constants, nothing else reads its input, and the
    operator before it has a constant weight of its own. A bias is added where there was none.
    """

    name: ClassVar[str] = "fold-batchnorm"

    def run(self, graph: Graph) -> Graph:
        """Fold what can be folded."""
        work = graph.copy()
        changed = False
        for norm in [n for n in work.nodes if n.kind == "batch_norm"]:
            changed |= _fold(work, norm)
        return work if changed else graph


def _fold(graph: Graph, norm: Node) -> bool:
    x = norm.inputs[0]
    node = graph.producers().get(x) if x is not None else None
    if node is None or not _only_reader(graph, norm) or not _foldable(node):
        return False
    weight, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
    affine = _affine(norm)
    if affine is None or weight is None or not _free(graph, weight):
        return False
    scale, shift = affine
    assert weight.weight is not None
    scaled = _scaled(node, weight.weight.array().astype(np.float64), scale)
    if bias is not None and bias.weight is not None:
        shift = shift + bias.weight.array().astype(np.float64) * scale
    if shift.size != scale.size:
        return False
    node.inputs[1] = _replaced(graph, weight, scaled)
    if bias is not None:
        bias = _replaced(graph, bias, shift)
    elif len(node.inputs) > 2 or shift.any():
        bias = _new_bias(graph, node, weight, shift)
    _attach(graph, node, norm, bias)
    return True


def _only_reader(graph: Graph, norm: Node) -> bool:
    """Whether the norm alone reads its input, and has no second output that is read."""
    x = norm.inputs[0]
    assert x is not None
    users = graph.consumers()
    spare = norm.outputs[1:]
    return len(users[x]) == 1 and x not in graph.outputs and not any(v in users or v in graph.outputs for v in spare)


def _foldable(node: Node) -> bool:
    """A conv, or a matrix product whose columns are the norm's channels, with constants for weight and bias."""
    constant = all(v is None or v.weight is not None for v in node.inputs[1:3])
    if node.op in _FUSED or len(node.outputs) != 1 or "take" in node.attrs or not constant:
        return False
    if node.kind == "conv":
        return True
    ranks = [None if v is None or v.shape is None else v.rank for v in (*node.inputs[:2], node.outputs[0])]
    return node.kind == "matmul" and ranks == [2, 2, 2] and node.attrs.get("beta", 1.0) == 1.0


def _affine(norm: Node) -> tuple[Array, Array] | None:
    """The norm as a scale and a shift per channel (float64); None where a part of it is computed."""
    parts = [*norm.inputs[1:], *[None] * (5 - len(norm.inputs))]
    if any(v is not None and v.weight is None for v in parts) or parts[2] is None or parts[3] is None:
        return None
    gamma, beta, mean, variance = (
        None if v is None or v.weight is None else v.weight.array().astype(np.float64).reshape(-1) for v in parts
    )
    assert mean is not None and variance is not None
    scale = (1.0 if gamma is None else gamma) / np.sqrt(variance + norm.attrs["epsilon"])
    return scale, (0.0 if beta is None else beta) - mean * scale


def _scaled(node: Node, weight: Array, scale: Array) -> Array:
    """The weight with each output channel multiplied by its scale."""
    if node.kind == "matmul":
        return weight * (scale[:, None] if node.attrs["trans_b"] else scale)
    if not node.attrs["transposed"]:
        return weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    groups = node.attrs["groups"]  # weight is [C, O / groups, *kernel], the channels of a group side by side
    grouped = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    own = scale.reshape(groups, 1, weight.shape[1], *[1] * (weight.ndim - 2))
    return (grouped * own).reshape(weight.shape)


def _free(graph: Graph, value: Value) -> bool:
    """Whether one use of a weight may differ from the others: it is the only one, or they are not tied."""
    assert value.weight is not None
    return not value.weight.tied or (len(graph.consumers()[value]) == 1 and value not in graph.outputs)


def _replaced(graph: Graph, value: Value, array: Array) -> Value:
    """A constant of new elements, under the old name where nothing else reads the old one."""
    assert value.weight is not None
    alone = len(graph.consumers().get(value, ())) <= 1 and value not in graph.outputs
    name = value.name if alone else fresh_name(graph, value.name)
    return _constant(name, array, value.weight)


def _new_bias(graph: Graph, node: Node, weight: Value, shift: Array) -> Value:
    assert weight.weight is not None
    stem = weight.name.removesuffix("weight").rstrip("._")
    return _constant(fresh_name(graph, f"{stem}.bias" if stem else "bias"), shift, weight.weight)


def _constant(name: str, array: Array, like: Weight) -> Value:
    array = np.ascontiguousarray(array.astype(like.dtype))
    return Value(name, array.shape, array.dtype, weight=Weight.of(array, trainable=like.trainable, tied=like.tied))


def _attach(graph: Graph, node: Node, norm: Node, bias: Value | None) -> None:
    """Give the node its bias and the norm's place; the norm becomes an addition where the node cannot take a bias."""
    if bias is None or len(node.inputs) > 2:
        node.inputs[2:] = [] if bias is None else [bias]
        node.outputs[0] = norm.outputs[0]
        graph.nodes.remove(norm)
        return
    add = Node("elementwise", norm.name, [node.outputs[0], bias], norm.outputs[:1], {"fn": "add"}, "Add")
    graph.nodes[graph.nodes.index(norm)] = add
