"""Worked examples: operators that onnxruntime and its tools leave behind, each as one node."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .examples_onnx import node, normal, positive
from .registry import example

WIDTH, HEADS = 16, 4


def contrib(op: str, inputs: str, outputs: str, **attrs: Any) -> onnx.NodeProto:
    """A node of onnxruntime's own domain; "-" leaves an output out, too."""
    made = node(op, inputs, outputs, domain="com.microsoft", **attrs)
    made.output[:] = ["" if name == "-" else name for name in made.output]
    return made


def fused(
    nodes: Sequence[onnx.NodeProto],
    weights: Mapping[str, Any],
    inside: Sequence[int],
    outside: Sequence[int],
    opset: int = 21,
    kind: int = TensorProto.FLOAT,
) -> onnx.ModelProto:
    """A model from `x` to `y` that may use onnxruntime's own operators."""
    graph = helper.make_graph(
        list(nodes),
        "example",
        [helper.make_tensor_value_info("x", kind, inside)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, outside)],
        [numpy_helper.from_array(np.asarray(w), name) for name, w in weights.items()],
    )
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=10 if opset < 23 else 11)


def integers(*shape: int, low: int = -100, high: int = 100, dtype: Any = np.int8, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).integers(low, high, shape).astype(dtype)


def scalar(number: float, dtype: Any = np.float32) -> np.ndarray:
    return np.asarray(number, dtype)


@example(
    """
    16 renormalizing: a[1] b[1] g[0] s[0] bias[0] c[0]
    """
)
def skip_norm() -> Any:
    """The sum is read as well as its norm."""
    nodes = [
        node("MatMul", "x a", "h"),
        node("MatMul", "x b", "i"),
        contrib("SkipLayerNormalization", "h i g s bias", "n - - t"),
        node("Add", "n t", "u"),
        node("MatMul", "u c", "y"),
    ]
    weights = {
        "a": normal(3, WIDTH), "b": normal(3, WIDTH, seed=1), "g": positive(WIDTH), "s": normal(WIDTH),
        "bias": normal(WIDTH, seed=1), "c": normal(WIDTH, 2),
    }  # fmt: skip
    return fused(nodes, weights, [2, 5, 3], [2, 5, 2])


@example(
    """
    16 renormalizing: a[1] b[1] g[0] bias[0] c[0]
    """
)
def skip_rms_norm() -> Any:
    nodes = [
        node("MatMul", "x a", "h"),
        node("MatMul", "x b", "i"),
        contrib("SkipSimplifiedLayerNormalization", "h i g bias", "n"),
        node("MatMul", "n c", "y"),
    ]
    weights = {
        "a": normal(3, WIDTH), "b": normal(3, WIDTH, seed=1), "g": positive(WIDTH), "bias": normal(WIDTH, seed=1),
        "c": normal(WIDTH, 2),
    }  # fmt: skip
    return fused(nodes, weights, [2, 5, 3], [2, 5, 2])


@example(
    """
    16 renormalizing: word[1] place[1] segment[1] g[0] s[0] c[0]
    """
)
def embedding_norm() -> Any:
    nodes = [
        contrib("EmbedLayerNormalization", "x segments word place segment g s", "n m"),
        node("MatMul", "n c", "y"),
    ]
    weights = {
        "segments": integers(2, 5, low=0, high=2, dtype=np.int32),
        "word": normal(11, WIDTH), "place": normal(7, WIDTH), "segment": normal(2, WIDTH),
        "g": positive(WIDTH), "s": normal(WIDTH), "c": normal(WIDTH, 2),
    }  # fmt: skip
    return fused(nodes, weights, [2, 5], [2, 5, 2], kind=TensorProto.INT32)


@example(
    """
    4 of 12 exact: w[1] b[0] c[0]
    """
)
def packed_projection_attention() -> Any:
    nodes = [
        contrib("Attention", "x w b", "a", num_heads=HEADS, unidirectional=1),
        node("MatMul", "a c", "y"),
    ]
    weights = {"w": normal(6, 48), "b": normal(48), "c": normal(16, 2)}
    return fused(nodes, weights, [2, 5, 6], [2, 5, 2])


@example(
    """
    4 of 10 exact: w[1] b[0] c[0]
    """
)
def packed_projection_attention_of_unequal_widths() -> Any:
    nodes = [
        contrib("Attention", "x w b", "a", num_heads=HEADS, qkv_hidden_sizes=[16, 16, 8]),
        node("MatMul", "a c", "y"),
    ]
    weights = {"w": normal(6, 40), "b": normal(40), "c": normal(8, 2)}
    return fused(nodes, weights, [2, 5, 6], [2, 5, 2])


@example(
    """
    4 of 4 exact: q[1] k[1] v[1] bias[0] table[1] c[0]
    """
)
def multi_head_attention() -> Any:
    """With a bias for the projections and one for the scores, a matrix for each head."""
    nodes = [
        node("MatMul", "x q", "qq"),
        node("MatMul", "x k", "kk"),
        node("MatMul", "x v", "vv"),
        contrib("MultiHeadAttention", "qq kk vv bias - table", "a", num_heads=HEADS),
        node("MatMul", "a c", "y"),
    ]
    weights = {
        "q": normal(6, 16), "k": normal(6, 16, seed=1), "v": normal(6, 16, seed=2), "bias": normal(48),
        "table": normal(1, HEADS, 5, 5), "c": normal(16, 2),
    }  # fmt: skip
    return fused(nodes, weights, [2, 5, 6], [2, 5, 2])


GROUPED = {"seqlens": np.full(2, 4, np.int32), "total": scalar(5, np.int32)}


@example(
    """
    2 of 64 exact: qkv[1] c[0]
    """
)
def grouped_query_attention_packed() -> Any:
    """Two heads of queries, one of keys and one of values go together."""
    nodes = [
        node("MatMul", "x qkv", "p"),
        contrib(
            "GroupQueryAttention", "p - - - - seqlens total cos sin", "a k v",
            num_heads=4, kv_num_heads=2, do_rotary=1,
        ),
        node("MatMul", "a c", "y"),
    ]  # fmt: skip
    weights = {"qkv": normal(6, 128), "cos": normal(9, 8), "sin": normal(9, 8, seed=1), "c": normal(64, 2), **GROUPED}
    return fused(nodes, weights, [2, 5, 6], [2, 5, 2])


@example(
    """
    2 of 16 exact: q[1] k[1] v[1] c[0]
    """
)
def grouped_query_attention_with_rotary() -> Any:
    nodes = [
        node("MatMul", "x q", "qq"),
        node("MatMul", "x k", "kk"),
        node("MatMul", "x v", "vv"),
        contrib("RotaryEmbedding", "qq places cos sin", "qr"),
        contrib("RotaryEmbedding", "kk places cos sin", "kr"),
        contrib("GroupQueryAttention", "qr kr vv - - seqlens total", "a pk pv", num_heads=4, kv_num_heads=2),
        node("MatMul", "a c", "y"),
    ]
    weights = {
        "q": normal(6, 32), "k": normal(6, 16, seed=1), "v": normal(6, 16, seed=2),
        "places": np.tile(np.arange(5), (2, 1)), "cos": normal(9, 4), "sin": normal(9, 4, seed=1),
        "c": normal(32, 2), **GROUPED,
    }  # fmt: skip
    return fused(nodes, weights, [2, 5, 6], [2, 5, 2])


@example(
    """
    5 exact: e[1] qkv[0]
    2 of 16 exact: qkv[1] c[0]
    """
)
def grouped_query_attention_of_one_head() -> Any:
    """Query heads go; the width stays: the operator wants all widths alike, in multiples of 8."""
    nodes = [
        node("MatMul", "x e", "h"),
        node("MatMul", "h qkv", "p"),
        contrib("GroupQueryAttention", "p - - - - seqlens total", "a k v", num_heads=2, kv_num_heads=1),
        node("MatMul", "a c", "y"),
    ]
    return fused(nodes, {"e": normal(6, 5), "qkv": normal(5, 64), "c": normal(32, 2), **GROUPED}, [2, 5, 6], [2, 5, 2])


@example(
    """
    2 of 8 exact: q[1] k[1] v[1] c[0]
    """
)
def standard_attention_on_three_axes() -> Any:
    nodes = [
        node("MatMul", "x q", "qq"),
        node("MatMul", "x k", "kk"),
        node("MatMul", "x v", "vv"),
        node("RotaryEmbedding", "qq cos sin", "qr", num_heads=4),
        node("Attention", "qr kk vv", "a", q_num_heads=4, kv_num_heads=2, is_causal=1),
        node("MatMul", "a c", "y"),
    ]
    weights = {
        "q": normal(6, 16), "k": normal(6, 8, seed=1), "v": normal(6, 8, seed=2),
        "cos": normal(2, 5, 2), "sin": normal(2, 5, 2, seed=1), "c": normal(16, 2),
    }  # fmt: skip
    return fused(nodes, weights, [2, 5, 6], [2, 5, 2], opset=23)


@example(
    """
    16 exact: a[0] ab[0] b[0] bb[0] e[1]
    """
)
def fused_convolution() -> Any:
    """A residual and an activation inside."""
    nodes = [
        node("Conv", "x a ab", "c"),
        contrib("FusedConv", "c b bb c", "d", activation="Relu", group=16),
        node("Conv", "d e", "y"),
    ]
    weights = {
        "a": normal(16, 3, 1, 1), "ab": normal(16), "b": normal(16, 1, 1, 1), "bb": normal(16), "e": normal(2, 16, 1, 1)
    }  # fmt: skip
    return fused(nodes, weights, [2, 3, 5, 5], [2, 2, 5, 5])


@example(
    """
    12 exact: a[0] b[1]
    12 exact: b[0] e[1]
    """
)
def quantised_weights_by_channel() -> Any:
    """Weights behind a DequantizeLinear, with a scale for each filter, and for blocks of columns."""
    nodes = [
        node("DequantizeLinear", "a_q a_s a_z", "a", axis=0),
        node("DequantizeLinear", "b_q b_s", "b", axis=0),
        node("DequantizeLinear", "e_q e_s", "e"),
        node("Conv", "x a", "c"),
        node("Relu", "c", "r"),
        node("Conv", "r b", "d"),
        node("QuantizeLinear", "d s z", "dq"),
        node("DequantizeLinear", "dq s z", "dd"),
        node("Conv", "dd e", "y"),
    ]
    weights = {
        "a_q": integers(12, 3, 1, 1), "a_s": positive(12) * 0.01, "a_z": integers(12, low=-3, high=3),
        "b_q": integers(12, 12, 1, 1), "b_s": positive(12) * 0.01, "e_q": integers(2, 12, 1, 1), "e_s": scalar(0.01),
        "s": scalar(0.05), "z": scalar(3, np.int8),
    }  # fmt: skip
    return fused(nodes, weights, [2, 3, 5, 5], [2, 2, 5, 5])


@example(
    """
    4 of 4 exact: a[1] b[0]
    """
)
def quantised_weights_by_block() -> Any:
    """Four rows that share their scales go together."""
    nodes = [
        node("DequantizeLinear", "b_q b_s", "b", axis=0, block_size=4),
        node("MatMul", "x a", "h"),
        node("Relu", "h", "r"),
        node("MatMul", "r b", "y"),
    ]
    weights = {"a": normal(3, 16), "b_q": integers(16, 5), "b_s": positive(4, 5) * 0.01}
    return fused(nodes, weights, [2, 3], [2, 5])


@example(
    """
    3 of 16 exact: a[1] w[1]
    48 exact: w[0] bias[0] c[0]
    """
)
def product_with_few_bits() -> Any:
    """Rows go one by one, columns in the blocks in which they are stored; the last block is not full."""
    nodes = [
        node("MatMul", "x a", "h"),
        contrib("MatMulNBits", "h w s z - bias", "i", K=40, N=48, bits=4, block_size=16),
        node("Relu", "i", "r"),
        node("MatMul", "r c", "y"),
    ]
    weights = {
        "a": normal(3, 40), "w": integers(48, 3, 8, low=0, high=256, dtype=np.uint8), "s": positive(48 * 3) * 0.05,
        "z": integers(48 * 2, low=0, high=256, dtype=np.uint8), "bias": normal(48), "c": normal(48, 2),
    }  # fmt: skip
    return fused(nodes, weights, [2, 3], [2, 2])


def quantised_layers(groups: int) -> Any:
    """Convolution, activation, addition and pool on 8-bit integers."""
    nodes = [
        node("QuantizeLinear", "x s z", "xq"),
        node("QLinearConv", "xq s z a as az s z ab", "c"),
        node("QLinearConv", "c s z b bs bz s z", "d", group=groups, kernel_shape=[1, 1]),
        contrib("QLinearAdd", "c s z d s z s z", "e"),
        contrib("QLinearSigmoid", "e s z t z", "f"),
        contrib("QLinearGlobalAveragePool", "f t z s z", "g"),
        node("DequantizeLinear", "g s z", "h"),
        node("Conv", "h o", "y"),
    ]
    weights = {
        "s": scalar(0.05), "z": scalar(120, np.uint8), "t": scalar(0.004),
        "a": integers(12, 3, 1, 1), "as": positive(12) * 0.01, "az": np.zeros(12, np.int8),
        "ab": integers(12, dtype=np.int32, low=-500, high=500),
        "b": integers(12, 12 // groups, 1, 1, dtype=np.uint8, low=0, high=250), "bs": scalar(0.01),
        "bz": scalar(128, np.uint8), "o": normal(2, 12, 1, 1),
    }  # fmt: skip
    return fused(nodes, weights, [2, 3, 5, 5], [2, 2, 1, 1])


@example(
    """
    12 exact: a[0] ab[0] b[0] b[1] o[1]
    """
)
def quantised_layers_of_integers() -> Any:
    return quantised_layers(1)


@example(
    """
    3x4 exact: a[0] ab[0] b[0] b[1] o[1]
    """
)
def quantised_layers_of_integers_in_groups() -> Any:
    return quantised_layers(3)


@example(
    """
    12 exact: a[1] b[0]
    """
)
def dynamically_quantised_product() -> Any:
    nodes = [
        node("MatMul", "x a", "h"),
        node("DynamicQuantizeLinear", "h", "q qs qz"),
        node("MatMulInteger", "q b qz bz", "i"),
        node("Cast", "i", "f", to=TensorProto.FLOAT),
        node("Mul", "qs bs", "both"),
        node("Mul", "f both", "y"),
    ]
    weights = {
        "a": normal(3, 12), "b": integers(12, 2, dtype=np.uint8, low=0, high=250), "bz": scalar(128, np.uint8),
        "bs": scalar(0.01),
    }  # fmt: skip
    return fused(nodes, weights, [4, 3], [4, 2])


@example(
    """
    3 of 16 exact: table[1] w[0]
    """
)
def table_with_few_bits() -> Any:
    """Columns of a table go in the blocks that share a scale."""
    look = contrib("GatherBlockQuantized", "table x s z", "h", bits=4, block_size=16, gather_axis=0, quantize_axis=1)
    nodes = [look, node("MatMul", "h w", "y")]
    weights = {
        "table": integers(11, 20, low=0, high=256, dtype=np.uint8), "s": positive(11, 3) * 0.05,
        "z": integers(11, 2, low=0, high=256, dtype=np.uint8), "w": normal(40, 2),
    }  # fmt: skip
    made = fused(nodes, weights, [2, 5], [2, 5, 2], kind=TensorProto.INT32)
    made.graph.value_info.append(helper.make_tensor_value_info("h", TensorProto.FLOAT, [2, 5, 40]))
    return made


@example(
    """
    16 renormalizing: word[1] place[1] segment[1] g[0] s[0] c[0]
    """
)
def quantised_embedding_norm() -> Any:
    tables = "word place segment g s"
    scales = " ".join(f"{name}_s" for name in tables.split())
    zeros = " ".join(f"{name}_z" for name in tables.split())
    inputs = f"x segments {tables} - {scales} {zeros}"
    nodes = [contrib("QEmbedLayerNormalization", inputs, "n m"), node("MatMul", "n c", "y")]
    shapes = {"word": (11, WIDTH), "place": (7, WIDTH), "segment": (2, WIDTH), "g": (WIDTH,), "s": (WIDTH,)}
    weights: dict[str, Any] = {"segments": integers(2, 5, low=0, high=2, dtype=np.int32), "c": normal(WIDTH, 2)}
    for seed, (name, shape) in enumerate(shapes.items()):
        weights[name] = integers(*shape, low=0, high=255, dtype=np.uint8, seed=seed)
        weights[f"{name}_s"], weights[f"{name}_z"] = scalar(0.01), scalar(100, np.uint8)
    return fused(nodes, weights, [2, 5], [2, 5, 2], kind=TensorProto.INT32)


@example(
    """
    4 of 12 exact: w[1] b[0] c[0]
    """
)
def quantised_attention() -> Any:
    nodes = [
        node("QuantizeLinear", "x xs xz", "q"),
        contrib("QAttention", "q w b xs ws - xz wz", "a", num_heads=HEADS),
        node("MatMul", "a c", "y"),
    ]
    weights = {
        "xs": scalar(0.02), "xz": scalar(120, np.uint8), "w": integers(6, 48), "ws": positive(48) * 0.01,
        "wz": np.zeros(48, np.int8), "b": normal(48), "c": normal(16, 2),
    }  # fmt: skip
    return fused(nodes, weights, [2, 5, 6], [2, 5, 2])
