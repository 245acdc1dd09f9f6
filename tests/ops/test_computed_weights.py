"""Operands that are usually weights may be computed, or given by the user: then nothing is sliced that cannot be."""

from __future__ import annotations

from typing import Any

import onnx
import pytest
from onnx import TensorProto, helper

from graphprune.coupling import couple
from tests.helpers import assert_equality, graph_of

from .examples_onnx import model, node, normal


def with_input(made: onnx.ModelProto, name: str, *sizes: int) -> onnx.ModelProto:
    made.graph.input.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, sizes))
    return made


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
def test_kernel_positions_of_a_computed_weight_stay(op: str) -> None:
    nodes = [node("MatMul", "k m", "w"), node(op, "x w", "c"), node("Relu", "c", "r"), node("Conv", "r v", "y")]
    made = model(nodes, {"m": normal(3, 3), "v": normal(2, 4, 1, 1)}, [1, 4, 5, 5], [1, 2, 3 if op == "Conv" else 7, 5])
    made.graph.output[0].type.tensor_type.shape.dim[3].dim_value = 3 if op == "Conv" else 7
    assert str(couple(graph_of(with_input(made, "k", 4, 4, 3, 3)))) == ""


def test_a_grouped_convolution_by_a_computed_weight_is_left_alone() -> None:
    nodes = [
        node("Conv", "x a", "h"),
        node("Add", "k k", "w"),
        node("Conv", "h w", "i", group=2),
        node("Conv", "i b", "j"),
        node("Conv", "j c", "y"),
    ]
    weights = {"a": normal(8, 3, 1, 1), "b": normal(6, 4, 1, 1), "c": normal(2, 6, 1, 1)}
    graph = graph_of(with_input(model(nodes, weights, [1, 3, 4, 4], [1, 2, 4, 4]), "k", 4, 4, 1, 1))
    assert str(couple(graph)) == "6 exact: b[0] c[1]"
    assert_equality(graph)


def recurrent(op: str, gates: int, *, given: str) -> Any:
    weights = {"W": normal(1, gates * 6, 3), "R": normal(1, gates * 6, 6), "v": normal(6, 8), "u": normal(8, 2)}
    nodes = [
        node(op, "x W R", "h last", hidden_size=6),
        node("Squeeze", "h one", "s"),
        node("MatMul", "s v", "t"),
        node("MatMul", "t u", "y"),
    ]
    shape = weights.pop(given).shape
    return with_input(model(nodes, {**weights, "one": [1]}, [5, 2, 3], [5, 2, 2]), given, *shape)


@pytest.mark.parametrize("given", ["W", "R"])
@pytest.mark.parametrize(("op", "gates"), [("RNN", 1), ("GRU", 3)])
def test_hidden_units_stay_where_a_weight_is_an_input(op: str, gates: int, given: str) -> None:
    graph = graph_of(recurrent(op, gates, given=given))
    assert str(couple(graph)) == "8 exact: v[1] u[0]"
    assert_equality(graph)


def test_a_piece_of_size_nothing() -> None:
    """The exporters' rotary embedding splits off what it does not turn, even where that is nothing."""
    nodes = [node("MatMul", "x w", "h"), node("Split", "h sizes", "a b", axis=1), node("Concat", "a b", "c", axis=1)]
    weights = {"w": normal(3, 8), "v": normal(8, 2), "sizes": [8, 0]}
    graph = graph_of(model([*nodes, node("MatMul", "c v", "y")], weights, [4, 3], [4, 2]))
    assert str(couple(graph)) == "8 exact: w[1] v[0]"
    assert_equality(graph)
