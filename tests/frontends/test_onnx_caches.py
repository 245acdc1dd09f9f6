"""Key-value caches: inputs and outputs whose heads go with those of the attention, and inputs that only look alike."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphprune as gp
from tests.ops.examples_onnx import node, normal
from tests.ops.fused_tools import contrib, scalar

NEW, PAST, HEADS, WIDTH = 3, 4, 4, 16
CACHE, GROWN = [1, HEADS, PAST, WIDTH], [1, HEADS, PAST + NEW, WIDTH]
SIZES: dict[str, Sequence[int]] = {
    "x": [1, NEW, 6], "y": [1, NEW, 2], "pk": CACHE, "pv": CACHE, "nk": GROWN, "nv": GROWN,
    "past": [2, *CACHE], "present": [2, *GROWN], "ek": CACHE, "ev": CACHE, "sk": CACHE, "sv": CACHE,
    "el": [1, PAST, HEADS, WIDTH], "sl": [1, PAST, HEADS, WIDTH],
}  # fmt: skip


def model(
    nodes: Sequence[onnx.NodeProto], weights: Mapping[str, Any], inside: str, outside: str, opset: int = 21
) -> onnx.ModelProto:
    def infos(names: str) -> list[onnx.ValueInfoProto]:
        return [helper.make_tensor_value_info(n, TensorProto.FLOAT, SIZES[n]) for n in names.split()]

    initializers = [numpy_helper.from_array(np.asarray(w), n) for n, w in weights.items()]
    graph = helper.make_graph(list(nodes), "cached", infos(inside), infos(outside), initializers)
    imports = [helper.make_opsetid("", opset), helper.make_opsetid("com.microsoft", 1)]
    return helper.make_model(graph, opset_imports=imports, ir_version=11 if opset > 22 else 10)


def projections(queries: int = HEADS) -> dict[str, Any]:
    wide, own = queries * WIDTH, HEADS * WIDTH
    return {"q": normal(6, wide), "k": normal(6, own, seed=1), "v": normal(6, own, seed=2), "c": normal(wide, 2)}


PROJECTED = [node("MatMul", f"x {name}", f"{name}1") for name in "qkv"]
LAST = node("MatMul", "a c", "y")


def multi_head() -> onnx.ModelProto:
    attend = contrib("MultiHeadAttention", "q1 k1 v1 - - - pk pv", "a nk nv", num_heads=HEADS)
    return model([*PROJECTED, attend, LAST], projections(), "x pk pv", "y nk nv")


def group_query() -> onnx.ModelProto:
    attend = contrib(
        "GroupQueryAttention", "q1 k1 v1 pk pv seqlens total cos sin", "a nk nv", num_heads=8, kv_num_heads=4,
        do_rotary=1,
    )  # fmt: skip
    lengths = {"seqlens": np.full(1, PAST + NEW - 1, np.int32), "total": scalar(PAST + NEW, np.int32)}
    tables = {"cos": normal(9, 8), "sin": normal(9, 8, seed=1)}
    return model([*PROJECTED, attend, LAST], {**projections(8), **lengths, **tables}, "x pk pv", "y nk nv")


def standard() -> onnx.ModelProto:
    attend = node("Attention", "q1 k1 v1 - pk pv", "a nk nv", q_num_heads=8, kv_num_heads=4)
    return model([*PROJECTED, attend, LAST], projections(8), "x pk pv", "y nk nv", opset=23)


def packed() -> onnx.ModelProto:
    attend = contrib("Attention", "x w b - past", "a present", num_heads=HEADS, unidirectional=1)
    weights = {"w": normal(6, 3 * HEADS * WIDTH), "b": normal(3 * HEADS * WIDTH), "c": normal(HEADS * WIDTH, 2)}
    return model([attend, LAST], weights, "x past", "y present")


def written_out(handed_on: bool = True) -> onnx.ModelProto:
    nodes = [*PROJECTED]
    for name in "qkv":
        nodes += [node("Reshape", f"{name}1 split", f"{name}2")]
        nodes += [node("Transpose", f"{name}2", f"{name}3", perm=[0, 2, 1, 3])]
    nodes += [
        node("Concat", "pk k3", "nk", axis=2),
        node("Concat", "pv v3", "nv", axis=2),
        node("Transpose", "nk", "kt", perm=[0, 1, 3, 2]),
        node("MatMul", "q3 kt", "s"),
        node("Softmax", "s", "p"),
        node("MatMul", "p nv", "o"),
        node("Transpose", "o", "ot", perm=[0, 2, 1, 3]),
        node("Reshape", "ot merge", "a"),
        LAST,
    ]
    targets = {"split": np.array([1, NEW, HEADS, WIDTH]), "merge": np.array([1, NEW, HEADS * WIDTH])}
    return model(nodes, {**projections(), **targets}, "x pk pv", "y nk nv" if handed_on else "y")


@pytest.mark.parametrize("build", [multi_head, group_query, standard, packed, written_out])
def test_the_heads_of_a_cache_follow(build: Callable[[], onnx.ModelProto]) -> None:
    result = gp.prune(build(), target="channels=0.5", align=1)
    assert not result.report.unknown
    assert result.report.after.parameters == result.report.before.parameters // 2
    shapes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in result.model.graph.input}
    shapes |= {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in result.model.graph.output}
    for name, shape in shapes.items():
        wanted = list(SIZES[name])
        if len(wanted) > 3:
            wanted[-3] //= 2
        assert shape == wanted, name
    assert any("has 2 instead of 4 indices" in note for note in result.report.notes)


def test_a_prefix_that_is_not_handed_on_keeps_its_heads() -> None:
    """It may mean something to the caller."""
    graph = gp.api.frontends.frontend("onnx").from_model(written_out(handed_on=False))
    assert all(not value.follows for value in (*graph.inputs, *graph.outputs))
    assert len(gp.couple(graph)) == 0


def test_an_output_that_is_not_contracted_keeps_its_axes() -> None:
    """Features of the caller, joined with computed ones and handed out: no cache."""
    nodes = [
        node("MatMul", "x k", "k1"),
        node("Reshape", "k1 split", "k2"),
        node("Transpose", "k2", "k3", perm=[0, 2, 1, 3]),
        node("Concat", "pk k3", "nk", axis=2),
    ]
    weights = {"k": normal(6, HEADS * WIDTH), "split": np.array([1, NEW, HEADS, WIDTH])}
    graph = gp.api.frontends.frontend("onnx").from_model(model(nodes, weights, "x pk", "nk"))
    assert all(not value.follows for value in (*graph.inputs, *graph.outputs))


def _crossed(nodes: Sequence[onnx.NodeProto], inside: str, outside: str, heads: int = HEADS) -> onnx.ModelProto:
    """Queries over the keys and values of another sequence, which come in whole."""
    before = [
        node("MatMul", "x q", "q1"),
        node("Reshape", "q1 split", "q2"),
        node("Transpose", "q2", "q3", perm=[0, 2, 1, 3]),
    ]
    after = [node("Transpose", "o", "ot", perm=[0, 2, 1, 3]), node("Reshape", "ot merge", "a"), LAST]
    weights = {"q": normal(6, heads * WIDTH), "c": normal(heads * WIDTH, 2)}
    targets = {"split": np.array([1, NEW, heads, WIDTH]), "merge": np.array([1, NEW, heads * WIDTH])}
    return model([*before, *nodes, *after], {**weights, **targets}, f"x {inside}", f"y {outside}", opset=23)


OUT = [node("Identity", "ek", "sk"), node("Identity", "ev", "sv")]
WRITTEN = [
    node("Transpose", "ek", "kt", perm=[0, 1, 3, 2]), node("MatMul", "q3 kt", "s"), node("Softmax", "s", "p"),
    node("MatMul", "p ev", "o"),
]  # fmt: skip


def crossed_written_out() -> onnx.ModelProto:
    return _crossed([*WRITTEN, *OUT], "ek ev", "sk sv")


def crossed_with_fewer_heads() -> onnx.ModelProto:
    return _crossed([node("Attention", "q3 ek ev", "o"), *OUT], "ek ev", "sk sv", 8)


def crossed_with_positions_first() -> onnx.ModelProto:
    """One tensor of keys and values, its heads after its positions."""
    nodes = [
        node("Transpose", "el", "e1", perm=[0, 2, 1, 3]),
        node("Attention", "q3 e1 e1", "o"),
        node("Identity", "el", "sl"),
    ]
    return _crossed(nodes, "el", "sl")


@pytest.mark.parametrize("build", [crossed_written_out, crossed_with_fewer_heads, crossed_with_positions_first])
def test_the_heads_of_a_cache_that_is_used_whole_follow(build: Callable[[], onnx.ModelProto]) -> None:
    result = gp.prune(build(), target="channels=0.5", align=1)
    assert not result.report.unknown
    assert result.report.after.parameters == result.report.before.parameters // 2
    found = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in result.model.graph.input}
    found |= {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in result.model.graph.output}
    for name, shape in found.items():
        wanted = list(SIZES[name])
        if len(wanted) == 4:
            wanted[2 if name in ("el", "sl") else 1] //= 2
        assert shape == wanted, name


UNALIKE = {
    "not handed out": _crossed(WRITTEN, "ek ev", ""),
    "handed out changed": _crossed([*WRITTEN, node("Neg", "ek", "sk"), node("Neg", "ev", "sv")], "ek ev", "sk sv"),
    "read by something else": _crossed([*WRITTEN, *OUT, node("Relu", "ek", "nothing")], "ek ev", "sk sv"),
}


@pytest.mark.parametrize("name", list(UNALIKE))
def test_what_is_used_whole_and_may_mean_something_keeps_its_heads(name: str) -> None:
    graph = gp.api.frontends.frontend("onnx").from_model(UNALIKE[name])
    keys = next(v for v in graph.inputs if v.name == "ek")
    assert not keys.follows
    assert len(gp.couple(graph)) == 0
