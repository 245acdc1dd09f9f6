"""Writing nodes that a pass made itself and that no foreign node stands behind."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from graphprune.errors import GraphPruneError
from graphprune.ir.graph import Node

from ..tensors import onnx_dtype
from .writer import Entry, Writer

_FUNCTIONS = {
    "add": "Add",
    "sub": "Sub",
    "mul": "Mul",
    "div": "Div",
    "relu": "Relu",
    "identity": "Identity",
    "where": "Where",
    "sigmoid": "Sigmoid",
    "tanh": "Tanh",
    "max": "Max",
    "min": "Min",
}


def _elementwise(node: Node, writer: Writer) -> None:
    fn = node.attrs["fn"]
    if fn == "cast":
        output = node.outputs[0]
        writer.node("Cast", _inputs(node, writer), writer.name(output), to=onnx_dtype(output.dtype))
        return
    if fn not in _FUNCTIONS:
        raise GraphPruneError(f"the ONNX frontend cannot write a new elementwise node '{node.name}' with fn '{fn}'")
    writer.node(_FUNCTIONS[fn], _inputs(node, writer), writer.name(node.outputs[0]))


def _gather(node: Node, writer: Writer) -> None:
    index = writer.constant(np.asarray(node.attrs["indices"], np.int64), f"{node.outputs[0].name}_indices")
    data = _inputs(node, writer)[0]
    writer.node("Gather", [data, index], writer.name(node.outputs[0]), axis=int(node.attrs["axis"]))


def _concat(node: Node, writer: Writer) -> None:
    writer.node("Concat", _inputs(node, writer), writer.name(node.outputs[0]), axis=int(node.attrs["axis"]))


def _transpose(node: Node, writer: Writer) -> None:
    writer.node("Transpose", _inputs(node, writer), writer.name(node.outputs[0]), perm=list(node.attrs["perm"]))


def _reshape(node: Node, writer: Writer) -> None:
    """The last axis that follows the user's input is counted (-1); others before it are as in the second operand."""
    output, (data, *like) = node.outputs[0], _inputs(node, writer)
    entries: list[int | Entry] = [
        -1 if axis in output.dynamic else int(n) for axis, n in enumerate(node.attrs["shape"])
    ]
    *copied, _ = [axis for axis, n in enumerate(entries) if n == -1] or [0]
    if copied and not like:
        raise GraphPruneError(f"the new reshape '{node.name}' has several axes that follow the input")
    if copied:
        sizes = writer.node("Shape", like, writer.fresh(f"{output.name}_sizes"))
        for axis in copied:
            entries[axis] = Entry(sizes, axis)
    target = writer.vector(entries, f"{output.name}_shape")
    writer.node("Reshape", [data, target], writer.name(output))


def _matmul(node: Node, writer: Writer) -> None:
    attrs, output, names = node.attrs, writer.name(node.outputs[0]), _inputs(node, writer)
    if node.op == "Gemm":
        flags = {f"trans{letter}": int(bool(attrs.get(f"trans_{letter.lower()}"))) for letter in "AB"}
        writer.node("Gemm", names, output, **flags)
        return
    operands = []
    for name, value, flag in zip(names[:2], node.inputs[:2], ("trans_a", "trans_b"), strict=True):
        if not attrs.get(flag) or value is None:
            operands.append(name)
            continue
        perm = [*range(value.rank - 2), value.rank - 1, value.rank - 2]
        operands.append(writer.node("Transpose", [name], writer.fresh(f"{output}_transposed"), perm=perm))
    if len(names) < 3 or not names[2]:
        writer.node("MatMul", operands, output)
        return
    product = writer.node("MatMul", operands, writer.fresh(f"{output}_product"))
    writer.node("Add", [product, names[2]], output)


_CREATE: dict[str, Callable[[Node, Writer], None]] = {
    "elementwise": _elementwise,
    "gather": _gather,
    "concat": _concat,
    "transpose": _transpose,
    "reshape": _reshape,
    "matmul": _matmul,
}


def _inputs(node: Node, writer: Writer) -> list[str]:
    return [writer.name(value) for value in node.inputs]


def create_node(node: Node, writer: Writer) -> None:
    """Write a node without a foreign one behind it; raises for kinds that no pass makes."""
    if node.kind not in _CREATE:
        raise GraphPruneError(f"the ONNX frontend cannot write a new node of kind '{node.kind}' ('{node.name}')")
    _CREATE[node.kind](node, writer)
