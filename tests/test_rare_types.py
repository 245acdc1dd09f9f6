"""Models in types that onnxruntime's kernels lack are proven in float32, and float16 where only rounding differs."""

from __future__ import annotations

from collections.abc import Callable

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphprune as gp
from graphprune.ir.graph import Weight


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


def steady(spread: float) -> onnx.ModelProto:
    """Two convolutions in float16 whose outputs are 8 and a little that depends on the input: less than a rounding."""
    random = np.random.default_rng(0)
    shapes = {"a": (64, 3, 1, 1), "b": (4, 64, 1, 1)}
    weights = {name: random.standard_normal(shape) for name, shape in shapes.items()}
    stored = {"a": weights["a"], "b": spread * weights["b"], "bias": np.full(4, 8.0)}
    nodes = [
        helper.make_node("Conv", ["x", "a"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Conv", ["r", "b", "bias"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT16, [1, 3, 64, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT16, [1, 4, 64, 64])],
        [numpy_helper.from_array(array.astype(np.float16), name) for name, array in stored.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)


def rounded_up(weights: np.ndarray) -> np.ndarray:
    """One weight of each row by one rounding."""
    weights = weights.copy()
    weights[:, :1] = np.nextafter(weights[:, :1], np.float16(np.inf))
    return weights


@pytest.mark.parametrize(
    ("change", "passes"), [(rounded_up, True), (lambda weights: weights * np.float16(1.05), False)]
)
def test_where_float16_rounds_too_much_float32_decides(
    change: Callable[[np.ndarray], np.ndarray], passes: bool
) -> None:
    graph = gp.load(steady(1e-3))
    plan = gp.plan(graph, gp.channels(0.5), "l2")
    small = gp.apply(graph, plan)
    value = small.weights()["b"]
    assert value.weight is not None
    value.weight = Weight.of(change(value.weight.array()), trainable=True)
    found = gp.verify(graph, small, plan)
    assert found.passed == passes, found
    assert "in the model's own float type; in float32 they differ by" in found.detail
    assert found.tolerance == 1e-3
