"""Models in types that onnxruntime's kernels lack are proven in float32."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphprune as gp


def convolutions(kind: int, dtype: type) -> onnx.ModelProto:
    """Two convolutions and a ReLU, all in one type."""
    random = np.random.default_rng(0)
    weights = [
        numpy_helper.from_array(random.standard_normal(shape).astype(dtype), name)
        for name, shape in (("a", (8, 3, 3, 3)), ("b", (4, 8, 1, 1)))
    ]
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["h"], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Conv", ["r", "b"], ["y"]),
    ]
    inputs = [helper.make_tensor_value_info("x", kind, [1, 3, 6, 6])]
    outputs = [helper.make_tensor_value_info("y", kind, [1, 4, 6, 6])]
    graph = helper.make_graph(nodes, "g", inputs, outputs, weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 22)], ir_version=10)


@pytest.mark.parametrize(
    ("kind", "dtype"), [(TensorProto.BFLOAT16, ml_dtypes.bfloat16), (TensorProto.DOUBLE, np.float64)]
)
def test_a_rare_type_is_pruned_and_proven(kind: int, dtype: type) -> None:
    result = gp.prune(convolutions(kind, dtype), target=gp.channels(0.5))
    assert result.report.proof is not None and result.report.proof.passed and not result.report.proof.detail
    kept = {i.name: numpy_helper.to_array(i) for i in result.model.graph.initializer}
    assert kept["a"].shape == (4, 3, 3, 3) and kept["a"].dtype == dtype and kept["b"].shape == (4, 4, 1, 1)
