"""Worked examples: attention as one node, with its projections or without."""

from __future__ import annotations

from typing import Any

import numpy as np

from .examples_onnx import node, normal
from .fused_tools import HEADS, contrib, fused, scalar
from .registry import example


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
