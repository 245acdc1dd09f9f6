"""The pass that writes matrix products with constant matrices as Gemm."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from math import prod
from typing import ClassVar

from graphprune.errors import InputError
from graphprune.ir.graph import Graph, Node, Value

from .base import Pass, register


@register
@dataclass(frozen=True)
class MatmulToGemm(Pass):
    """Write each ONNX MatMul of data with a constant matrix, and the addition of a constant vector after it, as one
    Gemm; data of more than two axes are reshaped to two and back.

    TensorRT 8 found no MatMul eligible for sparse kernels in float16 that it found as Gemm (NVIDIA/TensorRT issues
    #2169, #2271); since 10.3 it is said to treat both alike (no public source was found). So no other command runs it.
    """

    name: ClassVar[str] = "matmul-to-gemm"

    def run(self, graph: Graph) -> Graph:
        """Rewrite; raises InputError for what is no ONNX graph."""
        if graph.frontend != "onnx":
            raise InputError("it rewrites ONNX graphs; PyTorch has no Gemm operator")
        if not any(_fits(node) for node in graph.nodes):
            return graph
        work = graph.copy()
        _Rewriter(work).run()
        return work


def _fits(node: Node) -> bool:
    """Whether it is a MatMul of data with a constant matrix that reshapes can make two-dimensional."""
    if node.kind != "matmul" or node.op != "MatMul" or len(node.inputs) != 2 or "take" in node.attrs:
        return False
    x, matrix = node.inputs
    if x is None or matrix is None or x.shape is None or matrix.weight is None or matrix.shape is None:
        return False
    return x.rank >= 2 and x.weight is None and matrix.rank == 2 and node.outputs[0].shape is not None


def _free(x: Value) -> list[int]:
    """The axes put together that follow the user's input."""
    return [axis for axis in x.dynamic if axis < x.rank - 1]


class _Rewriter:
    """Replaces products in a copy of a graph."""

    def __init__(self, work: Graph) -> None:
        self._work = work
        self._names = {value.name for value in work.values()}
        self._consumers = work.consumers()
        self._readers = Counter({value: len(nodes) for value, nodes in self._consumers.items()})
        self._readers.update(work.outputs)
        self._gone: set[Node] = set()

    def run(self) -> None:
        """Rewrite all that fit, in order."""
        nodes: list[Node] = []
        for node in self._work.nodes:
            if node not in self._gone:
                nodes += self._gemm(node) if _fits(node) else [node]
        self._work.nodes = nodes

    def _gemm(self, node: Node) -> list[Node]:
        x, matrix = node.inputs
        assert x is not None and matrix is not None
        bias, result = self._bias(node, matrix.sizes[1])
        flat = x.rank == 2
        rows = x if flat else self._value(f"{result.name}::rows", (prod(x.sizes[:-1]), x.sizes[-1]), x)
        product = result if flat else self._value(f"{result.name}::product", (rows.sizes[0], matrix.sizes[1]), x)
        inputs: list[Value | None] = [rows, matrix, *([bias] if bias is not None else [])]
        attrs = {"trans_a": False, "trans_b": False}
        gemm = Node("matmul", node.name, inputs, [product], attrs, "Gemm", scope=node.scope)
        if flat:
            return [gemm]
        before = Node("reshape", f"{node.name}::rows", [x], [rows], {"shape": list(rows.sizes)}, "Reshape")
        # A reshape counts one size by itself; of several free ones all but the last are those of the data.
        back: list[Value | None] = [product, x] if len(_free(x)) > 1 else [product]
        after = Node("reshape", f"{node.name}::back", back, [result], {"shape": list(result.sizes)}, "Reshape")
        return [before, gemm, after]

    def _value(self, base: str, shape: tuple[int, int], like: Value) -> Value:
        name, count = base, 1
        while name in self._names:
            count += 1
            name = f"{base}.{count}"
        self._names.add(name)
        return Value(name, shape, like.dtype, frozenset({0}) if _free(like) else frozenset())

    def _bias(self, node: Node, columns: int) -> tuple[Value | None, Value]:
        """The vector that alone is added to the product, and the sum; else nothing, and the product."""
        product = node.outputs[0]
        if self._readers[product] != 1 or not self._consumers.get(product):
            return None, product
        (reader,) = self._consumers[product]
        if reader.kind != "elementwise" or reader.attrs.get("fn") != "add" or len(reader.inputs) != 2 or reader.bodies:
            return None, product
        other = reader.inputs[1] if reader.inputs[0] is product else reader.inputs[0]
        if other is None or other.weight is None or other.shape != (columns,) or other.dtype != product.dtype:
            return None, product
        self._gone.add(reader)
        return other, reader.outputs[0]
