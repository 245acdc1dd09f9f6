"""Long networks of a given number of nodes, written as ONNX directly, to measure how compile time grows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

WIDTH = 16
HEADS = 4
LENGTH = 8


@dataclass
class Chain:
    """An ONNX graph under construction."""

    nodes: list[onnx.NodeProto] = field(default_factory=list)
    weights: list[onnx.TensorProto] = field(default_factory=list)
    random: np.random.Generator = field(default_factory=lambda: np.random.default_rng(0))

    def node(self, operator: str, *inputs: str, **attributes: Any) -> str:
        """Add a node with one output; returns the output's name."""
        name = f"{operator.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(operator, inputs, [name], name=name, **attributes))
        return name

    def weight(self, *shape: int) -> str:
        """Add a random weight; returns its name."""
        return self.constant(self.random.standard_normal(shape, np.float32) * 0.1, f"weight_{len(self.weights)}")

    def constant(self, array: np.ndarray, name: str) -> str:
        """Add an initializer; returns its name."""
        self.weights.append(numpy_helper.from_array(np.asarray(array), name))
        return name

    def dense(self, x: str, inside: int, outside: int) -> str:
        """A product and its bias."""
        return self.node("Add", self.node("MatMul", x, self.weight(inside, outside)), self.weight(outside))

    def norm(self, x: str) -> str:
        """A layer norm of the stream."""
        return self.node("LayerNormalization", x, self.weight(WIDTH), self.weight(WIDTH), axis=-1)

    def model(self, output: str, inside: list[int], outside: list[int]) -> onnx.ModelProto:
        """Close the graph."""
        inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, inside)]
        outputs = [helper.make_tensor_value_info(output, TensorProto.FLOAT, outside)]
        graph = helper.make_graph(self.nodes, "long", inputs, outputs, self.weights)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


def mlp(nodes: int) -> onnx.ModelProto:
    """Residual blocks of two layers, six nodes each."""
    net = Chain()
    x = net.dense("x", 3, WIDTH)
    while len(net.nodes) < nodes - 1:
        hidden = net.node("Relu", net.dense(x, WIDTH, WIDTH))
        x = net.node("Add", x, net.dense(hidden, WIDTH, WIDTH))
    y = net.node("MatMul", x, net.weight(WIDTH, 2))
    return net.model(y, [4, 3], [4, 2])


def resnet(nodes: int) -> onnx.ModelProto:
    """Residual blocks of two convolutions with batch norms, seven nodes each."""
    net = Chain()

    def conv(x: str, inside: int) -> str:
        y = net.node("Conv", x, net.weight(WIDTH, inside, 3, 3), kernel_shape=[3, 3], pads=[1] * 4)
        return net.node("BatchNormalization", y, *(net.weight(WIDTH) for _ in range(4)))

    x = net.node("Relu", conv("x", 3))
    while len(net.nodes) < nodes - 1:
        hidden = net.node("Relu", conv(x, WIDTH))
        x = net.node("Relu", net.node("Add", x, conv(hidden, WIDTH)))
    y = net.node("Conv", x, net.weight(2, WIDTH, 1, 1))
    return net.model(y, [1, 3, 4, 4], [1, 2, 4, 4])


def transformer(nodes: int) -> onnx.ModelProto:
    """Blocks of attention and MLP, twenty-seven nodes each, with heads split and merged by reshapes."""
    net = Chain()
    split = net.constant(np.array([0, LENGTH, HEADS, WIDTH // HEADS]), "split")
    merge = net.constant(np.array([0, LENGTH, WIDTH]), "merge")
    scale = net.constant(np.float32(0.5), "scale")

    def heads(x: str, perm: list[int]) -> str:
        return net.node("Transpose", net.node("Reshape", net.dense(x, WIDTH, WIDTH), split), perm=perm)

    x = net.dense("x", 3, WIDTH)
    while len(net.nodes) < nodes - 1:
        y = net.norm(x)
        scores = net.node("MatMul", heads(y, [0, 2, 1, 3]), heads(y, [0, 2, 3, 1]))
        weights = net.node("Softmax", net.node("Mul", scores, scale), axis=-1)
        mixed = net.node("Transpose", net.node("MatMul", weights, heads(y, [0, 2, 1, 3])), perm=[0, 2, 1, 3])
        x = net.node("Add", x, net.dense(net.node("Reshape", mixed, merge), WIDTH, WIDTH))
        hidden = net.node("Relu", net.dense(net.norm(x), WIDTH, 2 * WIDTH))
        x = net.node("Add", x, net.dense(hidden, 2 * WIDTH, WIDTH))
    y = net.node("MatMul", x, net.weight(WIDTH, 2))
    return net.model(y, [1, LENGTH, 3], [1, LENGTH, 2])


FAMILIES: dict[str, Callable[[int], onnx.ModelProto]] = {"mlp": mlp, "resnet": resnet, "transformer": transformer}
