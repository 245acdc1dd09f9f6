"""Bodies of control flow and local functions: read, written back, pruned inside."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import NodeProto, TensorProto, helper, numpy_helper

from graphprune.frontends import onnx as frontend
from graphprune.frontends.onnx.read.control import DEEPEST
from graphprune.ir.graph import Graph
from tests.helpers import assert_equality

from .onnx_tools import assert_round_trip, checked, feeds, model, node, only, run, weight

SHAPE = (2, 3)


def branch(nodes: Sequence[NodeProto], output: str, *weights: tuple[str, np.ndarray]) -> onnx.GraphProto:
    out = helper.make_tensor_value_info(output, TensorProto.FLOAT, SHAPE)
    return helper.make_graph(list(nodes), "branch", [], [out], [numpy_helper.from_array(w, n) for n, w in weights])


def choice(then: onnx.GraphProto, other: onnx.GraphProto, output: str = "y") -> list[NodeProto]:
    """An If on the sum of `x`."""
    return [
        node("ReduceSum", "x", "s", keepdims=0),
        node("Greater", "s zero", "positive"),
        node("If", "positive", output, then_branch=then, else_branch=other),
    ]


ZERO = np.zeros((), np.float32)


def test_bodies_read_outer_values_directly() -> None:
    nodes = [
        node("Relu", "x", "h"),
        *choice(branch([node("Mul", "h w", "t")], "t"), branch([node("Neg", "h", "e")], "e")),
    ]
    graph = assert_round_trip(model(nodes, {"x": SHAPE}, weights={"w": weight(*SHAPE), "zero": ZERO}))
    found = only(graph, "if")
    assert [v.name for v in found.inputs if v] == ["positive"]
    assert [v.name for v in found.reads()] == ["positive", "h", "w", "h"]
    assert [[n.op for n in body.nodes] for body in found.bodies] == [["Mul"], ["Neg"]]
    assert found.outputs[0].shape == SHAPE


def test_siblings_may_use_the_same_names() -> None:
    then = branch([node("Mul", "x w", "h"), node("Relu", "h", "o")], "o", ("w", weight(*SHAPE)))
    other = branch([node("Mul", "x w", "h"), node("Neg", "h", "o")], "o", ("w", weight(*SHAPE, seed=1)))
    made = model([*choice(then, other, "m"), node("Tanh", "m")], {"x": SHAPE}, weights={"zero": ZERO})
    graph = assert_round_trip(made)
    assert sorted(graph.weights()) == ["w", "w__1", "zero"]


def test_a_decided_branch_takes_the_place_of_its_if() -> None:
    then = branch([node("Relu", "x", "o")], "o")
    other = branch([node("Neg", "x", "o")], "o")
    for part in (then, other):
        part.output[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    nodes = [
        node("Shape", "x", "shape"),
        node("Gather", "shape one", "width", axis=0),
        node("Equal", "width three", "c"),
        node("If", "c", "m", then_branch=then, else_branch=other),
        node("Tanh", "m"),
    ]
    weights = {"one": np.array(1), "three": np.array(3)}
    graph = assert_round_trip(model(nodes, {"x": ("batch", 3)}, weights=weights), {"x": (5, 3)})
    assert [n.op for n in graph.nodes] == ["Relu", "Tanh"]


def test_a_branch_that_follows_the_input_stays_an_if() -> None:
    then, other = branch([node("Relu", "x", "o")], "o"), branch([node("Neg", "x", "o")], "o")
    for part in (then, other):
        part.output[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    nodes = [
        node("Shape", "x", "shape"),
        node("Gather", "shape zero", "batch", axis=0),
        node("Equal", "batch two", "c"),
        node("If", "c", "m", then_branch=then, else_branch=other),
        node("Tanh", "m"),
    ]
    weights = {"zero": np.array(0), "two": np.array(2)}
    graph = assert_round_trip(model(nodes, {"x": ("batch", 3)}, weights=weights), {"x": (5, 3)})
    assert only(graph, "if").outputs[0].dynamic == {0}


def test_deep_nesting_ends_in_an_unknown_operator() -> None:
    inner = branch([node("Relu", "x", "o0")], "o0")
    for depth in range(1, DEEPEST + 2):
        other = branch([node("Neg", "x", f"e{depth}")], f"e{depth}")
        inner = branch([node("If", "positive", f"o{depth}", then_branch=inner, else_branch=other)], f"o{depth}")
    nodes = choice(inner, branch([node("Neg", "x", "e")], "e"))
    graph = assert_round_trip(model(nodes, {"x": SHAPE}, weights={"zero": ZERO}))
    assert any(n.kind == "unknown" and n.attrs["subgraph"] for n in graph.flat_nodes)


def test_a_weight_used_inside_and_outside_is_copied_where_slices_differ() -> None:
    w = {name: weight(6, 6, seed=i) for i, name in enumerate("abcd")}
    then = branch(
        [node("MatMul", "x c", "i"), node("Add", "i v", "j"), node("Relu", "j", "k"), node("MatMul", "k d", "t")], "t"
    )
    other = branch([node("Identity", "x", "e")], "e")
    for part in (then, other):
        part.output[0].type.CopyFrom(helper.make_tensor_type_proto(TensorProto.FLOAT, (2, 6)))
    nodes = [
        *choice(then, other, "m"),
        node("MatMul", "m a", "f"),
        node("Add", "f v", "g"),
        node("Relu", "g", "h"),
        node("MatMul", "h b"),
    ]
    made = model(nodes, {"x": (2, 6)}, weights={**w, "v": weight(6), "zero": ZERO})
    pruned = assert_equality(frontend.from_model(made))
    assert {name for name in pruned.graph.weights() if name.startswith("v")} == {"v", "v.2"}


def test_external_data_inside_a_body(tmp_path: Path) -> None:
    then = branch([node("Mul", "x w", "t")], "t", ("w", weight(*SHAPE)))
    made = model(choice(then, branch([node("Neg", "x", "e")], "e")), {"x": SHAPE}, weights={"zero": ZERO})
    tensor = next(a for a in made.graph.node[2].attribute if a.name == "then_branch").g.initializer[0]
    (tmp_path / "w.bin").write_bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="w.bin")
    onnx.save(made, tmp_path / "model.onnx")
    graph = frontend.load(tmp_path / "model.onnx")
    frontend.save(graph, tmp_path / "again.onnx")
    inputs = feeds(graph)
    for a, b in zip(run(str(tmp_path / "model.onnx"), inputs), run(str(tmp_path / "again.onnx"), inputs), strict=True):
        np.testing.assert_array_equal(a, b)


OPSETS = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]


def function(name: str, nodes: Sequence[NodeProto], **extra: list[str]) -> onnx.FunctionProto:
    return helper.make_function("local", name, ["a"], ["b"], list(nodes), OPSETS, **extra)


def call(name: str, inputs: str, output: str, **attrs: float | str) -> NodeProto:
    return node(name, inputs, output, domain="local", **attrs)


def with_functions(nodes: Sequence[NodeProto], functions: Sequence[onnx.FunctionProto]) -> Graph:
    made = model([node("Relu", "x")], {"x": SHAPE}, ir_version=10, functions=functions)
    made.opset_import.append(OPSETS[1])
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return assert_round_trip(made)


@pytest.mark.parametrize("place", ["graph", "body"])
def test_functions_are_inlined_whatever_their_form(place: str) -> None:
    leaky = node("LeakyRelu", "a", "b")
    leaky.attribute.add(name="alpha", ref_attr_name="alpha", type=onnx.AttributeProto.FLOAT)
    one, two = function("Over", [node("Abs", "a", "b")]), function("Over", [node("Neg", "a", "b")])
    one.overload, two.overload = "one", "two"
    functions = [
        function("Inner", [node("Add", "a a", "b")]),
        function("Outer", [call("Inner", "a", "t"), node("Neg", "t", "b")]),
        function("Leaky", [leaky], attributes=["alpha"]),
        one,
        two,
    ]
    calls = [
        call("Outer", "x", "h"),
        call("Leaky", "h", "i", alpha=0.3),
        call("Over", "i", "j", overload="one"),
        call("Over", "j", "k", overload="two"),
    ]
    constant = helper.make_node("Constant", [], ["zero"], value_float=0.0)
    inside = [constant, *choice(branch(calls, "k"), branch([node("Neg", "x", "e")], "e"))]
    graph = with_functions(inside if place == "body" else [*calls, node("Identity", "k")], functions)
    nodes = graph.nodes if place == "graph" else only(graph, "if").bodies[0].nodes
    assert [n.op for n in nodes][:5] == ["Add", "Neg", "LeakyRelu", "Abs", "Neg"]


def test_functions_that_nothing_calls_stay() -> None:
    idle = function("Idle", [call("Helper", "a", "b")])
    used, helping = function("Used", [node("Relu", "a", "b")]), function("Helper", [node("Neg", "a", "b")])
    graph = with_functions([call("Used", "x", "y")], [idle, used, helping])
    assert sorted(f.name for f in checked(graph).functions) == ["Helper", "Idle"]
