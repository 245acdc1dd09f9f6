"""Changed attributes are written back in the form that the model's opset wants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto

from graphprune.errors import GraphPruneError
from graphprune.frontends import onnx as frontend
from graphprune.ir.graph import Node, Value, Weight
from tests.frontends.onnx_tools import checked, feeds, ints, linear, model, node, only, run, weight

X = {"x": (2, 6, 4)}
Numpy = Callable[[np.ndarray], Any]


def slices(opset: int) -> NodeProto:
    """A slice of channels 1 to 5."""
    old = node("Slice", "x", starts=[1], ends=[5], axes=[1])
    return old if opset < 10 else node("Slice", "x s e a t")


def splits(opset: int) -> NodeProto:
    """Two pieces."""
    if opset < 13:
        return node("Split", "x", "y z", axis=1, split=[2, 4])
    return node("Split", "x p", "y z", axis=1) if opset < 18 else node("Split", "x", "y z", axis=1, num_outputs=2)


def pads(opset: int) -> NodeProto:
    """One before and two after, on axis 1."""
    if opset < 11:
        return node("Pad", "x", pads=[0, 1, 0, 0, 2, 0], value=3.0)
    return node("Pad", "x q v") if opset < 18 else node("Pad", "x r v a")


WEIGHTS = {
    "s": ints(1), "e": ints(5), "a": ints(1), "t": ints(1), "p": ints(2, 4), "q": ints(0, 1, 0, 0, 2, 0),
    "r": ints(1, 2), "v": np.float32(3), "shape": ints(2, 24), "n": ints(1, 2, 1), "wide": ints(5, 2, 6, 4),
    "i": np.int64(3), "j": ints(5, 0),
}  # fmt: skip

CASES: list[Any] = [
    pytest.param(slices(10), 10, "slice", {"slices": [(1, 0, 5, 2)]}, lambda x: x[:, 0:5:2], id="slice-10"),
    pytest.param(slices(13), 13, "slice", {"slices": [(1, 0, 5, 2)]}, lambda x: x[:, 0:5:2], id="slice-13"),
    pytest.param(slices(9), 9, "slice", {"slices": [(1, 2, 4, 1)]}, lambda x: x[:, 2:4], id="slice-9"),
    pytest.param(slices(9), 9, "slice", {"slices": [(1, 2, 4, 1)], "take": [(1, np.array([1]))]}, lambda x: x[:, 3:4]),
    pytest.param(slices(13), 13, "slice", {"slices": [(1, 4, -1, -2)]}, lambda x: x[:, 4::-2], id="slice backwards"),
    pytest.param(slices(13), 13, "slice", {"slices": [], "take": [(1, np.array([4, 0]))]}, lambda x: x[:, [4, 0]]),
    pytest.param(splits(9), 9, "split", {"sizes": [1, 5]}, lambda x: x[:, :1], id="split-9"),
    pytest.param(splits(13), 13, "split", {"sizes": [1, 5]}, lambda x: x[:, :1], id="split-13"),
    pytest.param(splits(18), 18, "split", {"sizes": [1, 5]}, lambda x: x[:, :1], id="split-18"),
    *(
        pytest.param(
            pads(o), o, "pad", {"pads": [(1, 0, 1)]},
            lambda x: np.pad(x, [(0, 0), (0, 1), (0, 0)], constant_values=3), id=f"pad-{o}",
        )
        for o in (9, 11, 18)
    ),
    pytest.param(pads(18), 18, "pad", {"pads": [(1, -1, 0)]}, lambda x: x[:, 1:], id="crop"),
    pytest.param(node("Reshape", "x shape"), 9, "reshape", {"shape": (12, 4)}, lambda x: x.reshape(12, 4)),
    pytest.param(node("Flatten", "x"), 9, "reshape", {"shape": (4, 12)}, lambda x: x.reshape(4, 12)),
    pytest.param(node("Unsqueeze", "x a"), 13, "reshape", {"shape": (2, 1, 6, 4)}, lambda x: x[:, None]),
    pytest.param(node("Expand", "x wide"), 9, "expand", {"shape": (3, 2, 6, 4)}, lambda x: np.stack([x] * 3)),
    pytest.param(node("Tile", "x n"), 9, "tile", {"repeats": (1, 1, 3)}, lambda x: np.tile(x, 3)),
    pytest.param(node("Gather", "x i", axis=1), 9, "select", {"index": 5}, lambda x: x[:, 5]),
    pytest.param(node("Gather", "x j", axis=1), 9, "gather", {"indices": np.array([1])}, lambda x: x[:, [1]]),
    pytest.param(node("Softmax", "x"), 13, "softmax", {"axis": 0}, lambda x: np.exp(x) / np.exp(x).sum(0)),
]  # fmt: skip


@pytest.mark.parametrize(("proto", "opset", "kind", "attrs", "expected"), CASES)
def test_changed(proto: NodeProto, opset: int, kind: str, attrs: dict[str, Any], expected: Numpy) -> None:
    used = {name: WEIGHTS[name] for name in proto.input if name in WEIGHTS}
    made = model([proto], X, list(proto.output), used, opset)
    graph = frontend.from_model(made)
    found = only(graph, kind)
    found.change(**attrs)
    inputs = feeds(graph)
    result = np.asarray(expected(inputs["x"]))
    found.outputs[0].shape = result.shape
    for other in found.outputs[1:]:
        other.shape = (2, 5, 4)
    np.testing.assert_allclose(run(checked(graph), inputs)[0], result, rtol=1e-5)


def test_groups_and_epsilon_and_hidden_size() -> None:
    made = model([node("Conv", "x w")], {"x": (1, 4, 5)}, weights={"w": weight(4, 1, 3)})
    made.graph.node[0].attribute.extend(node("Conv", "x", group=4).attribute)
    graph = frontend.from_model(made)
    (conv,) = graph.nodes
    conv.change(groups=2)
    value = graph.weights()["w"]
    value.weight, value.shape = Weight.of(weight(4, 2, 3)), (4, 2, 3)
    assert [(a.name, a.i) for a in checked(graph).graph.node[0].attribute if a.name == "group"] == [("group", 2)]


def test_an_attention_scale_becomes_explicit() -> None:
    graph = frontend.from_model(model([node("Attention", "x x x")], {"x": (2, 3, 5, 4)}, opset=23))
    only(graph, "attention").change(scale=0.25)
    assert [(a.name, a.f) for a in checked(graph).graph.node[0].attribute] == [("scale", 0.25)]


def test_a_bias_may_be_added() -> None:
    made = model([node("Conv", "x w")], {"x": (1, 4, 5)}, weights={"w": weight(4, 4, 3)})
    graph = frontend.from_model(made)
    (conv,) = graph.nodes
    bias = Value("new", (4,), np.dtype(np.float32), weight=Weight.of(weight(4)))
    conv.inputs = [*conv.inputs[:2], bias]
    again = checked(graph)
    assert list(again.graph.node[0].input) == ["x", "w", "new"]
    inputs = feeds(graph)
    np.testing.assert_allclose(run(again, inputs)[0], run(made, inputs)[0] + weight(4)[:, None], rtol=1e-5)


def test_sizes_are_scaled_back() -> None:
    """Size of a pruned tensor counts what it had."""
    nodes = [
        node("MatMul", "x w", "h"),
        node("Size", "h", "n"),
        node("Cast", "n", "count", to=TensorProto.FLOAT),
        node("ReduceSum", "h", "total", keepdims=0),
        node("Add", "total count"),
    ]
    graph = frontend.from_model(model(nodes, {"x": ("batch", 4)}, weights={"w": weight(4, 6)}))
    value = graph.weights()["w"]
    value.weight, value.shape = Weight.of(weight(4, 6)[:, :2]), (4, 2)
    graph.nodes[0].outputs[0].shape = (2, 2)
    inputs = feeds(graph, {"x": (5, 4)})
    expected = (inputs["x"] @ weight(4, 6)[:, :2]).sum() + 30
    np.testing.assert_allclose(run(checked(graph), inputs)[0], expected, rtol=1e-5)


def written(kind: str, attrs: dict[str, Any], *extra: Value) -> ModelProto:
    """`relu(x @ w + b)` with a new node, made by a pass, behind it."""
    graph = frontend.from_model(linear())
    (last,) = graph.outputs
    out = Value("made", last.shape, last.dtype, last.dynamic)
    graph.nodes.append(Node(kind, "new", [last, *extra], [out], attrs))
    graph.outputs = [out]
    if kind == "gather":
        out.shape = (2, 2)
    return checked(graph)


def test_new_nodes() -> None:
    b = Value("extra", (32,), np.dtype(np.float32), weight=Weight.of(weight(32)))
    inputs = {"x": weight(5, 16)}
    base = run(linear(), inputs)[0]
    np.testing.assert_allclose(run(written("elementwise", {"fn": "mul"}, b), inputs)[0], base * weight(32), rtol=1e-5)
    picked = run(written("gather", {"axis": 1, "indices": np.array([3, 1])}), inputs)[0]
    np.testing.assert_array_equal(picked, base[:, [3, 1]])
    with pytest.raises(GraphPruneError, match="cannot write a new node of kind 'conv' \\('new'\\)"):
        written("conv", {})
    with pytest.raises(GraphPruneError, match="cannot write a new elementwise node 'new' with fn 'erfinv'"):
        written("elementwise", {"fn": "erfinv"})
