"""Worked examples: operators that onnxruntime and its tools leave behind, each as one node."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import TensorProto

from .examples_onnx import node, normal, positive
from .fused_tools import WIDTH, contrib, fused, integers
from .registry import example


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
    8 exact: a[1] w[2] v[1] s[1] e[1] c[0]
    6 renormalizing: r[1] w[0] b[0] v[0] s[0]
    10 exact: w[1] b[1] v[2]
    """
)
def mixture_of_experts() -> Any:
    """Whole experts, what is inside them, and the width around them."""
    nodes = [
        node("MatMul", "x a", "h"),
        node("MatMul", "x r", "scores"),
        node("Reshape", "scores flat", "routes"),
        contrib("MoE", "h routes w b v s", "m", k=2, activation_type="silu"),
        node("MatMul", "x e", "i"),
        node("Add", "m i", "n"),
        node("MatMul", "n c", "y"),
    ]
    weights = {
        "a": normal(3, 8), "r": normal(3, 6), "flat": np.array([10, 6]), "w": normal(6, 10, 8), "b": normal(6, 10),
        "v": normal(6, 8, 10), "s": normal(6, 8), "e": normal(3, 8), "c": normal(8, 2),
    }  # fmt: skip
    return fused(nodes, weights, [2, 5, 3], [2, 5, 2])
