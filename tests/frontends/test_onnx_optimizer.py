"""What onnxruntime's transformer optimizer and its own graph optimisation leave prunes as far as the exports."""

from __future__ import annotations

from pathlib import Path

import pytest
from onnxruntime import GraphOptimizationLevel
from onnxruntime.transformers import optimizer

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
