"""Worked examples: weights and data as integers of few bits."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto, helper

from .examples_onnx import node, normal, positive
from .fused_tools import HEADS, WIDTH, contrib, fused, integers, scalar
from .registry import example


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
