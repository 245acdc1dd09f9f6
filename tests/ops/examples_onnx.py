"""Worked examples: what ONNX writes in its own way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .registry import example


def model(
    nodes: Sequence[onnx.NodeProto],
    weights: Mapping[str, np.ndarray | Sequence[int]],
    inside: Sequence[int | str],
    outside: Sequence[int | str],
    opset: int = 17,
) -> onnx.ModelProto:
    """A model from `x` to `y`; sequences of integers become int64 tensors."""
    graph = helper.make_graph(
        list(nodes),
        "example",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, inside)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, outside)],
        [
            numpy_helper.from_array(w if isinstance(w, np.ndarray) else np.array(w, np.int64), name)
            for name, w in weights.items()
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return (np.random.default_rng([seed, *shape]).standard_normal(shape) * 0.5).astype(np.float32)


def positive(*shape: int, seed: int = 0) -> np.ndarray:
    return np.abs(normal(*shape, seed=seed)) + np.float32(0.5)


def node(op: str, inputs: str, outputs: str, **attrs: Any) -> onnx.NodeProto:
    """Inputs and outputs separated by blanks; "-" leaves an input out."""
    names = ["" if n == "-" else n for n in inputs.split()]
    return helper.make_node(op, names, outputs.split(), name=outputs.split(maxsplit=1)[0], **attrs)


@example(
    """
    6 exact: a[0] ab[0] b[0]
    8 exact: b[1] bb[0] c[1]
    """
)
def gemm_with_and_without_transposed_weights() -> Any:
    nodes = [
        node("Gemm", "x a ab", "h", transB=1),
        node("Relu", "h", "r"),
        node("Gemm", "r b bb", "i"),
        node("Gemm", "i c", "y", transB=1, alpha=0.5),
    ]
    weights = {"a": normal(6, 3), "ab": normal(6), "b": normal(6, 8), "bb": normal(8), "c": normal(2, 8)}
    return model(nodes, weights, [4, 3], [4, 2])


@example(
    """
    6 exact: w[0] v[0]
    """
)
def gemm_with_transposed_data() -> Any:
    """The weight comes first: `y = W x`."""
    nodes = [node("Gemm", "w x", "h", transB=1), node("Relu", "h", "r"), node("Gemm", "r v", "y", transA=1)]
    return model(nodes, {"w": normal(6, 3), "v": normal(6, 2)}, [4, 3], [4, 2])


@example(
    """
    3x4 renormalizing: a[0] scale[0] shift[0] b[1]
    """
)
def group_norm_decomposed() -> Any:
    """Reshape, InstanceNormalization, Reshape, Mul, Add: equal counts in each group."""
    nodes = [
        node("Conv", "x a", "c"),
        node("Reshape", "c flat", "f"),
        node("InstanceNormalization", "f ones zeros", "n"),
        node("Reshape", "n full", "r"),
        node("Mul", "r scale", "s"),
        node("Add", "s shift", "t"),
        node("Conv", "t b", "y"),
    ]
    weights: dict[str, Any] = {
        "a": normal(12, 3, 1, 1), "flat": [2, 3, -1], "ones": np.ones(3, np.float32), "zeros": np.zeros(3, np.float32),
        "full": [2, 12, 5, 5], "scale": positive(12, 1, 1), "shift": normal(12, 1, 1), "b": normal(2, 12, 1, 1),
    }  # fmt: skip
    return model(nodes, weights, [2, 3, 5, 5], [2, 2, 5, 5])


@example(
    """
    2x4 exact: a[0] b[1]
    2x3 exact: b[0] e[1]
    """
)
def channel_shuffle_in_onnx() -> Any:
    nodes = [
        node("Conv", "x a", "c"),
        node("Reshape", "c split", "r"),
        node("Transpose", "r", "t", perm=[0, 2, 1, 3, 4]),
        node("Reshape", "t full", "s"),
        node("Conv", "s b", "d", group=2),
        node("Conv", "d e", "y"),
    ]
    weights: dict[str, Any] = {
        "a": normal(8, 3, 1, 1), "split": [0, 2, 4, 5, 5], "full": [0, -1, 5, 5],
        "b": normal(6, 4, 1, 1), "e": normal(2, 6, 1, 1),
    }  # fmt: skip
    return model(nodes, weights, [2, 3, 5, 5], [2, 2, 5, 5])


@example(
    """
    4 exact: a[0] b[0]
    """
)
def sizes_computed_from_shapes() -> Any:
    """As exporters write `x.view(x.size(0), -1)` with a dynamic batch."""
    nodes = [
        node("Conv", "x a", "c"),
        node("Shape", "c", "sh"),
        node("Gather", "sh first", "n", axis=0),
        node("Unsqueeze", "n zero", "nn"),
        node("Concat", "nn rest", "target", axis=0),
        node("Reshape", "c target", "f"),
        node("MatMul", "f b", "y"),
    ]
    weights: dict[str, Any] = {
        "a": normal(4, 3, 1, 1), "first": np.array(0), "zero": [0], "rest": [-1], "b": normal(36, 2),
    }  # fmt: skip
    return model(nodes, weights, ["n", 3, 3, 3], ["n", 2])


@example(
    """
    8 exact: a[0] scale[0] shift[0] mean[0] var[0] b[1]
    8 exact: b[0] scale[0] shift[0] mean[0] var[0] o[1]
    """
)
def shared_constants() -> Any:
    """Two norms that an exporter gave the same vectors: they are copied where the channels they lose differ."""
    nodes = [
        node("Conv", "x a", "c"),
        node("BatchNormalization", "c scale shift mean var", "d"),
        node("Relu", "d", "e"),
        node("Conv", "e b", "f"),
        node("BatchNormalization", "f scale shift mean var", "g"),
        node("Relu", "g", "h"),
        node("Conv", "h o", "y"),
    ]
    weights = {
        "a": normal(8, 3, 1, 1),
        "scale": positive(8), "shift": normal(8), "mean": normal(8, seed=1), "var": positive(8, seed=1),
        "b": normal(8, 8, 1, 1), "o": normal(2, 8, 1, 1),
    }  # fmt: skip
    return model(nodes, weights, [2, 3, 5, 5], [2, 2, 5, 5])


def recurrent(op: str, gates: int, directions: int) -> Any:
    width = 6 * directions
    nodes = [
        node("MatMul", "x inp", "i"),
        node(op, "i w r b", "s", hidden_size=6, direction="bidirectional" if directions == 2 else "forward"),
        node("Transpose", "s", "t", perm=[0, 2, 1, 3]),
        node("Reshape", "t target", "u"),
        node("MatMul", "u out", "y"),
    ]
    weights: dict[str, Any] = {
        "inp": normal(3, 5), "w": normal(directions, gates * 6, 5), "r": normal(directions, gates * 6, 6),
        "b": normal(directions, 2 * gates * 6), "target": [4, 2, width], "out": normal(width, 2),
    }  # fmt: skip
    return model(nodes, weights, [4, 2, 3], [4, 2, 2])


@example(
    """
    5 exact: inp[1] w[2]
    6 of 4 exact: w[1] r[1] r[2] b[1] out[0]
    """
)
def lstm_in_onnx() -> Any:
    return recurrent("LSTM", 4, 1)


@example(
    """
    5 exact: inp[1] w[2]
    6 of 4 exact: w[1] r[1] r[2] b[1] out[0]
    """
)
def lstm_in_onnx_both_ways() -> Any:
    return recurrent("LSTM", 4, 2)


@example(
    """
    5 exact: inp[1] w[2]
    6 of 3 exact: w[1] r[1] r[2] b[1] out[0]
    """
)
def gru_in_onnx() -> Any:
    return recurrent("GRU", 3, 1)


@example(
    """
    5 exact: inp[1] w[2]
    6 of 4 exact: w[1] r[1] r[2] b[1] p[1] out[0]
    """
)
def lstm_in_onnx_with_peepholes() -> Any:
    made = recurrent("LSTM", 4, 1)
    made.graph.node[1].input.extend(["", "", "", "p"])
    made.graph.initializer.append(numpy_helper.from_array(normal(1, 18), "p"))
    return made


@example(
    """
    4 of 4 exact: a[0] b[1]
    3 of 4 exact: b[0] o[1]
    """
)
def depth_to_space_in_both_orders() -> Any:
    nodes = [
        node("Conv", "x a", "c"),
        node("DepthToSpace", "c", "d", blocksize=2, mode="DCR"),
        node("SpaceToDepth", "d", "e", blocksize=2),
        node("Conv", "e b", "f"),
        node("DepthToSpace", "f", "g", blocksize=2, mode="CRD"),
        node("Conv", "g o", "y"),
    ]
    weights = {"a": normal(16, 3, 1, 1), "b": normal(12, 16, 1, 1), "o": normal(2, 3, 1, 1)}
    return model(nodes, weights, [2, 3, 5, 5], [2, 2, 10, 10])


@example(
    """
    6 exact: a[1] o[0]
    """
)
def pool_over_one_axis_in_onnx() -> Any:
    """Channels last, pooled along positions: a window of one index leaves its axis alone."""
    nodes = [
        node("MatMul", "x a", "h"),
        node("AveragePool", "h", "p", kernel_shape=[2, 1], strides=[2, 1]),
        node("MaxPool", "p", "q", kernel_shape=[3, 1], pads=[1, 0, 1, 0]),
        node("MatMul", "q o", "y"),
    ]
    return model(nodes, {"a": normal(3, 6), "o": normal(6, 2)}, [2, 1, 8, 3], [2, 1, 4, 2])


@example(
    """
    6 renormalizing: gate[1] book[0]
    4 exact: book[1] out[0]
    """
)
def one_hot_on_another_axis_with_computed_values() -> Any:
    """Classes come first, and what stands for yes and no depends on the input."""
    weights = {"gate": normal(8, 6), "book": normal(6, 4), "out": normal(4, 3), "six": [6], "pick": [0, 9]}
    nodes = [
        node("MatMul", "x gate", "scores"),
        node("ArgMax", "scores", "ids", axis=-1, keepdims=0),
        node("Reshape", "x flat", "line"),
        node("Gather", "line pick", "values"),
        node("OneHot", "ids six values", "hot", axis=0),
        node("Transpose", "hot", "rows", perm=[1, 0]),
        node("MatMul", "rows book", "mixed"),
        node("MatMul", "mixed out", "y"),
    ]
    return model(nodes, {**weights, "flat": [-1]}, [7, 8], [7, 3])


@example(
    """
    4 of 3 exact: a[1] o[0]
    """
)
def gates_in_a_sequence() -> Any:
    """What torch writes for `split` without optimisation: parts of a sequence, looked up by constant positions."""
    weights = {"a": normal(3, 12), "o": normal(4, 2), "sizes": [4, 4, 4]}
    weights |= {name: np.array(i) for name, i in {"first": 0, "second": 1, "last": -1}.items()}
    nodes = [
        node("MatMul", "x a", "h"),
        node("SplitToSequence", "h sizes", "parts", axis=-1),
        node("SequenceAt", "parts first", "gate"),
        node("SequenceAt", "parts second", "value"),
        node("SequenceAt", "parts last", "shift"),
        node("Sigmoid", "gate", "open"),
        node("Mul", "open value", "gated"),
        node("Add", "gated shift", "moved"),
        node("MatMul", "moved o", "y"),
    ]
    return model(nodes, weights, [5, 3], [5, 2])


@example(
    """
    2 of 12 exact: a[1] o[0]
    """
)
def heads_unbound_into_a_sequence() -> Any:
    """Queries, keys and values in one projection, taken apart without the axis; joined on a new one afterwards."""
    weights = {"a": normal(6, 24), "o": normal(16, 2), "apart": [2, 5, 3, 2, 4], "flat": [2, 5, 16]}
    weights |= {name: np.array(i) for name, i in {"zero": 0, "one": 1, "last": -1}.items()}
    nodes = [
        node("MatMul", "x a", "h"),
        node("Reshape", "h apart", "five"),
        node("Transpose", "five", "three", perm=[2, 0, 3, 1, 4]),
        node("SplitToSequence", "three", "parts", keepdims=0),
        node("SequenceAt", "parts zero", "q"),
        node("SequenceAt", "parts one", "k"),
        node("SequenceAt", "parts last", "v"),
        node("Transpose", "k", "turned", perm=[0, 1, 3, 2]),
        node("MatMul", "q turned", "scores"),
        node("Softmax", "scores", "shares", axis=-1),
        node("MatMul", "shares v", "mixed"),
        node("SequenceConstruct", "mixed v", "both"),
        node("ConcatFromSequence", "both", "wide", axis=3, new_axis=1),
        node("Transpose", "wide", "back", perm=[0, 2, 1, 3, 4]),
        node("Reshape", "back flat", "f"),
        node("MatMul", "f o", "y"),
    ]
    return model(nodes, weights, [2, 5, 6], [2, 5, 2])


@example("8 renormalizing: a[1] b[0]\n6 renormalizing: b[1] c[0]\n8 renormalizing: c[1] ones[1] d[0]")
def norms_with_scales_of_other_sizes() -> Any:
    """One number for all channels, and a scale as large as the data, made from its shape: a norm without weights."""
    nodes = [
        node("MatMul", "x a", "h"),
        node("RMSNormalization", "h one", "n"),
        node("MatMul", "n b", "i"),
        node("LayerNormalization", "i two shift", "m"),
        node("MatMul", "m c", "j"),
        node("ConstantOfShape", "sizes", "ones", value=numpy_helper.from_array(np.ones(1, np.float32))),
        node("RMSNormalization", "j ones", "k"),
        node("MatMul", "k d", "y"),
    ]
    weights = {
        "a": normal(3, 8), "b": normal(8, 6), "c": normal(6, 8, seed=2), "d": normal(8, 2), "sizes": [4, 8],
        "one": np.ones((), np.float32),
        "two": normal(1), "shift": normal(1, seed=1),
    }  # fmt: skip
    return model(nodes, weights, [4, 3], [4, 2], opset=23)
