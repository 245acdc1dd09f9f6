"""Dynamic sizes: what follows the input is known as such, what does not is folded, rewritten nodes stay dynamic."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from graphprune.errors import InputError
from graphprune.frontends import onnx as frontend
from graphprune.ir.graph import Graph, Value, Weight
from tests.frontends.onnx_tools import assert_round_trip, checked, feeds, ints, model, node, only, run, weight

ZERO, ONE, TWO = np.int64(0), np.int64(1), np.int64(2)


def heads(symbols: tuple[str | int, str | int] = ("batch", "length"), opset: int = 17) -> ModelProto:
    """`[batch, length, 12]` split into 3 heads of 4 with a computed target, as the older torch exporter writes it."""
    nodes = [
        node("MatMul", "x w", "h"),
        node("Shape", "h", "size"),
        node("Gather", "size i0", "batch"),
        node("Gather", "size i1", "length"),
        node("Unsqueeze", "batch first", "b1"),
        node("Unsqueeze", "length first", "l1"),
        node("Concat", "b1 l1 three four", "target", axis=0),
        node("Reshape", "h target", "split"),
        node("Transpose", "split", "y", perm=[0, 2, 1, 3]),
    ]
    weights = {
        "w": weight(6, 12), "i0": ZERO, "i1": ONE, "first": ints(0), "three": ints(3), "four": ints(4),
    }  # fmt: skip
    return model(nodes, {"x": (*symbols, 6)}, weights=weights, opset=opset)


def prune(graph: Graph, name: str, axis: int, kept: list[int]) -> None:
    """Slice a weight in place, as a pass would: a new Weight on the same value."""
    value = graph.weights()[name]
    assert value.weight is not None
    array = np.take(value.weight.array(), kept, axis=axis)
    value.weight, value.shape = Weight.of(array), array.shape


def resize(graph: Graph, name: str, *shape: int) -> Value:
    """Give a value its new sizes."""
    (value,) = [v for v in graph.values() if v.name == name]
    value.shape = shape
    return value


def test_symbols_are_bound_and_followed() -> None:
    graph = assert_round_trip(heads(), {"x": (4, 7, 6)})
    found = only(graph, "reshape")
    assert graph.inputs[0].shape == (2, 16, 6)
    assert graph.inputs[0].dynamic == {0, 1}
    assert found.outputs[0].shape == (2, 16, 3, 4)
    assert found.outputs[0].dynamic == {0, 1}
    assert found.attrs["shape"] == (2, 16, 3, 4)
    assert {n.kind for n in graph.nodes} == {"matmul", "shape_math", "reshape", "transpose"}


def test_static_shape_arithmetic_is_folded_away() -> None:
    graph = assert_round_trip(heads((2, 5)))
    assert [n.kind for n in graph.nodes] == ["matmul", "reshape", "transpose"]


@pytest.mark.parametrize("symbols", [("batch", 5), ("batch", "length")])
@pytest.mark.parametrize("cleaned", [False, True])
def test_changed_reshape_stays_dynamic(symbols: tuple[str | int, str | int], cleaned: bool) -> None:
    original = heads(symbols)
    graph = frontend.from_model(original).copy()
    if cleaned:  # a pass may take shape arithmetic that only parameters read for dead
        graph.nodes = [n for n in graph.nodes if n.kind != "shape_math"]
    length = graph.inputs[0].sizes[1]
    kept = [0, 1, 2, 3, 8, 9, 10, 11]
    prune(graph, "w", 1, kept)
    resize(graph, "h", 2, length, 8)
    resize(graph, "split", 2, length, 2, 4)
    resize(graph, "y", 2, 2, length, 4)
    only(graph, "reshape").change(shape=(2, length, 2, 4))
    made = checked(graph)
    inputs = feeds(graph, {"x": (5, 5, 6)})
    np.testing.assert_array_equal(run(made, inputs)[0], run(original, inputs)[0][:, [0, 2]])
    assert made.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"


def test_several_moved_axes_keep_their_computed_sizes() -> None:
    """`[batch, length * 12]` -> `[length, batch, 12]`: no axis can be copied, only one may be -1."""
    nodes = [
        node("Shape", "x", "size"),
        node("Gather", "size i0", "batch"),
        node("Gather", "size i1", "length"),
        node("Concat", "length batch width", "target", axis=0),
        node("Transpose", "x", "t", perm=[1, 0, 2]),
        node("MatMul", "t w", "h"),
        node("Reshape", "h merged", "m"),
        node("Reshape", "m target", "y"),
    ]
    weights = {"w": weight(6, 12), "i0": ints(0), "i1": ints(1), "width": ints(12), "merged": ints(-1, 12)}
    original = model(nodes, {"x": ("batch", "length", 6)}, weights=weights)
    graph = frontend.from_model(original).copy()
    prune(graph, "w", 1, [1, 5])
    resize(graph, "h", 16, 2, 2)
    resize(graph, "m", 32, 2)
    resize(graph, "y", 16, 2, 2)
    for found, shape in zip([n for n in graph.nodes if n.kind == "reshape"], [(32, 2), (16, 2, 2)], strict=True):
        found.change(shape=shape)
    inputs = feeds(graph, {"x": (3, 5, 6)})
    np.testing.assert_array_equal(run(checked(graph), inputs)[0], run(original, inputs)[0][..., [1, 5]])


def test_merged_dynamic_axis_is_scaled() -> None:
    """`[batch, length, 12]` -> `[batch, length * 12]` with a computed product, both axes dynamic."""
    nodes = [
        node("MatMul", "x w", "h"),
        node("Shape", "h", "size"),
        node("Gather", "size i0", "batch"),
        node("Gather", "size i1", "length"),
        node("Mul", "length width", "product"),
        node("Concat", "product batch", "target", axis=0),
        node("Transpose", "h", "t", perm=[1, 2, 0]),
        node("Reshape", "t target", "y"),
    ]
    weights = {"w": weight(6, 12), "i0": ints(0), "i1": ints(1), "width": ints(12)}
    original = model(nodes, {"x": ("batch", "length", 6)}, weights=weights)
    graph = frontend.from_model(original).copy()
    prune(graph, "w", 1, [0, 1, 2])
    resize(graph, "h", 2, 16, 3)
    resize(graph, "t", 16, 3, 2)
    resize(graph, "y", 48, 2)
    only(graph, "reshape").change(shape=(48, 2))
    inputs = feeds(graph, {"x": (4, 5, 6)})
    expected = run(original, inputs)[0].reshape(5, 12, 4)[:, :3].reshape(15, 4)
    np.testing.assert_array_equal(run(checked(graph), inputs)[0], expected)


def test_scale_computed_from_a_head_size_keeps_its_value() -> None:
    nodes = [
        node("MatMul", "x w", "h"),
        node("Shape", "h", "size"),
        node("Gather", "size last", "width"),
        node("Cast", "width", "real", to=TensorProto.FLOAT),
        node("Sqrt", "real", "root"),
        node("Div", "h root"),
    ]
    weights = {"w": weight(6, 16), "last": np.int64(-1)}
    graph = assert_round_trip(model(nodes, {"x": ("batch", "length", 6)}, weights=weights))
    assert [n.op for n in graph.nodes] == ["MatMul", "Div"]
    root = graph.weights()["root"].weight
    assert root is not None
    assert root.array().shape == ()
    assert root.array() == 4.0
    assert not root.trainable


def test_comparison_of_a_dynamic_size_is_not_folded() -> None:
    """Both bindings are below the limit, yet the user's input may not be."""
    nodes = [
        node("Shape", "x", "size"),
        node("Gather", "size i1", "length"),
        node("Less", "length limit", "short"),
        node("Cast", "short", "real", to=TensorProto.FLOAT),
        node("Mul", "x real"),
    ]
    weights = {"i1": ONE, "limit": np.int64(100)}
    graph = assert_round_trip(model(nodes, {"x": (2, "length")}, weights=weights), {"x": (2, 200)})
    assert [n.kind for n in graph.nodes] == ["shape_math"] * 4 + ["elementwise"]


def test_sizes_of_a_pruned_tensor_are_measured_as_they_were() -> None:
    """A mixed [batch, 12] taken from one tensor, used to expand another that keeps its size."""
    nodes = [
        node("MatMul", "x w", "h"),
        node("Shape", "h", "size"),
        node("Expand", "c size", "wide"),
        node("MatMul", "h v", "narrow"),
        node("Concat", "narrow wide", "y", axis=1),
    ]
    weights = {"w": weight(6, 12), "c": weight(1, 12), "v": weight(12, 3)}
    original = model(nodes, {"x": ("batch", 6)}, weights=weights)
    graph = frontend.from_model(original).copy()
    prune(graph, "w", 1, [0, 1])
    prune(graph, "v", 0, [0, 1])
    resize(graph, "h", 2, 2)
    inputs = feeds(graph, {"x": (5, 6)})
    found = run(checked(graph), inputs)[0]
    np.testing.assert_array_equal(found[:, 3:], run(original, inputs)[0][:, 3:])


def test_changed_expand_keeps_dynamic_axes() -> None:
    nodes = [
        node("Shape", "x", "size"),
        node("Gather", "size i0", "batch"),
        node("Concat", "batch minus minus", "raw", axis=0),
        node("Equal", "raw minus", "kept"),
        node("Where", "kept ones raw", "target"),
        node("Expand", "token target", "y"),
    ]
    weights = {"i0": ints(0), "minus": ints(-1), "ones": ints(1, 1, 1), "token": weight(1, 1, 8)}
    original = model(nodes, {"x": ("batch", 4)}, weights=weights)
    graph = frontend.from_model(original).copy()
    found = only(graph, "expand")
    assert found.outputs[0].dynamic == {0}
    prune(graph, "token", 2, [1, 2])
    resize(graph, "y", 2, 1, 2)
    found.change(shape=(2, 1, 2))
    inputs = feeds(graph, {"x": (7, 4)})
    np.testing.assert_array_equal(run(checked(graph), inputs)[0], run(original, inputs)[0][..., 1:3])


def test_changed_slice_keeps_open_bounds_of_dynamic_axes() -> None:
    nodes = [node("MatMul", "x w", "h"), node("Slice", "h starts ends axes", "y")]
    weights = {"w": weight(6, 12), "starts": ints(1, 4), "ends": ints(2**62, 8), "axes": ints(1, 2)}
    original = model(nodes, {"x": ("batch", "length", 6)}, weights=weights)
    graph = frontend.from_model(original).copy()
    assert only(graph, "slice").attrs["slices"] == [(1, 1, 16, 1), (2, 4, 8, 1)]
    prune(graph, "w", 1, [0, 1, 4, 6])
    resize(graph, "h", 2, 16, 4)
    resize(graph, "y", 2, 15, 2)
    only(graph, "slice").change(slices=[(1, 1, 16, 1), (2, 2, 4, 1)])
    inputs = feeds(graph, {"x": (3, 40, 6)})
    np.testing.assert_array_equal(run(checked(graph), inputs)[0], run(original, inputs)[0][..., [0, 2]])


def test_computed_zeros_are_data_of_their_own() -> None:
    """The initial state of a recurrent layer: zeros of a computed shape can lose columns."""
    nodes = [
        node("MatMul", "x w", "h"),
        node("Shape", "x", "size"),
        node("Gather", "size i0", "batch"),
        node("Concat", "batch twelve", "target", axis=0),
        node("ConstantOfShape", "target", "zeros"),
        node("Concat", "h zeros", "y", axis=1),
    ]
    weights = {"w": weight(6, 12), "i0": ints(0), "twelve": ints(12)}
    graph = assert_round_trip(model(nodes, {"x": ("batch", 6)}, weights=weights), {"x": (5, 6)})
    found = only(graph, "expand")
    assert found.attrs["shape"] == (2, 12)
    found.change(shape=(2, 5))
    found.outputs[0].shape, graph.outputs[0].shape = (2, 5), (2, 17)
    inputs = feeds(graph, {"x": (7, 6)})
    assert run(checked(graph), inputs)[0].shape == (7, 17)


def test_a_table_cut_at_a_dynamic_length_keeps_all_its_rows() -> None:
    nodes = [node("Shape", "x", "size"), node("Slice", "table i0 size i0", "cut"), node("Add", "cut x")]
    made = model(nodes, {"x": ("length",)}, weights={"table": weight(50), "i0": ints(0)})
    graph = assert_round_trip(made, {"x": (40,)})
    assert only(graph, "axiswise").attrs["axes"] == (0,)


@pytest.mark.parametrize("opset", [13, 18])
def test_resize_to_sizes_follows_its_channels(opset: int) -> None:
    nodes = [
        node("Conv", "x w", "h", kernel_shape=[1, 1]),
        node("Shape", "x", "size"),
        node("Slice", "size two four first", "grid"),
        node("Shape", "h", "inner"),
        node("Slice", "inner first two first", "outer"),
        node("Concat", "outer grid", "sizes", axis=0),
        node("Resize", "h _ _ sizes", "y"),
    ]
    weights = {"w": weight(8, 3, 1, 1), "first": ints(0), "two": ints(2), "four": ints(4)}
    original = model(nodes, {"x": ("batch", 3, "height", 20)}, weights=weights, opset=opset)
    graph = frontend.from_model(original).copy()
    assert only(graph, "spatial").outputs[0].dynamic == {0, 2}
    prune(graph, "w", 0, [1, 7])
    resize(graph, "h", 2, 2, 224, 20)
    resize(graph, "y", 2, 2, 224, 20)
    inputs = feeds(graph, {"x": (1, 3, 10, 20)})
    np.testing.assert_allclose(run(checked(graph), inputs)[0], run(original, inputs)[0][:, [1, 7]], rtol=1e-6)


def test_input_shapes_bind() -> None:
    graph = frontend.from_model(heads(), {"x": (1, 50, 6)})
    assert graph.inputs[0].shape == (1, 50, 6)
    assert graph.inputs[0].dynamic == {0, 1}
    assert frontend.from_model(heads(), [(3, 4, 6)]).inputs[0].shape == (3, 4, 6)


def test_a_convolution_tells_the_channels() -> None:
    made = model([node("Conv", "x w")], {"x": ("n", "c", "h", "w")}, weights={"w": weight(4, 3, 3, 3)})
    graph = frontend.from_model(made)
    assert graph.inputs[0].shape == (2, 3, 224, 224)
    assert graph.outputs[0].dynamic == {0, 2, 3}


def test_a_symbol_has_one_size() -> None:
    made = model([node("Add", "a b")], {"a": ("n", 4), "b": ("n", 4)})
    assert [v.shape for v in frontend.from_model(made, {"b": (7, 4)}).inputs] == [(7, 4), (7, 4)]
    with pytest.raises(InputError, match="the size 'n' .* is given as 3 and as 4"):
        frontend.from_model(made, {"a": (3, 4), "b": (4, 4)})


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({"z": (1, 5, 6)}, r"given for 'z', which is no input of the model \(its inputs are 'x'\)"),
        ({"x": (1, 5)}, r"'x' has the shape \['batch', 'length', 6\], to which \[1, 5\] does not fit"),
        ({"x": (1, 5, 7)}, "does not fit"),
        ({"x": (0, 5, 6)}, "does not fit"),
        ([(1, 5, 6), (1,)], "2 input shapes were given, but the model has 1 inputs"),
    ],
)
def test_wrong_input_shapes(shapes: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        frontend.from_model(heads(), shapes)  # type: ignore[arg-type]


def test_unknown_rank_is_unknown() -> None:
    made = model([node("Relu", "x")], {"x": (2, 3)})
    made.graph.node[0].op_type = "NonZero"
    made.graph.output[0].CopyFrom(helper.make_tensor_value_info("y", TensorProto.INT64, (None, None)))
    graph = frontend.from_model(made)
    assert only(graph, "unknown").outputs[0].shape is None
    onnx.checker.check_model(frontend.emit(graph), full_check=True)
