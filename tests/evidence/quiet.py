"""Networks that answer made-up inputs with constants."""

from __future__ import annotations

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

#: What it takes to wake them up: no made-up input is of this size.
LOUD = 1e7


def silent(batch: int | str = 1) -> onnx.ModelProto:
    """Two layers behind a threshold that only very negative inputs reach."""
    random = np.random.default_rng(0)
    weights = {
        "a": -np.abs(random.standard_normal((8, 4, 3, 3))) / 36,
        "low": np.full(8, -LOUD / 10),
        "b": random.standard_normal((3, 8, 1, 1)),
    }
    nodes = [
        helper.make_node("Conv", ["x", "a", "low"], ["h"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Conv", ["r", "b"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "silent",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [batch, 4, 6, 6])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [batch, 3, 6, 6])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


class Silent(nn.Module):
    """The same in PyTorch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Conv2d(4, 8, 3, padding=1), nn.Conv2d(8, 3, 1, bias=False)
        with torch.no_grad():
            self.a.weight.copy_(-self.a.weight.abs())
            self.a.bias.fill_(-LOUD / 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Nothing, for all but very negative inputs."""
        found: torch.Tensor = self.b(torch.relu(self.a(x)))
        return found


def samples(count: int = 6) -> np.ndarray:
    """Inputs that wake them up."""
    return (-LOUD * (1 + np.random.default_rng(1).random((count, 4, 6, 6)))).astype(np.float32)


def headed(
    tail: list[onnx.NodeProto], outputs: dict[str, tuple[int, list[int | str]]], **more: np.ndarray
) -> onnx.ModelProto:
    """Two convolutions to 3 channels `z`, and nodes that make the outputs (each of a type and a shape) of it."""
    random = np.random.default_rng(0)
    weights = {"a": random.standard_normal((8, 4, 3, 3)), "b": random.standard_normal((3, 8, 1, 1)), **more}
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["h"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Conv", ["r", "b"], ["z"]),
        *tail,
    ]
    graph = helper.make_graph(
        nodes,
        "headed",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4, 6, 6])],
        [helper.make_tensor_value_info(name, *kind) for name, kind in outputs.items()],
        [
            numpy_helper.from_array(array if array.dtype == np.int64 else array.astype(np.float32), name)
            for name, array in weights.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
