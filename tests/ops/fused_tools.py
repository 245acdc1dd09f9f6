"""What worked examples of fused and quantised ONNX operators are made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .examples_onnx import node

WIDTH, HEADS = 16, 4


def contrib(op: str, inputs: str, outputs: str, **attrs: Any) -> onnx.NodeProto:
    """A node of onnxruntime's own domain; "-" leaves an output out, too."""
    made = node(op, inputs, outputs, domain="com.microsoft", **attrs)
    made.output[:] = ["" if name == "-" else name for name in made.output]
    return made


def fused(
    nodes: Sequence[onnx.NodeProto],
    weights: Mapping[str, Any],
    inside: Sequence[int],
    outside: Sequence[int],
    opset: int = 21,
    kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A model from `x` to `y` that may use onnxruntime's own operators."""
    graph = helper.make_graph(
        list(nodes),
        "example",
        [helper.make_tensor_value_info("x", kind, inside)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, outside)],
        [numpy_helper.from_array(np.asarray(w), name) for name, w in weights.items()],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10 if opset < 23 else 11)


def integers(*shape: int, low: int = -100, high: int = 100, dtype: Any = np.int8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).integers(low, high, shape).astype(dtype)


def scalar(number: float, dtype: Any = np.float32) -> np.ndarray:
    return np.asarray(number, dtype)
