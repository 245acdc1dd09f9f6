"""Fused operators that onnxruntime runs on GPUs only: what they couple and what is written, by their documentation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import onnx
import pytest

from graphprune import frontends
from graphprune.coupling import couple
from graphprune.errors import GraphPruneError
from graphprune.ir.graph import Graph
from graphprune.passes.remove_channels import remove_channels
from graphprune.pruning.budgets import targets
from tests.helpers import random_plan
from tests.ops import examples_fused, examples_fused_attention, examples_quantised
from tests.ops.examples_onnx import node, normal, positive
from tests.ops.fused_tools import contrib, fused
from tests.ops.registry import EXAMPLES

FUSED = [module.__name__ for module in (examples_fused, examples_fused_attention, examples_quantised)]
IMAGE, PIXELS = [2, 3, 5, 5], [2, 5, 5, 3]
CONVOLUTIONS = {"a": normal(12, 3, 1, 1), "b": normal(2, 12, 1, 1)}


def group_norm() -> onnx.ModelProto:
    nodes = [
        contrib("NhwcConv", "x a", "c"),
        contrib("GroupNorm", "c g s", "n", groups=3, activation=1),
        contrib("NhwcConv", "n b", "y"),
    ]
    return fused(nodes, {**CONVOLUTIONS, "g": positive(12), "s": normal(12)}, PIXELS, [2, 5, 5, 2])


def skip_group_norm() -> onnx.ModelProto:
    nodes = [
        contrib("NhwcConv", "x a", "c"),
        contrib("NhwcConv", "x e", "d"),
        contrib("SkipGroupNorm", "c g s d bias", "n t", groups=3),
        node("Add", "n t", "u"),
        contrib("NhwcConv", "u b", "y"),
    ]
    weights = {**CONVOLUTIONS, "e": normal(12, 3, 1, 1), "g": positive(12), "s": normal(12), "bias": normal(12)}
    return fused(nodes, weights, PIXELS, [2, 5, 5, 2])


def group_norm_of_opset_18() -> onnx.ModelProto:
    nodes = [
        node("Conv", "x a", "c"),
        node("GroupNormalization", "c g s", "n", num_groups=3),
        node("Conv", "n b", "y"),
    ]
    return fused(nodes, {**CONVOLUTIONS, "g": positive(3), "s": normal(3)}, IMAGE, [2, 2, 5, 5], opset=18)


def split_gelu() -> onnx.ModelProto:
    nodes = [node("MatMul", "x a", "h"), contrib("BiasSplitGelu", "h s", "g"), node("MatMul", "g b", "y")]
    return fused(nodes, {"a": normal(3, 16), "s": normal(16), "b": normal(8, 2)}, [2, 5, 3], [2, 5, 2])


def packed_heads() -> onnx.ModelProto:
    """Query, key and value side by side in each head."""
    nodes = [
        node("MatMul", "x a", "h"),
        node("Reshape", "h apart", "p"),
        contrib("MultiHeadAttention", "p", "m", num_heads=4),
        node("MatMul", "m b", "y"),
    ]
    weights = {"a": normal(3, 96), "apart": np.array([2, 5, 4, 3, 8]), "b": normal(32, 2)}
    return fused(nodes, weights, [2, 5, 3], [2, 5, 2])


CASES = [
    (group_norm, "within", "3x4 renormalizing: a[0] g[0] s[0] b[1]", {}),
    (group_norm, "whole", "3 of 4 renormalizing: a[0] g[0] s[0] b[1]", {"groups": 2}),
    (skip_group_norm, "whole", "3 of 4 renormalizing: a[0] e[0] g[0] s[0] bias[0] b[1]", {"groups": 2}),
    (group_norm_of_opset_18, "within", "3x4 renormalizing: a[0] b[1]", {}),
    (group_norm_of_opset_18, "whole", "3 of 4 renormalizing: a[0] g[0] s[0] b[1]", {"num_groups": 2}),
    (split_gelu, "within", "8 of 2 exact: a[1] s[0] b[0]", {}),
    (packed_heads, "within", "4 of 24 exact: a[1] b[0]", {"num_heads": 2}),
]


@pytest.mark.parametrize(("build", "grouped", "couples", "attributes"), CASES)
def test_by_the_documentation(build: Any, grouped: str, couples: str, attributes: dict[str, int]) -> None:
    graph: Graph = frontends.frontend("onnx").from_model(build())
    coupling = couple(graph, grouped=grouped)
    assert str(coupling) == couples
    keep = random_plan(coupling, targets.channels(0.5)).kept(coupling)
    small = remove_channels(coupling, keep)
    model = frontends.emit(small)
    found = {a.name: a.i for n in model.graph.node for a in n.attribute}
    assert attributes.items() <= found.items()
    again: Graph = frontends.frontend("onnx").from_model(model)
    for node_, other in zip(small.nodes, again.nodes, strict=True):
        assert [v.shape for v in node_.outputs] == [v.shape for v in other.outputs], node_


def _spoilt() -> Iterator[tuple[str, onnx.ModelProto]]:
    """Worked examples with an attribute that is absent or makes no sense, or with an operand less."""
    for example in EXAMPLES:
        base = example.build() if example.build.__module__ in FUSED else onnx.ModelProto()
        for i, node_ in enumerate(base.graph.node):
            for j, attribute in enumerate(node_.attribute):
                for value in (None, 0, -7) if attribute.type == onnx.AttributeProto.INT else (None,):
                    copy = onnx.ModelProto()
                    copy.CopyFrom(base)
                    if value is None:
                        del copy.graph.node[i].attribute[j]
                    else:
                        copy.graph.node[i].attribute[j].i = value
                    yield f"{example.name} {node_.op_type} {attribute.name}={value}", copy
            copy = onnx.ModelProto()
            copy.CopyFrom(base)
            del copy.graph.node[i].input[-1]
            yield f"{example.name} {node_.op_type} without its last input", copy


def test_what_makes_no_sense_is_unknown_or_refused() -> None:
    for label, model in _spoilt():
        try:
            couple(frontends.frontend("onnx").from_model(model))
        except GraphPruneError:
            continue
        except Exception as error:
            raise AssertionError(label) from error
