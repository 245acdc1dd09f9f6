"""What onnxruntime's transformer optimizer and its own graph optimisation leave prunes as far as the exports."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnxruntime import GraphOptimizationLevel
from onnxruntime.transformers import optimizer

from graphprune import frontends
from tests.helpers import assert_equality
from tests.ops.examples_onnx import model, node, normal

from .ort_tools import HEADS, WIDTH, assert_prunes, exported, operators, optimized


@pytest.mark.parametrize(
    ("style", "kind", "expected"),
    [
        ("bert", "bert", ["Attention", "SkipLayerNormalization", "BiasGelu"]),
        ("gpt", "bert", ["Attention", "SkipLayerNormalization", "FastGelu"]),
        ("llama", "bert", ["SkipSimplifiedLayerNormalization"]),
    ],
)
def test_transformer_optimizer(style: str, kind: str, expected: list[str], tmp_path: Path) -> None:
    path, out = exported(style, tmp_path / "float.onnx"), tmp_path / "fused.onnx"
    found = optimizer.optimize_model(str(path), kind, num_heads=HEADS, hidden_size=WIDTH, opt_level=0)
    found.save_model_to_file(str(out))
    assert all(operators(out)[name] for name in expected), operators(out)
    assert_prunes(out)


@pytest.mark.parametrize(
    ("style", "expected"), [("images", "FusedConv"), ("bert", "SkipLayerNormalization"), ("llama", "QuickGelu")]
)
def test_onnxruntimes_own_optimisation(style: str, expected: str, tmp_path: Path) -> None:
    path = exported(style, tmp_path / "float.onnx")
    out = optimized(path, GraphOptimizationLevel.ORT_ENABLE_EXTENDED)
    assert operators(out)[expected], operators(out)
    assert_prunes(out)


def test_weights_in_blocks_stay_and_what_follows_is_pruned(tmp_path: Path) -> None:
    """The layout that onnxruntime prefers on x86: which block the weights are in, the file does not say."""
    nodes = [
        node("Conv", "x a ab", "h", pads=[1, 1, 1, 1]), node("Relu", "h", "i"),
        node("MaxPool", "i", "j", kernel_shape=[2, 2]), node("Conv", "j b", "k"), node("GlobalAveragePool", "k", "p"),
        node("Flatten", "p", "q"), node("MatMul", "q c", "r"), node("Tanh", "r", "s"), node("MatMul", "s d", "y"),
    ]  # fmt: skip
    shapes = {"a": (32, 3, 3, 3), "ab": (32,), "b": (32, 32, 1, 1), "c": (32, 12), "d": (12, 2)}
    made = model(nodes, {name: normal(*shape) for name, shape in shapes.items()}, [1, 3, 8, 8], [1, 2])
    onnx.save(made, tmp_path / "plain.onnx")
    out = optimized(tmp_path / "plain.onnx", GraphOptimizationLevel.ORT_ENABLE_ALL)
    if not any(n.domain == "com.microsoft.nchwc" for n in onnx.load(out).graph.node):
        pytest.skip("onnxruntime keeps the usual layout on this machine")
    graph = frontends.frontend("onnx").load(out)
    coupling = assert_equality(graph).coupling
    assert str(coupling) == "12 exact: c[1] d[0]"
    assert {"com.microsoft.nchwc.Conv", "com.microsoft.nchwc.MaxPool"} <= {u.op for u in coupling.unknown()}
