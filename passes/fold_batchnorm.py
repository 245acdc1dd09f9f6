"""The pass that folds batch norms into the convolution or matrix product before them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphprune.ir.graph import Graph, Node, Value, Weight
from graphprune.ops.base import Array

from .base import Names, Pass, register

# onnxruntime's fused operators apply an activation that `attrs` does not tell of.
_FUSED = frozenset({"FusedConv", "FusedGemm"})
# Frontends that can write an addition that no foreign node stands behind.
_NEW_NODES = frozenset({"onnx"})


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
        folder = _Folder(work)
        replaced = {node: folder.fold(node) for node in work.nodes if node.kind == "batch_norm"}
        if all(by == [norm] for norm, by in replaced.items()):
            return graph
        work.nodes = [new for node in work.nodes for new in replaced.get(node, [node])]
        return work


class _Folder:
    """Folds norms one by one, in order; knows who makes and who reads each value."""

    def __init__(self, graph: Graph) -> None:
        self._producers = graph.producers()
        self._readers = Counter({value: len(nodes) for value, nodes in graph.consumers().items()})
        self._readers.update(graph.outputs)
        self._names = Names(graph)
        self._can_add = graph.frontend in _NEW_NODES

    def fold(self, norm: Node) -> list[Node]:
        """What stands in the norm's place: nothing, an addition, or the norm where it cannot be folded."""
        x = norm.inputs[0]
        node = self._producers.get(x) if x is not None else None
        affine = _affine(norm)
        if node is None or affine is None or not self._follows(norm, node) or not self._foldable(node, affine):
            return [norm]
        weight, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
        assert weight is not None and weight.weight is not None
        node.inputs[1] = self._replaced(weight, _scaled(node, weight.weight.array().astype(np.float64), affine[0]))
        shift = _shift(bias, affine)
        if bias is not None:
            bias = self._replaced(bias, shift)
        elif shift.any():
            bias = self._new_bias(weight, shift)
        return self._attach(node, norm, bias)

    def _follows(self, norm: Node, node: Node) -> bool:
        """Whether the norm alone reads the node's only output, and only the norm's first output is read."""
        alone = len(node.outputs) == 1 and self._readers[node.outputs[0]] == 1
        return alone and not any(self._readers[value] for value in norm.outputs[1:])

    def _foldable(self, node: Node, affine: tuple[Array, Array]) -> bool:
        if node.op in _FUSED or "take" in node.attrs or not _has_channels(node):
            return False
        weight, bias = node.inputs[1], node.inputs[2] if len(node.inputs) > 2 else None
        if weight is None or not self._free(weight) or not (bias is None or self._free(bias)):
            return False
        shift = _shift(bias, affine)
        return shift.size == affine[0].size and (len(node.inputs) > 2 or self._can_add or not shift.any())

    def _free(self, value: Value) -> bool:
        """Whether it is a constant of which one use may differ from the others: the only one, or not tied."""
        weight = value.weight
        return weight is not None and weight.plain and (self._readers[value] == 1 or not weight.tied)

    def _replaced(self, value: Value, array: Array) -> Value:
        """A constant of new elements, under the old name where nothing else reads the old one."""
        assert value.weight is not None
        name = value.name if self._readers[value] == 1 else self._names.fresh(value.name)
        self._readers[value] -= 1
        return self._constant(name, array, value.weight)

    def _new_bias(self, weight: Value, shift: Array) -> Value:
        assert weight.weight is not None
        stem = weight.name.removesuffix("weight").rstrip("._")
        return self._constant(self._names.fresh(f"{stem}.bias" if stem else "bias"), shift, weight.weight)

    def _constant(self, name: str, array: Array, like: Weight) -> Value:
        array = np.ascontiguousarray(array.astype(like.dtype))
        weight = Weight.of(array, trainable=like.trainable, tied=like.tied)
        made = Value(name, array.shape, array.dtype, weight=weight)
        self._readers[made] = 1
        return made

    def _attach(self, node: Node, norm: Node, bias: Value | None) -> list[Node]:
        """Give the node its bias and the norm's output; where it takes no bias, an addition stands for the norm."""
        if bias is not None and len(node.inputs) < 3:
            add = Node("elementwise", norm.name, [node.outputs[0], bias], norm.outputs[:1], {"fn": "add"}, "Add")
            self._producers[norm.outputs[0]] = add
            return [add]
        node.inputs[2:] = [bias] if len(node.inputs) > 2 else []
        node.outputs[0] = norm.outputs[0]
        self._producers[norm.outputs[0]] = node
        return []


def _has_channels(node: Node) -> bool:
    """Whether it is a conv, or a matrix product whose columns are the norm's channels, with its bias as it is."""
    if node.kind == "conv":
        return True
    ranks = [None if v is None or v.shape is None else v.rank for v in (*node.inputs[:2], node.outputs[0])]
    return node.kind == "matmul" and ranks == [2, 2, 2] and node.attrs.get("beta", 1.0) == 1.0


def _shift(bias: Value | None, affine: tuple[Array, Array]) -> Array:
    """The bias after the norm."""
    scale, shift = affine
    if bias is None or bias.weight is None:
        return shift
    return shift + bias.weight.array().astype(np.float64) * scale


def _affine(norm: Node) -> tuple[Array, Array] | None:
    """The norm as a scale and a shift per channel (float64); None where a part of it is computed."""
    if norm.attrs.get("training"):
        return None
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
