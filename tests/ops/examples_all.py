"""Importing this module registers every worked example."""

from __future__ import annotations

from . import (
    examples_attention,
    examples_complex,
    examples_composite,
    examples_control,
    examples_conv,
    examples_fused,
    examples_fused_attention,
    examples_group_norm,
    examples_index,
    examples_linear,
    examples_norm,
    examples_onnx,
    examples_position,
    examples_quantised,
    examples_random,
    examples_rare,
    examples_shape,
    examples_sorting,
)
from .registry import EXAMPLES, Example

__all__ = [
    "EXAMPLES",
    "Example",
    "examples_attention",
    "examples_complex",
    "examples_composite",
    "examples_control",
    "examples_conv",
    "examples_fused",
    "examples_fused_attention",
    "examples_group_norm",
    "examples_index",
    "examples_linear",
    "examples_norm",
    "examples_onnx",
    "examples_random",
    "examples_rare",
    "examples_position",
    "examples_quantised",
    "examples_shape",
    "examples_sorting",
]
