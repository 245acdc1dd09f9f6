"""A convolutional network with most of what exporters write, for the audit's tests."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

WIDTH = 16
_IR = {9: 4, 11: 6, 13: 7, 17: 8, 18: 8, 21: 10, 23: 11}


class _Writer:
    """Collects nodes, and constants either as initializers or as `Constant` nodes."""

    def __init__(self, opset: int, dtype: type, as_nodes: bool) -> None:
        self.opset, self.dtype, self.as_nodes = opset, dtype, as_nodes
        self.nodes: list[NodeProto] = []
        self.initializers: list[TensorProto] = []
        self._random = np.random.default_rng(0)

    def constant(self, name: str, array: np.ndarray) -> str:
        tensor = numpy_helper.from_array(array, name)
        if self.as_nodes:
            self.nodes.append(helper.make_node("Constant", [], [name], value=tensor))
        else:
            self.initializers.append(tensor)
        return name

    def weight(self, name: str, *shape: int, positive: bool = False) -> str:
        array = self._random.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
        return self.constant(name, (np.abs(array) + 0.5 if positive else array).astype(self.dtype))

    def add(self, op: str, inputs: list[str], output: str, **attributes: object) -> str:
        self.nodes.append(helper.make_node(op, inputs, [output], name=f"node_{output}", **attributes))
        return output

    def batch_norm(self, x: str, name: str) -> str:
        scale, bias = self.weight(f"{name}.s", WIDTH, positive=True), self.weight(f"{name}.b", WIDTH)
        mean, variance = self.weight(f"{name}.m", WIDTH), self.weight(f"{name}.v", WIDTH, positive=True)
        return self.add("BatchNormalization", [x, scale, bias, mean, variance], name)

    def flat(self, x: str) -> str:
        """Flatten through shape arithmetic, so that the batch stays dynamic."""
        self.add("Shape", [x], "shape")
        self.add("Gather", ["shape", self.constant("zero", np.array([0]))], "batch")
        self.add("Concat", ["batch", self.constant("rest", np.array([-1]))], "target", axis=0)
        return self.add("Reshape", [x, "target"], "flat")


def network(opset: int = 17, dtype: type = np.float32, as_nodes: bool = False) -> ModelProto:
    """Residual, depthwise, squeeze-excite, split, concat and a flatten computed from shapes; batch and size dynamic."""
    to = _Writer(opset, dtype, as_nodes)
    stem = to.add("Conv", ["x", to.weight("c1.w", WIDTH, 3, 3, 3)], "stem", pads=[1] * 4, strides=[2, 2])
    a = to.add("Relu", [to.batch_norm(stem, "bn1")], "a")
    b = to.add("Conv", [a, to.weight("dw.w", WIDTH, 1, 3, 3)], "b", pads=[1] * 4, group=WIDTH)
    b = to.batch_norm(to.add("Conv", [b, to.weight("c2.w", WIDTH, WIDTH, 3, 3)], "b2", pads=[1] * 4), "bn2")
    c = to.add("Add", [a, b], "c")
    gate = to.add("GlobalAveragePool", [c], "pooled")
    gate = to.add("Relu", [to.add("Conv", [gate, to.weight("se1.w", WIDTH // 2, WIDTH, 1, 1)], "se1")], "se2")
    gate = to.add("Sigmoid", [to.add("Conv", [gate, to.weight("se2.w", WIDTH, WIDTH // 2, 1, 1)], "se3")], "gate")
    d = to.add("Mul", [c, gate], "d")
    half = [WIDTH // 2] * 2
    computed = [to.constant("halves", np.array(half))] if opset >= 13 else []
    written = {} if opset >= 13 else {"split": half}
    to.nodes.append(helper.make_node("Split", [d, *computed], ["d1", "d2"], name="split", axis=1, **written))
    e = to.add("Concat", ["d2", "d1", "d2"], "e", axis=1)
    f = to.add("Conv", [e, to.weight("c3.w", WIDTH, WIDTH * 3 // 2, 1, 1)], "f")
    axes = [to.constant("axes", np.array([2, 3]))] if opset >= 18 else []
    g = to.add("ReduceMean", [f, *axes], "g", keepdims=1, **({} if axes else {"axes": [2, 3]}))
    to.add("Gemm", [to.flat(g), to.weight("fc.w", 10, WIDTH), to.weight("fc.b", 10)], "logits", transB=1)
    to.add("Conv", [f, to.weight("head.w", 4, WIDTH, 1, 1)], "map")
    return _model(to, opset)


def _model(to: _Writer, opset: int) -> ModelProto:
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(to.dtype))
    values = {"x": ["N", 3, "H", "W"], "logits": ["N", 10], "map": ["N", 4, "H2", "W2"]}
    x, *outputs = (helper.make_tensor_value_info(name, kind, shape) for name, shape in values.items())
    graph = helper.make_graph(to.nodes, "audited", [x], outputs, to.initializers, doc_string="a graph")
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=_IR[opset])
    model.producer_name, model.producer_version, model.model_version = "me", "3", 7
    helper.set_model_props(model, {"author": "x"})
    onnx.checker.check_model(model, full_check=True)
    return model
