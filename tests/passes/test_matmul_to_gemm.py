"""MatMul to Gemm: two and more axes, with and without a bias, and what stays."""

from __future__ import annotations

import pytest
import torch
from onnx import helper
from torch import nn

from graphprune.errors import InputError
from graphprune.graph import Graph
from graphprune.passes.matmul_to_gemm import MatmulToGemm
from graphprune.passes.pipeline import parse_pipeline
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


def test_several_free_axes_and_products_without_a_constant_matrix_stay() -> None:
    free = product(["n", "m", 4])
    assert GEMM.run(free) is free
    self_product = onnx_graph([node("MatMul", ["x", "x"], ["y"])], [4, 4], [4, 4])
    assert GEMM.run(self_product) is self_product
    batched = onnx_graph([node("MatMul", ["x", "w"], ["y"])], [2, 3, 4], [2, 3, 6], {"w": rand(2, 4, 6)})
    assert GEMM.run(batched) is batched


def test_only_onnx_has_gemm_and_only_who_asks_gets_it() -> None:
    (step,) = parse_pipeline("matmul-to-gemm")
    with pytest.raises(InputError, match="it rewrites ONNX graphs"):
        step.run(torch_graph(nn.Linear(4, 4), torch.zeros(2, 4)))
