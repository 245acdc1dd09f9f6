"""A quantiser may round otherwise by a hair: that is no difference, and a weight that is off is one."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphprune as gp
from graphprune.frontends.onnx import unrounded

node = helper.make_node
SHAPE = (1, 1, 32, 96)


def reader() -> onnx.ModelProto:
    """Two convolutions, a recurrent layer along the width, and a linear layer: as text is read."""
    random = np.random.default_rng(0)

    def some(*shape: int) -> np.ndarray:
        fan = np.prod(shape[1:]) if len(shape) > 1 else 4
        return (random.standard_normal(shape) * np.sqrt(2 / fan)).astype(np.float32)

    weights = {
        "a": some(24, 1, 3, 3), "ab": 0.1 * some(24), "b": some(32, 24, 3, 3), "bb": 0.1 * some(32),
        "w": some(1, 96, 512), "r": some(1, 96, 24), "o": some(24, 12),
        "order": np.array([-1, 1, 512]), "flat": np.array([-1, 24]),
    }  # fmt: skip
    nodes = [
        node("Conv", ["x", "a", "ab"], ["ya"], pads=[1, 1, 1, 1]),
        node("Relu", ["ya"], ["ra"]),
        node("MaxPool", ["ra"], ["pa"], kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", ["pa", "b", "bb"], ["yb"], pads=[1, 1, 1, 1]),
        node("Relu", ["yb"], ["rb"]),
        node("Transpose", ["rb"], ["t"], perm=[3, 0, 1, 2]),
        node("Reshape", ["t", "order"], ["s"]),
        node("LSTM", ["s", "w", "r"], ["h"], hidden_size=24),
        node("Reshape", ["h", "flat"], ["f"]),
        node("MatMul", ["f", "o"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "reader",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(SHAPE))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [48, 12])],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.fixture(scope="module")
def quantised(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The reader as onnxruntime quantises it."""
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, quantize_static

    class Noise(CalibrationDataReader):
        def __init__(self) -> None:
            self._left: Iterator[dict[str, np.ndarray]] = iter(
                {"x": np.random.default_rng(i).standard_normal(SHAPE).astype(np.float32)} for i in range(4)
            )

        def get_next(self) -> dict[str, np.ndarray] | None:
            return next(self._left, None)

    folder = tmp_path_factory.mktemp("quantised")
    onnx.save(reader(), folder / "plain.onnx")
    quantize_static(
        folder / "plain.onnx", folder / "reader.onnx", Noise(), per_channel=True, quant_format=QuantFormat.QDQ
    )
    return folder / "reader.onnx"


@pytest.mark.parametrize("ratio", [0.8, 0.9, 0.95])
def test_what_is_left_is_the_same(quantised: Path, ratio: float) -> None:
    graph = gp.load(quantised)
    plan = gp.plan(graph, gp.channels(ratio), align=1)
    model = gp.emit(gp.apply(graph, plan))
    for seed in range(6):
        proof = gp.verify(graph, model, plan, seed=seed)
        assert proof.passed, proof


def test_a_step_of_a_quantiser_is_no_difference(quantised: Path) -> None:
    """A scale is off by a few float roundings, as sums in another order are."""
    graph = gp.load(quantised)
    plan = gp.plan(graph, gp.channels(0.8), align=1)
    model = gp.emit(gp.apply(graph, plan))
    tensor = next(t for t in model.graph.initializer if t.name in {"a_quantized_scale", "a_scale"})
    tensor.CopyFrom(
        numpy_helper.from_array((numpy_helper.to_array(tensor) * (1 + 3e-6)).astype(np.float32), tensor.name)
    )
    found = [gp.verify(graph, model, plan, seed=seed) for seed in range(6)]
    assert all(proof.passed for proof in found), found
    stepped = [proof for proof in found if "quantisers that round otherwise make results differ by" in proof.detail]
    assert stepped and all(proof.max_error < 1e-4 for proof in stepped)


@pytest.mark.parametrize("name", ["a", "b", "w", "r", "o"])
def test_a_weight_that_is_off_is_a_difference(quantised: Path, name: str) -> None:
    graph = gp.load(quantised)
    plan = gp.plan(graph, gp.channels(0.8), align=1)
    model = gp.emit(gp.apply(graph, plan))
    tensor = next(t for t in model.graph.initializer if t.name in (name, f"{name}_quantized"))
    array = numpy_helper.to_array(tensor)
    tensor.CopyFrom(numpy_helper.from_array(np.roll(array, 1, -1 if array.ndim < 4 else 0), tensor.name))
    assert gp.verify(graph, model, plan).failed


def test_what_computes_with_integers_keeps_its_roundings(quantised: Path) -> None:
    model = onnx.load(quantised)
    free = unrounded(model)
    assert free is not None
    left = [n for n in free.graph.node if n.op_type == "QuantizeLinear"]
    assert not left and any(n.op_type == "DequantizeLinear" for n in free.graph.node)  # of the weights
    quantiser = next(n for n in model.graph.node if n.op_type == "QuantizeLinear")
    model.graph.node.append(node("Cast", [quantiser.output[0]], ["number"], to=TensorProto.FLOAT))
    assert unrounded(model) is None
