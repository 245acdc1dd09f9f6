"""MatMul to Gemm: two and more axes, with and without a bias, and what stays."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import helper
from torch import nn

import graphprune as gp
from graphprune.errors import InputError
from graphprune.ir.graph import Graph
from graphprune.passes.matmul_to_gemm import MatmulToGemm
from graphprune.passes.pipeline import parse_pipeline
from graphprune.runtimes import get
from tests.passes.small import apply, foreign, onnx_graph, rand, torch_graph

GEMM = MatmulToGemm()
node = helper.make_node


def product(shape: list[int | str], bias: tuple[int, ...] | None = (6,), swapped: bool = False) -> Graph:
    nodes = [node("MatMul", ["x", "w"], ["h" if bias else "y"], name="product")]
    weights = {"w": rand(4, 6)}
    if bias is not None:
        nodes.append(node("Add", ["b", "h"] if swapped else ["h", "b"], ["y"], name="sum"))
        weights["b"] = rand(*bias)
    return onnx_graph(nodes, shape, [*shape[:-1], 6], weights)


def operators(graph: Graph) -> list[str]:
    return [n.op_type for n in foreign(graph).graph.node]


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("rows", [3, "n"])
def test_two_axes_become_one_gemm_with_its_bias(rows: int | str, swapped: bool) -> None:
    after = apply(GEMM, product([rows, 4], swapped=swapped))
    assert operators(after) == ["Gemm"]
    assert list(after.weights()) == ["w", "b"]


@pytest.mark.parametrize("shape", [[2, 3, 4], ["n", 3, 4], [2, "n", 4], [2, "n", 5, 4]])
def test_more_axes_are_put_together_and_taken_apart(shape: list[int | str]) -> None:
    assert operators(apply(GEMM, product(shape))) == ["Reshape", "Gemm", "Reshape"]
    assert operators(apply(GEMM, product(shape, bias=None))) == ["Reshape", "Gemm", "Reshape"]


@pytest.mark.parametrize("bias", [(1, 1, 6), (1,), (3, 6)])
def test_what_is_no_vector_stays_an_addition(bias: tuple[int, ...]) -> None:
    assert operators(apply(GEMM, product([2, 3, 4], bias))) == ["Reshape", "Gemm", "Reshape", "Add"]


def test_a_product_that_something_else_reads_keeps_its_value() -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Add", ["h", "b"], ["s"]),
        node("Mul", ["h", "s"], ["y"]),
    ]
    graph = onnx_graph(nodes, [3, 4], [3, 6], {"w": rand(4, 6), "b": rand(6)})
    assert operators(apply(GEMM, graph)) == ["Gemm", "Add", "Mul"]


@pytest.mark.parametrize("shape", [["n", "m", 4], ["n", 2, "m", 4], [2, "n", "m", 4], ["n", "m", "k", 4]])
def test_several_free_axes_are_told_apart_by_the_sizes_of_the_data(shape: list[int | str]) -> None:
    before = product(shape)
    after = GEMM.run(before)
    found = operators(after)
    assert [op for op in found if op in ("MatMul", "Add", "Gemm")] == ["Gemm"]
    assert after.outputs[0].dynamic == before.outputs[0].dynamic
    runs = [get("onnxruntime").compile(foreign(graph)).run for graph in (before, after)]
    for sizes in ({"n": 3, "m": 5, "k": 2}, {"n": 1, "m": 1, "k": 7}, {"n": 4, "m": 2, "k": 1}):
        x = rand(*(sizes.get(str(n), n) for n in shape))
        want, have = (run({"x": x})[0] for run in runs)
        assert want.shape == have.shape
        assert np.abs(want - have).max() < 1e-5
    assert GEMM.run(after) is after


def test_attention_blocks_with_free_batch_and_length_are_rewritten_pruned_and_cast() -> None:
    """What follows must take the rewritten graph as any other: sizes come from data that lose channels themselves."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"]),
        node("Add", ["h", "b"], ["a"]),
        node("Relu", ["a"], ["r"]),
        node("MatMul", ["r", "v"], ["y"]),
    ]
    weights = {"w": rand(8, 16), "b": rand(16), "v": rand(16, 8, seed=1)}
    graph = onnx_graph(nodes, ["n", "m", 8], ["n", "m", 8], weights)
    text = "matmul-to-gemm,remove-channels{channels=0.5 align=1},cleanup,sparsify{pattern=2:4},cast-precision"
    after, _ = gp.optimize(graph, text, verify_each=True)
    assert operators(after).count("Gemm") == 2
    assert after.weights()["w"].shape == (8, 8)
    x = rand(2, 5, 8)
    assert get("onnxruntime").compile(foreign(after)).run({"x": x})[0].shape == (2, 5, 8)


def test_products_without_a_constant_matrix_stay() -> None:
    self_product = onnx_graph([node("MatMul", ["x", "x"], ["y"])], [4, 4], [4, 4])
    assert GEMM.run(self_product) is self_product
    batched = onnx_graph([node("MatMul", ["x", "w"], ["y"])], [2, 3, 4], [2, 3, 6], {"w": rand(2, 4, 6)})
    assert GEMM.run(batched) is batched


def test_only_onnx_has_gemm_and_only_who_asks_gets_it() -> None:
    (step,) = parse_pipeline("matmul-to-gemm")
    with pytest.raises(InputError, match="it rewrites ONNX graphs"):
        step.run(torch_graph(nn.Linear(4, 4), torch.zeros(2, 4)))
