"""Constants in every form are weights; everything around the nodes survives."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from graphprune.frontends import onnx as frontend
from graphprune.ir.graph import Weight
from tests.frontends.onnx_tools import assert_round_trip, checked, feeds, ints, linear, model, node, only, run, weight


def with_constant(**value: Any) -> ModelProto:
    """`x + constant`, the constant made by a node."""
    return model([node("Constant", "", "c", **value), node("Add", "x c")], {"x": (2, 3)}, opset=13)


@pytest.mark.parametrize(
    ("value", "shape"),
    [
        ({"value": numpy_helper.from_array(weight(2, 3))}, (2, 3)),
        ({"value_float": 2.5}, ()),
        ({"value_floats": [1.0, 2.0, 3.0]}, (3,)),
        ({"value": helper.make_tensor("typed", TensorProto.FLOAT, (3,), [1.0, 2.0, 3.0])}, (3,)),
    ],
    ids=["value", "value_float", "value_floats", "typed field"],
)
def test_constant_nodes_are_weights(value: dict[str, Any], shape: tuple[int, ...]) -> None:
    graph = assert_round_trip(with_constant(**value))
    found = graph.weights()["c"]
    assert found.shape == shape
    assert found.weight is not None
    assert found.weight.trainable == (len(shape) > 0)
    assert [n.op_type for n in frontend.emit(graph).graph.node] == ["Constant", "Add"]


def test_integer_constants_are_parameters() -> None:
    nodes = [node("Constant", "", "a", value_ints=[3, 2]), node("Reshape", "x a")]
    assert only(assert_round_trip(model(nodes, {"x": (2, 3)})), "reshape").attrs["shape"] == (3, 2)
    nodes = [node("Constant", "", "i", value_int=-1), node("Gather", "x i", axis=1)]
    assert only(assert_round_trip(model(nodes, {"x": (2, 3)})), "select").attrs["index"] == 2


def test_constant_of_shape_is_a_weight() -> None:
    fill = numpy_helper.from_array(np.array([0.5], np.float32))
    nodes = [node("ConstantOfShape", "s", "c", value=fill), node("Add", "x c")]
    graph = assert_round_trip(model(nodes, {"x": (2, 3)}, weights={"s": ints(2, 3)}))
    value = graph.weights()["c"]
    assert value.weight is not None
    assert not value.weight.trainable  # one number and a few sizes, which are part of the model's definition
    np.testing.assert_array_equal(value.weight.array(), np.full((2, 3), 0.5, np.float32))
    value.weight, value.shape = Weight.of(np.full((1, 3), 0.5, np.float32)), (1, 3)
    assert [n.op_type for n in checked(graph).graph.node] == ["Add"]


def test_initializers_that_are_inputs_too() -> None:
    made = linear(9, ir_version=3)
    graph = assert_round_trip(made)
    assert [v.name for v in graph.inputs] == ["x"]
    value = graph.weights()["w"]
    value.weight = Weight.of(weight(16, 8))
    value.shape = (16, 8)
    graph.weights()["b"].weight = Weight.of(weight(8))
    graph.weights()["b"].shape = (8,)
    for output in (*graph.nodes[0].outputs, *graph.nodes[1].outputs, *graph.nodes[2].outputs):
        output.shape = (2, 8)
    inputs = {i.name: i for i in checked(graph).graph.input}
    assert [d.dim_value for d in inputs["w"].type.tensor_type.shape.dim] == [16, 8]


def test_new_constants_of_old_models_are_nodes() -> None:
    made = model([node("Gather", "x i", axis=1)], {"x": (2, 6)}, weights={"i": ints(0, 1)}, opset=9, ir_version=3)
    graph = frontend.from_model(made)
    only(graph, "gather").change(indices=np.array([3, 4]))
    inputs = feeds(graph)
    np.testing.assert_array_equal(run(checked(graph), inputs)[0], inputs["x"][:, [3, 4]])


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
def test_other_float_types(dtype: Any) -> None:
    kind = {"float16": TensorProto.FLOAT16, "bfloat16": TensorProto.BFLOAT16, "float64": TensorProto.DOUBLE}
    elem_type = kind[np.dtype(dtype).name]
    made = model(
        [node("MatMul", "x w")],
        {"x": (2, 4)},
        weights={"w": weight(4, 3, dtype=dtype)},
        types={"x": elem_type, "y": elem_type},
    )
    graph = frontend.from_model(made)
    value = graph.weights()["w"]
    assert value.weight is not None
    assert value.dtype == np.dtype(dtype) == value.weight.array().dtype
    assert value.weight.trainable
    assert graph.inputs[0].dtype == np.dtype(dtype)
    assert checked(graph).graph.initializer[0].SerializeToString() == made.graph.initializer[0].SerializeToString()


def test_tied_and_trainable() -> None:
    nodes = [node("MatMul", "x w", "h"), node("Add", "h b", "a"), node("Gather", "a i", axis=1)]
    made = model(nodes, {"x": (2, 4)}, weights={"w": weight(4, 3), "b": weight(3), "i": ints(0, 2)})
    weights = {name: value.weight for name, value in frontend.from_model(made).weights().items()}
    assert {name: (w.tied, w.trainable) for name, w in weights.items() if w} == {
        "w": (True, True), "b": (False, True), "i": (False, False),
    }  # fmt: skip


def test_everything_around_the_nodes_survives() -> None:
    made = linear(doc_string="about", producer_name="maker", producer_version="7")
    made.metadata_props.add(key="k", value="v")
    made.graph.metadata_props.add(key="g", value="w")
    made.graph.initializer[0].doc_string = "a weight"
    made.graph.value_info.append(helper.make_tensor_value_info("h", 1, ("batch", 32), "hidden"))
    made.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    assert frontend.emit(frontend.from_model(made)).SerializeToString() == made.SerializeToString()


def test_the_given_model_is_not_touched() -> None:
    made = linear()
    before = made.SerializeToString()
    frontend.emit(frontend.from_model(made))
    assert made.SerializeToString() == before


def test_dead_nodes_and_weights_are_dropped() -> None:
    made = linear()
    made.graph.node.insert(0, node("Relu", "x", "unused"))
    made.graph.initializer.append(numpy_helper.from_array(weight(3), "forgotten"))
    again = frontend.emit(frontend.from_model(made))
    assert [n.op_type for n in again.graph.node] == ["MatMul", "Add", "Relu"]
    assert [w.name for w in again.graph.initializer] == ["w", "b"]


def test_stale_value_info_is_dropped() -> None:
    made = linear()
    made.graph.value_info.append(helper.make_tensor_value_info("h", 1, ("batch", 32)))
    graph = frontend.from_model(made)
    next(v for v in graph.values() if v.name == "h").shape = (2, 8)
    assert not frontend.emit(graph).graph.value_info


def test_outputs_keep_their_names_when_their_node_goes() -> None:
    made = model(
        [node("Relu", "x", "h"), node("Identity", "h", "y"), node("Identity", "x", "z")], {"x": (2, 3)}, ["y", "z"]
    )
    graph = frontend.from_model(made)
    relu, *_ = graph.nodes
    graph.nodes, graph.outputs = [relu], [relu.outputs[0], graph.inputs[0]]
    again = checked(graph)
    assert [(n.op_type, list(n.output)) for n in again.graph.node] == [("Relu", ["y"]), ("Identity", ["z"])]
    for a, b in zip(run(made, feeds(graph)), run(again, feeds(graph)), strict=True):
        np.testing.assert_array_equal(a, b)


def test_outputs_may_change_places() -> None:
    made = model([node("Relu", "x", "y"), node("Neg", "x", "z")], {"x": (2, 3)}, ["y", "z"])
    graph = frontend.from_model(made)
    y, z = graph.outputs
    graph.outputs = [z, y]
    again = checked(graph)
    for a, b in zip(run(made, feeds(graph))[::-1], run(again, feeds(graph)), strict=True):
        np.testing.assert_array_equal(a, b)
    graph.outputs = [y, y]
    both = run(checked(graph), feeds(graph))
    np.testing.assert_array_equal(both[0], both[1])


def test_a_weight_that_is_also_a_parameter_is_copied_when_sliced() -> None:
    """Exporters merge equal constants: here the gather indices are also a reshape target."""
    nodes = [node("Gather", "x c", "g", axis=1), node("Reshape", "g c", "y")]
    made = model(nodes, {"x": (6, 2)}, weights={"c": ints(0, -1)})
    graph = frontend.from_model(made)
    value = graph.weights()["c"]
    value.weight, value.shape = Weight.of(ints(0)), (1,)
    found = only(graph, "gather")
    found.change(indices=np.array([0]))
    found.outputs[0].shape = graph.outputs[0].shape = (6, 1)
    inputs = feeds(graph)
    np.testing.assert_array_equal(run(checked(graph), inputs)[0], inputs["x"][:, :1])


def test_taken_outputs() -> None:
    made = model([node("Reshape", "x s", "h"), node("Relu", "h")], {"x": (2, 12)}, weights={"s": ints(2, 3, 4)})
    graph = frontend.from_model(made)
    only(graph, "reshape").change(take=[(1, np.array([2, 0])), (2, np.array([1, 2]))])
    for value in [graph.nodes[0].outputs[0], graph.outputs[0]]:
        value.shape = (2, 2, 2)
    inputs = feeds(graph)
    expected = np.maximum(inputs["x"].reshape(2, 3, 4)[:, [2, 0]][:, :, [1, 2]], 0)
    made = checked(graph)
    np.testing.assert_array_equal(run(made, inputs)[0], expected)
    assert "h" in {name for n in made.graph.node for name in n.output}
