"""Files written piece by piece are what protobuf would write."""

from __future__ import annotations

import io

import ml_dtypes
import numpy as np
import onnx
import pytest
from onnx import GraphProto, ModelProto, TensorProto, helper

from graphprune.errors import GraphPruneError
from graphprune.frontends.onnx.write import wire
from graphprune.frontends.onnx.write.emit import fill
from graphprune.ir.graph import Weight

ARRAYS = {
    "float": np.random.default_rng(0).standard_normal((40, 30)).astype(np.float32),
    "half": np.arange(900, dtype=np.float16),
    "bfloat": np.arange(900).astype(ml_dtypes.bfloat16),
    "nibbles": np.arange(3000).astype(ml_dtypes.int4).reshape(30, 100),
    "bools": np.arange(2000) % 3 == 0,
    "turned": np.arange(2000.0).reshape(40, 50).T,
    "few": np.arange(5),
    "one": np.float32(3),
    "none": np.zeros((0, 4), np.float32),
    "texts": np.array(["a", "b"], object),
}


def unfilled() -> tuple[ModelProto, dict[str, Weight]]:
    node = helper.make_node("Identity", ["x"], ["y"])
    infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in "xy"]
    graph = helper.make_graph([node], "g", infos[:1], infos[1:], doc_string="d" * 300)
    model = helper.make_model(graph, producer_name="somebody")
    helper.set_model_props(model, {"author": "me"})
    for name, array in ARRAYS.items():
        model.graph.initializer.add(name=name, dims=array.shape, doc_string="kept")
    return model, {name: Weight.of(np.asarray(array)) for name, array in ARRAYS.items()}


def test_a_written_model_is_the_filled_one() -> None:
    (model, weights), file = unfilled(), io.BytesIO()
    wire.write(model, weights, file)
    fill(model, weights)
    assert onnx.load_from_string(file.getvalue()) == model
    assert len(file.getvalue()) == model.ByteSize()


@pytest.mark.parametrize("number", [0, 1, 127, 128, 300, 2**31, 2**40])
def test_lengths_are_written_as_protobuf_does(number: int) -> None:
    assert TensorProto.FromString(b"\x08" + wire._varint(number)).dims == [number]


def test_elements_that_do_not_fit_their_header_are_an_error() -> None:
    model = ModelProto(graph=GraphProto(initializer=[TensorProto(name="w", dims=[2, 600])]))
    with pytest.raises(GraphPruneError, match="'w' is to have the shape"):
        wire.write(model, {"w": Weight.of(np.zeros((600, 2), np.float32))}, io.BytesIO())
