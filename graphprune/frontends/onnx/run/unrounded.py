"""A quantised model without its roundings: float rounding decides between two steps of a quantiser, and two models that
compute the same take different ones now and then.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ..read.order import reads
from ..tensors import numpy_dtype

#: Operators that only move the elements of their first operand, or pick some.
_MOVES = frozenset({
    *("Reshape", "Transpose", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Slice", "Gather", "Expand", "Split"),
    *("MaxPool", "DepthToSpace", "SpaceToDepth", "GatherElements", "GatherND", "Tile"),
})  # fmt: skip


def unrounded(model: ModelProto) -> ModelProto | None:
    """A copy whose values stay float between a QuantizeLinear and the DequantizeLinears that read it, cut off where the
    integers end; None where something computes with the integers.
    """
    twin = ModelProto()
    twin.CopyFrom(model)
    work = _Unrounding(twin)
    return twin if work.run() else None


class _Unrounding:
    """Names of float values by those of the integers that stand for them."""

    def __init__(self, model: ModelProto) -> None:
        self._graph = model.graph
        self._known = {t.name: t for t in model.graph.initializer}
        self._floats: dict[str, str] = {}
        self._nodes: list[NodeProto] = []

    def run(self) -> bool:
        """Rewrite the graph; false where that cannot be."""
        for node in self._graph.node:
            if not self._write(node):
                return False
        if not self._floats or any(info.name in self._floats for info in self._graph.output):
            return False
        del self._graph.node[:]
        self._graph.node.extend(self._nodes)
        del self._graph.value_info[:]
        return True

    def _write(self, node: NodeProto) -> bool:
        if node.op_type == "QuantizeLinear" and node.input[0] not in self._known:
            return self._quantize(node)
        read = [name for name in reads(node) if name in self._floats]
        if not read:
            self._nodes.append(node)
            return True
        write: Callable[[NodeProto], None] | None = None
        if node.op_type == "DequantizeLinear" and read == [node.input[0]]:
            write = self._dequantize
        elif node.op_type == "Where" and node.input[1] in self._floats:
            write = self._mask
        elif read == [*node.input] if node.op_type == "Concat" else node.op_type in _MOVES and read == [node.input[0]]:
            write = self._move
        if write is not None:
            write(node)
        return write is not None

    def _quantize(self, node: NodeProto) -> bool:
        """The value itself, cut off at the ends of the integers' range."""
        ends = self._ends(node)
        if ends is None:
            return False
        name = self._name(node.output[0])
        bounds = [self._constant(f"{name}_{side}", end) for side, end in zip(("low", "high"), ends, strict=True)]
        self._nodes.append(helper.make_node("Max", [node.input[0], bounds[0]], [f"{name}_raised"]))
        self._nodes.append(helper.make_node("Min", [f"{name}_raised", bounds[1]], [name]))
        return True

    def _ends(self, node: NodeProto) -> tuple[np.ndarray, np.ndarray] | None:
        """The smallest and largest number that the integers can stand for; None where the scale is not one constant."""
        scale = self._known.get(node.input[1])
        zero = self._known.get(node.input[2]) if len(node.input) > 2 else None
        if scale is None or scale.data_type != TensorProto.FLOAT or (len(node.input) > 2 and zero is None):
            return None
        step, at = numpy_helper.to_array(scale), np.zeros(1) if zero is None else numpy_helper.to_array(zero)
        kind = np.dtype(np.uint8) if zero is None else numpy_dtype(zero.data_type)
        if step.size != 1 or at.size != 1 or kind.kind not in "iu":
            return None
        low, high = (float((end - int(at.reshape(-1)[0])) * step.reshape(-1)[0]) for end in _range(kind))
        return np.asarray(low, np.float32), np.asarray(high, np.float32)

    def _dequantize(self, node: NodeProto) -> None:
        self._nodes.append(helper.make_node("Identity", [self._floats[node.input[0]]], [node.output[0]]))

    def _mask(self, node: NodeProto) -> None:
        """Zeros in the place of zero points."""
        name = self._name(node.output[0])
        nothing = self._constant(f"{name}_zero", np.zeros((), np.float32))
        self._nodes.append(helper.make_node("Where", [node.input[0], self._floats[node.input[1]], nothing], [name]))

    def _move(self, node: NodeProto) -> None:
        twin = NodeProto()
        twin.CopyFrom(node)
        for at, name in enumerate(node.input):
            twin.input[at] = self._floats.get(name, name)
        for at, name in enumerate(node.output):
            twin.output[at] = self._name(name) if name else ""
        self._nodes.append(twin)

    def _name(self, integers: str) -> str:
        self._floats[integers] = f"{integers}::unrounded"
        return self._floats[integers]

    def _constant(self, name: str, array: np.ndarray) -> str:
        self._graph.initializer.append(numpy_helper.from_array(array, name))
        return name


def _range(kind: np.dtype[np.generic]) -> tuple[int, int]:
    limits = np.iinfo(kind)  # type: ignore[type-var]
    return int(limits.min), int(limits.max)
