"""Small ONNX models for the tests of the runtimes and the command line."""

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def linear(width: int = 8, out: int = 4, elem_type: int = TensorProto.FLOAT) -> onnx.ModelProto:
    """y = x @ w + 1 with w of seed 0; x is `[batch, width]` with a dynamic batch."""
    dtype = helper.tensor_dtype_to_np_dtype(elem_type)
    weight = np.random.default_rng(0).standard_normal((width, out)).astype(dtype)
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Add", ["h", "one"], ["y"])],
        "linear",
        [helper.make_tensor_value_info("x", elem_type, ["batch", width])],
        [helper.make_tensor_value_info("y", elem_type, ["batch", out])],
        [numpy_helper.from_array(weight, "w"), numpy_helper.from_array(np.ones(out, dtype), "one")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def weight(model: onnx.ModelProto) -> np.ndarray:
    """The matrix of `linear`."""
    return numpy_helper.to_array(model.graph.initializer[0])
