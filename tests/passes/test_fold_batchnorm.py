"""Folding batch norms: every form of conv and matmul, with and without bias, and what must stay."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from onnx import helper
from torch import nn

from graphprune.ir.graph import Graph
from graphprune.passes.fold_batchnorm import FoldBatchnorm
from tests.passes.small import apply, assert_same, foreign, kinds, norm, norm_weights, onnx_graph, rand, torch_graph

FOLD = FoldBatchnorm()


def conv_graph(op: str, weight: tuple[int, ...], channels: int, bias: bool, groups: int = 1) -> Graph:
    nodes = [
        helper.make_node(op, ["x", "w", *(["b"] if bias else [])], ["h"], name="conv", group=groups),
        norm("h", "y"),
    ]
    weights = {"w": rand(*weight), **norm_weights(channels), **({"b": rand(channels)} if bias else {})}
    x = ["n", weight[0] if op == "ConvTranspose" else weight[1] * groups, *[6] * (len(weight) - 2)]
    size = 7 if op == "ConvTranspose" else 5
    return onnx_graph(nodes, x, ["n", channels, *[size] * (len(weight) - 2)], weights)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize(
    ("op", "weight", "channels", "groups"),
    [
        ("Conv", (6, 4, 2), 6, 1),
        ("Conv", (6, 4, 2, 2), 6, 1),
        ("Conv", (6, 2, 2, 2), 6, 2),
        ("Conv", (4, 1, 2, 2, 2), 4, 4),
        ("ConvTranspose", (4, 6, 2, 2), 6, 1),
        ("ConvTranspose", (4, 3, 2, 2), 6, 2),
    ],
)
def test_onnx_convolutions(op: str, weight: tuple[int, ...], channels: int, groups: int, bias: bool) -> None:
    after = apply(FOLD, conv_graph(op, weight, channels, bias, groups))
    assert kinds(after) == ["conv"]
    assert list(after.weights()) == ["w", "b" if bias else "w.bias"]


@pytest.mark.parametrize("bias", [None, (5,), (1, 5), ()])
@pytest.mark.parametrize("trans", [0, 1])
def test_onnx_gemm(bias: tuple[int, ...] | None, trans: int) -> None:
    names = ["x", "w"] if bias is None else ["x", "w", "c"]
    nodes = [helper.make_node("Gemm", names, ["h"], transB=trans, alpha=0.5), norm("h", "y")]
    weights = {"w": rand(5, 4) if trans else rand(4, 5), **norm_weights(5)}
    weights |= {} if bias is None else {"c": np.asarray(rand(*bias))}
    assert kinds(apply(FOLD, onnx_graph(nodes, ["n", 4], ["n", 5], weights))) == ["matmul"]


def test_a_matmul_that_takes_no_bias_is_followed_by_an_addition() -> None:
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"]), norm("h", "y")]
    after = apply(FOLD, onnx_graph(nodes, ["n", 4], ["n", 5], {"w": rand(4, 5), **norm_weights(5)}))
    assert kinds(after) == ["matmul", "add"]


def test_norms_in_a_row_are_all_folded() -> None:
    nodes = [helper.make_node("Conv", ["x", "w"], ["h"]), norm("h", "i"), norm("i", "y", "again")]
    weights = {"w": rand(6, 4, 1, 1), **norm_weights(6), **norm_weights(6, "again")}
    assert kinds(apply(FOLD, onnx_graph(nodes, [2, 4, 5, 5], [2, 6, 5, 5], weights))) == ["conv"]


def test_norms_that_cannot_be_folded_stay() -> None:
    conv = helper.make_node("Conv", ["x", "w"], ["h"])
    weights = {"w": rand(4, 4, 1, 1), **norm_weights(4)}
    other = [conv, norm("h", "i"), helper.make_node("Add", ["h", "i"], ["y"])]
    relu = [conv, helper.make_node("Relu", ["h"], ["r"]), norm("r", "y")]
    alone = [norm("x", "i"), helper.make_node("Conv", ["i", "w"], ["y"])]
    for nodes in (other, relu, alone):
        graph = onnx_graph(nodes, [2, 4, 5, 5], [2, 4, 5, 5], weights)
        assert FOLD.run(graph) is graph
    tied = [conv, norm("h", "i"), helper.make_node("Conv", ["i", "w"], ["y"])]
    graph = onnx_graph(tied, [2, 4, 5, 5], [2, 4, 5, 5], weights)
    assert FOLD.run(graph) is graph


def test_shared_vectors_are_copied() -> None:
    """Two convs share a bias; the folded one gets its own."""
    nodes = [
        helper.make_node("Conv", ["x", "w", "b"], ["h"]),
        norm("h", "i"),
        helper.make_node("Conv", ["i", "v", "b"], ["y"]),
    ]
    weights = {"w": rand(4, 4, 1, 1), "v": rand(4, 4, 1, 1, seed=1), "b": rand(4), **norm_weights(4)}
    after = apply(FOLD, onnx_graph(nodes, [2, 4, 5, 5], [2, 4, 5, 5], weights))
    assert kinds(after) == ["conv", "conv"]
    assert list(after.weights()) == ["w", "b.2", "v", "b"]


class Net(nn.Module):
    """A layer and its norm, with statistics that are not those of a fresh norm."""

    def __init__(self, layer: nn.Module, norm_layer: Any) -> None:
        super().__init__()
        self.layer, self.bn = layer, norm_layer
        with torch.no_grad():
            for tensor in (*norm_layer.parameters(), norm_layer.running_mean, norm_layer.running_var):
                tensor.copy_(torch.rand_like(tensor) + 0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Layer, norm, ReLU."""
        return self.bn(self.layer(x)).relu()


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize(
    ("layer", "norm_layer", "shape"),
    [
        (nn.Conv2d, nn.BatchNorm2d, (2, 4, 6, 6)),
        (nn.ConvTranspose2d, nn.BatchNorm2d, (2, 4, 6, 6)),
        (nn.Linear, nn.BatchNorm1d, (3, 4)),
    ],
)
def test_torch_layers(layer: Any, norm_layer: Any, shape: tuple[int, ...], affine: bool, bias: bool) -> None:
    torch.manual_seed(0)
    made = layer(4, 6, bias=bias) if layer is nn.Linear else layer(4, 6, 3, bias=bias, groups=2)
    after = apply(FOLD, torch_graph(Net(made, norm_layer(6, affine=affine)), torch.randn(shape)))
    assert kinds(after) == ["matmul" if layer is nn.Linear else "conv", "relu"]
    assert "layer.bias" in after.weights()
    model = foreign(after)  # the own class goes on without its norm, where it has a bias for the shift
    assert isinstance(model.bn, nn.Identity) if bias else isinstance(model, torch.fx.GraphModule)


def test_torch_statistics_of_the_batch_are_not_folded() -> None:
    graph = torch_graph(
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)), torch.randn(2, 3, 4, 4)
    )
    assert FOLD.run(graph) is graph


def test_half_precision_stays_half_precision() -> None:
    torch.manual_seed(0)
    graph = torch_graph(Net(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)).half(), torch.randn(2, 3, 4, 4).half())
    after = FOLD.run(graph)
    assert kinds(after) == ["conv", "relu"] and after.weights()["layer.weight"].dtype == np.float16
    assert_same(graph, after, 2e-2)
