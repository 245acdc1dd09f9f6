"""Every ONNX operator becomes its canonical kind, at each opset that writes it differently, and comes back the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import NodeProto, TensorProto, helper

from graphprune.frontends import onnx as frontend
from tests.frontends.onnx_tools import assert_round_trip, checked, ints, model, node, only, weight

IMAGE = {"x": (2, 6, 8, 8)}
SEQUENCE = {"x": (2, 5, 12)}
W = weight


def case(nodes: list[NodeProto], inputs: Any, weights: Any, opset: int, kind: str, **attrs: Any) -> Any:
    """One row of the table below."""
    name = f"{nodes[-1].op_type}-{opset}-{kind}"
    return pytest.param(nodes, inputs, weights, opset, kind, attrs, id=name)


CASES = [
    case(
        [node("Conv", "x w b", group=2)], IMAGE, {"w": W(4, 3, 3, 3), "b": W(4)}, 9, "conv", groups=2, transposed=False
    ),
    case([node("ConvTranspose", "x w")], IMAGE, {"w": W(6, 4, 2, 2)}, 11, "conv", groups=1, transposed=True),
    case(
        [node("Gemm", "x w b", transB=1)],
        {"x": (3, 5)},
        {"w": W(4, 5), "b": W(4)},
        9,
        "matmul",
        trans_a=False,
        trans_b=True,
    ),
    case([node("MatMul", "x w")], SEQUENCE, {"w": W(12, 4)}, 13, "matmul", trans_a=False, trans_b=False),
    case(
        [node("Einsum", "x w", equation="...i, io -> ...o")],
        SEQUENCE,
        {"w": W(12, 4)},
        12,
        "einsum",
        equation="ABi,io->ABo",
    ),
    case([node("Einsum", "x w", equation="bsi,io")], SEQUENCE, {"w": W(12, 4)}, 12, "einsum", equation="bsi,io->bos"),
    *(
        case(
            [node("BatchNormalization", "x s b m v")],
            IMAGE,
            {n: abs(W(6)) for n in "sbmv"},
            o,
            "batch_norm",
            epsilon=pytest.approx(1e-5),
            training=False,
        )
        for o in (9, 14, 15)
    ),
    case([node("InstanceNormalization", "x s b")], IMAGE, {"s": W(6), "b": W(6)}, 9, "instance_norm"),
    case(
        [node("LayerNormalization", "x s b", axis=-1)],
        SEQUENCE,
        {"s": W(12), "b": W(12)},
        17,
        "layer_norm",
        axes=(2,),
        rms=False,
    ),
    case([node("LayerNormalization", "x s", axis=1)], SEQUENCE, {"s": W(5, 12)}, 17, "layer_norm", axes=(1, 2)),
    case([node("RMSNormalization", "x s", axis=-1)], SEQUENCE, {"s": W(12)}, 23, "layer_norm", axes=(2,), rms=True),
    case([node("RMSNormalization", "x s", axis=-1)], SEQUENCE, {"s": W()}, 23, "fused"),
    case([node("LayerNormalization", "x s b")], SEQUENCE, {"s": W(1), "b": W(1)}, 17, "fused"),
    case(
        [node("GroupNormalization", "x s b", num_groups=3)],
        IMAGE,
        {"s": W(3), "b": W(3)},
        18,
        "group_norm",
        groups=3,
    ),
    case(
        [node("GroupNormalization", "x s b", num_groups=3)], IMAGE, {"s": W(6), "b": W(6)}, 21, "group_norm", groups=3
    ),
    case([node("LpNormalization", "x", axis=1)], IMAGE, {}, 9, "softmax", axis=1),
    case([node("Softmax", "x", axis=2)], SEQUENCE, {}, 9, "softmax", axis=2),
    case([node("Softmax", "x", axis=1)], SEQUENCE, {}, 11, "axiswise", axes=(1, 2)),
    case([node("Softmax", "x")], SEQUENCE, {}, 13, "softmax", axis=2),
    case([node("PRelu", "x s")], IMAGE, {"s": W(6, 1, 1)}, 9, "elementwise", fn="prelu"),
    case([node("Clip", "x", min=0.0, max=6.0)], IMAGE, {}, 9, "elementwise", fn="clip"),
    case([node("Clip", "x lo hi")], IMAGE, {"lo": np.float32(0), "hi": np.float32(1)}, 11, "elementwise", fn="clip"),
    case([node("Dropout", "x", ratio=0.5)], IMAGE, {}, 9, "elementwise", fn="dropout"),
    case([node("Dropout", "x r")], IMAGE, {"r": np.float32(0.5)}, 13, "elementwise", fn="dropout"),
    case([node("Cast", "x", to=TensorProto.FLOAT)], IMAGE, {}, 13, "elementwise", fn="identity"),
    case([node("Sum", "x x w")], IMAGE, {"w": W(6, 1, 1)}, 9, "elementwise", fn="sum"),
    case([node("Concat", "x x", axis=-1)], IMAGE, {}, 11, "concat", axis=3),
    case([node("Transpose", "x")], SEQUENCE, {}, 9, "transpose", perm=(2, 1, 0)),
    case([node("Split", "x", "y z", axis=1, split=[2, 4])], IMAGE, {}, 9, "split", axis=1, sizes=[2, 4]),
    case([node("Split", "x s", "y z", axis=1)], IMAGE, {"s": ints(2, 4)}, 13, "split", axis=1, sizes=[2, 4]),
    case([node("Split", "x", "y z", axis=-1)], SEQUENCE, {}, 13, "split", axis=2, sizes=[6, 6]),
    case([node("Split", "x", "y z", axis=1, num_outputs=2)], SEQUENCE, {}, 18, "split", axis=1, sizes=[3, 2]),
    case([node("Slice", "x", starts=[1], ends=[-1], axes=[1])], IMAGE, {}, 9, "slice", slices=[(1, 1, 5, 1)]),
    case(
        [node("Slice", "x s e a t")],
        IMAGE,
        {"s": ints(-1), "e": ints(-100), "a": ints(-3), "t": ints(-2)},
        11,
        "slice",
        slices=[(1, 5, -1, -2)],
    ),
    case(
        [node("Slice", "x s e")],
        SEQUENCE,
        {"s": ints(0, 1), "e": ints(1, 99)},
        10,
        "slice",
        slices=[(0, 0, 1, 1), (1, 1, 5, 1)],
    ),
    case([node("Gather", "x i", axis=-2)], SEQUENCE, {"i": np.int64(-1)}, 13, "select", axis=1, index=4),
    case([node("Gather", "x i", axis=1)], IMAGE, {"i": ints(-1, 0, 3)}, 9, "gather", axis=1),
    case([node("Squeeze", "x", axes=[0, -1])], {"x": (1, 6, 1)}, {}, 11, "reshape", shape=(6,)),
    case([node("Squeeze", "x a")], {"x": (1, 6, 1)}, {"a": ints(0)}, 13, "reshape", shape=(6, 1)),
    case([node("Unsqueeze", "x", axes=[0])], SEQUENCE, {}, 11, "reshape", shape=(1, 2, 5, 12)),
    case([node("Unsqueeze", "x a")], SEQUENCE, {"a": ints(-1)}, 13, "reshape", shape=(2, 5, 12, 1)),
    case([node("Flatten", "x", axis=-1)], SEQUENCE, {}, 11, "reshape", shape=(10, 12)),
    case([node("Reshape", "x s")], SEQUENCE, {"s": ints(0, -1, 4)}, 9, "reshape", shape=(2, 15, 4)),
    case([node("Expand", "x s")], {"x": (2, 1, 12)}, {"s": ints(3, 1)}, 9, "expand", shape=(2, 3, 12)),
    case([node("Tile", "x r")], SEQUENCE, {"r": ints(1, 2, 3)}, 9, "tile", repeats=(1, 2, 3)),
    case([node("Pad", "x", pads=[0, 1, 0, 0, 0, 2, 0, 0])], IMAGE, {}, 9, "pad", pads=[(1, 1, 2)], mode="constant"),
    case(
        [node("Pad", "x p v")],
        IMAGE,
        {"p": ints(0, 0, 1, 1, 0, 0, 1, 1), "v": np.float32(3)},
        11,
        "pad",
        mode="constant",
    ),
    case(
        [node("Pad", "x p _ a", mode="edge")],
        IMAGE,
        {"p": ints(1, 2), "a": ints(-1)},
        18,
        "pad",
        pads=[(3, 1, 2)],
        mode="replicate",
    ),
    case([node("Upsample", "x s")], IMAGE, {"s": np.array([1, 1, 2, 2], np.float32)}, 9, "spatial"),
    case([node("Resize", "x s")], IMAGE, {"s": np.array([1, 1, 2, 2], np.float32)}, 10, "spatial"),
    case([node("Resize", "x _ s", mode="linear")], IMAGE, {"s": np.array([1, 1, 2, 2], np.float32)}, 13, "spatial"),
    case([node("Resize", "x _ _ z")], IMAGE, {"z": ints(2, 6, 4, 4)}, 13, "spatial"),
    case([node("Resize", "x _ _ z", axes=[2, 3])], IMAGE, {"z": ints(4, 4)}, 18, "spatial"),
    case([node("Resize", "x _ s")], IMAGE, {"s": np.array([1, 2, 1, 1], np.float32)}, 13, "unknown"),
    case([node("MaxPool", "x", kernel_shape=[2, 2])], IMAGE, {}, 9, "spatial"),
    case([node("MaxPool", "x", "y i", kernel_shape=[2, 2])], IMAGE, {}, 9, "unknown"),
    case([node("GlobalAveragePool", "x")], IMAGE, {}, 9, "spatial"),
    case(
        [node("ReduceMean", "x", axes=[-1, -2], keepdims=0)],
        IMAGE,
        {},
        11,
        "reduce",
        fn="mean",
        axes=(2, 3),
        keepdims=False,
    ),
    case([node("ReduceMean", "x a")], IMAGE, {"a": ints(2, 3)}, 18, "reduce", fn="mean", axes=(2, 3), keepdims=True),
    case([node("ReduceSum", "x a")], SEQUENCE, {"a": ints(1)}, 13, "reduce", fn="sum", axes=(1,)),
    case([node("ReduceSumSquare", "x")], SEQUENCE, {}, 11, "reduce", fn="sumsq", axes=(0, 1, 2)),
    case([node("ArgMax", "x", axis=-1)], SEQUENCE, {}, 13, "reduce", fn="argmax", axes=(2,)),
    case([node("TopK", "x k", "y i")], SEQUENCE, {"k": ints(3)}, 11, "topk", axis=2),
    case([node("CumSum", "x a")], SEQUENCE, {"a": np.int64(-2)}, 14, "cumsum", axis=1),
    case([node("LRN", "x", size=3)], IMAGE, {}, 9, "axiswise", axes=(1,)),
    case(
        [node("DepthToSpace", "x", blocksize=2, mode="CRD")],
        {"x": (1, 8, 3, 3)},
        {},
        11,
        "depth_to_space",
        block=2,
        mode="CRD",
    ),
    case([node("SpaceToDepth", "x", blocksize=2)], IMAGE, {}, 9, "space_to_depth", block=2, mode="DCR"),
    case([node("Einsum", "x x", equation="bsi,bti->bst")], SEQUENCE, {}, 12, "einsum"),
    case([node("GridSample", "x g")], IMAGE, {"g": W(2, 4, 4, 2)}, 16, "spatial"),
    case([node("HardSwish", "x")], IMAGE, {}, 14, "elementwise", fn="hardswish"),
    case([node("Gelu", "x")], IMAGE, {}, 20, "elementwise", fn="gelu"),
    case([node("Mish", "x")], IMAGE, {}, 18, "elementwise", fn="mish"),
    case(
        [node("LSTM", "x w r b", hidden_size=4)],
        SEQUENCE,
        {"w": W(1, 16, 12), "r": W(1, 16, 4), "b": W(1, 32)},
        14,
        "recurrent",
        cell="lstm",
        hidden=4,
        directions=1,
        order=["x", "W", "R", "B", "lengths", "h0", "c0", "P"],
    ),
    case(
        [node("GRU", "x w r", "_ y", hidden_size=4, direction="bidirectional")],
        SEQUENCE,
        {"w": W(2, 12, 12), "r": W(2, 12, 4)},
        14,
        "recurrent",
        cell="gru",
        directions=2,
    ),
    case(
        [node("Attention", "x x x")], {"x": (2, 3, 5, 4)}, {}, 23, "attention", scale=0.5, causal=False, grouped=False
    ),
    case([node("GatherND", "x i")], SEQUENCE, {"i": np.array([[0, 1]])}, 12, "lookup", axes=[0, 1]),
    case([node("GatherND", "x i", batch_dims=1)], SEQUENCE, {"i": np.array([[0], [1]])}, 12, "unknown"),
]


@pytest.mark.parametrize(("nodes", "inputs", "weights", "opset", "kind", "attrs"), CASES)
def test_operator(
    nodes: list[NodeProto], inputs: Any, weights: Any, opset: int, kind: str, attrs: dict[str, Any]
) -> None:
    outputs = [name for name in nodes[-1].output if name and name != "i"]
    arrays = {name: np.asarray(array) for name, array in weights.items()}
    graph = assert_round_trip(model(nodes, inputs, outputs, arrays, opset))
    found = only(graph, kind)
    for name, value in attrs.items():
        assert found.attrs[name] == value, name
    assert found.op == nodes[-1].op_type


def test_gather_indices_are_made_positive() -> None:
    graph = frontend.from_model(model([node("Gather", "x i", axis=1)], IMAGE, weights={"i": ints(-1, 0, 3)}))
    assert only(graph, "gather").attrs["indices"].tolist() == [5, 0, 3]


def test_parameters_are_no_operands() -> None:
    graph = frontend.from_model(model([node("Reshape", "x s")], SEQUENCE, weights={"s": ints(10, 12)}))
    assert [v.name for v in only(graph, "reshape").inputs if v] == ["x"]
    assert not graph.weights()


def test_node_names_become_unique() -> None:
    nodes = [helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Relu", ["a"], ["b"]), node("Relu", "b")]
    nodes[1].name = nodes[2].name = "same"
    graph = frontend.from_model(model(nodes, IMAGE))
    assert [n.name for n in graph.nodes] == ["Relu_0", "same", "same_2"]
    assert [n.name for n in checked(graph).graph.node] == ["", "same", "same_1"]


def test_local_functions_are_inlined() -> None:
    made = model([node("Relu", "x", "h"), node("Neg", "h")], IMAGE)
    function = helper.make_function(
        "local", "Twice", ["a"], ["b"], [node("Add", "a a", "b")], [helper.make_opsetid("", 17)]
    )
    made.functions.append(function)
    made.opset_import.append(helper.make_opsetid("local", 1))
    made.graph.node[0].CopyFrom(helper.make_node("Twice", ["x"], ["h"], domain="local"))
    graph = assert_round_trip(made)
    assert [n.op for n in graph.nodes] == ["Add", "Neg"]


@pytest.mark.parametrize("opset", [9, 10, 12, 13])
def test_a_dropout_with_a_mask_that_nothing_reads_is_one_without(opset: int) -> None:
    graph = frontend.from_model(model([node("Dropout", "x", "h m"), node("Relu", "h")], SEQUENCE, opset=opset))
    dropout = next(n for n in graph.nodes if n.op == "Dropout")
    assert dropout.kind == "elementwise" and all(v.shape == (2, 5, 12) for v in dropout.outputs)
