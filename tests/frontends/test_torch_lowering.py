"""Every family of ATen operators: the canonical kind it becomes, and that the graph computes what the module did."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as nf
from torch import nn

from graphprune.frontends.torch import capture, run, to_graph_module
from graphprune.frontends.torch.lower.contract import explicit_equation
from graphprune.ir.graph import Graph, Node


class Apply(nn.Module):
    """A function as a module, with a layer in front so that the graph has a weight."""

    def __init__(self, function: Callable[..., Any]) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.rand(()) + 0.5)
        self.function = function

    def forward(self, x: torch.Tensor, *more: torch.Tensor) -> Any:
        return self.function(x * self.scale, *more)


def same(module: nn.Module, graph: Graph, inputs: Any) -> None:
    expected, found = run(module.eval(), inputs), run(to_graph_module(graph), inputs)
    assert len(expected) == len(found) > 0
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(a.astype(np.float64), b.astype(np.float64), rtol=1e-5, atol=1e-6)


def lowered(function: Callable[..., Any], *shape: int, more: tuple[torch.Tensor, ...] = ()) -> Node:
    """The last node of a function of one tensor, checked to compute the same."""
    torch.manual_seed(0)
    module, inputs = Apply(function), (torch.randn(shape), *more)
    graph = capture(module, inputs)
    graph.check()
    same(module, graph, inputs)
    return graph.nodes[-1]


W = torch.randn(6, 4, 3)

CASES: list[tuple[str, Callable[..., Any], tuple[int, ...], dict[str, Any]]] = [
    ("conv", lambda x: nf.conv1d(x, W), (2, 4, 9), {"groups": 1, "transposed": False}),
    ("conv", lambda x: nf.conv2d(x, torch.ones(4, 1, 3, 3), groups=4, padding="same"), (2, 4, 9, 9), {"groups": 4}),
    ("conv", lambda x: nf.conv3d(x, torch.ones(2, 4, 1, 1, 1)), (2, 4, 3, 3, 3), {"groups": 1}),
    ("conv", lambda x: nf.conv_transpose2d(x, torch.ones(4, 2, 2, 2), stride=2), (2, 4, 3, 3), {"transposed": True}),
    ("unknown", lambda x: nf.conv1d(x, W), (4, 9), {}),
    ("matmul", lambda x: nf.linear(x, torch.ones(5, 4)), (2, 4), {"trans_a": False, "trans_b": True}),
    ("matmul", lambda x: x @ torch.ones(4, 5), (3, 2, 4), {"trans_b": False}),
    ("matmul", lambda x: torch.addmm(torch.ones(5), x, torch.ones(4, 5)), (2, 4), {}),
    ("matmul", lambda x: torch.bmm(x, x.mT), (3, 2, 4), {}),
    ("matmul", lambda x: torch.baddbmm(x, x, x), (3, 4, 4), {}),
    ("matmul", lambda x: torch.mv(x, torch.ones(4)), (3, 4), {}),
    ("einsum", lambda x: torch.einsum("...ij,jk", x, torch.ones(4, 5)), (3, 2, 4), {}),
    ("attention", lambda x: nf.scaled_dot_product_attention(x, x, x), (1, 2, 5, 4), {"scale": 0.5, "causal": False}),
    ("batch_norm", lambda x: nf.batch_norm(x, torch.zeros(4), torch.ones(4)), (2, 4, 3), {"epsilon": 1e-5}),
    ("layer_norm", lambda x: nf.layer_norm(x, (3, 4)), (2, 3, 4), {"axes": [1, 2], "rms": False}),
    ("layer_norm", lambda x: nf.rms_norm(x, (4,), torch.ones(4)), (2, 3, 4), {"axes": [2], "rms": True}),
    ("group_norm", lambda x: nf.group_norm(x, 2), (2, 4, 3), {"groups": 2}),
    ("instance_norm", nf.instance_norm, (2, 4, 3), {"epsilon": 1e-5}),
    ("softmax", lambda x: nf.log_softmax(x, -1), (2, 4), {"axis": 1}),
    ("prelu", lambda x: nf.prelu(x, torch.arange(4) / 4), (2, 4, 3), {}),
    ("glu", lambda x: nf.glu(x, 1), (2, 4), {"axis": 1}),
    ("elementwise", nf.hardtanh, (2, 4), {"fn": "clip"}),
    ("elementwise", lambda x: x + 3, (2, 4), {"fn": "add", "scalars": [3]}),
    ("elementwise", lambda x: torch.where(x > 0, x, 0.0), (2, 4), {"fn": "where"}),
    ("elementwise", lambda x: x.to(torch.float64), (2, 4), {"fn": "cast"}),
    ("elementwise", lambda x: x.to(torch.float32).clone(), (2, 4), {"fn": "identity"}),
    ("elementwise", lambda x: nf.dropout(x, 0.5, training=False), (2, 4), {"fn": "dropout"}),
    ("concat", lambda x: torch.cat([x, x], -1), (2, 4), {"axis": 1}),
    ("stack", lambda x: torch.stack([x, x], -1), (2, 4), {"axis": 2}),
    ("split", lambda x: x.chunk(3, 1), (2, 7), {"axis": 1, "sizes": [3, 3, 1]}),
    ("split", lambda x: x.tensor_split(3, 1), (2, 7), {"sizes": [3, 2, 2]}),
    ("split", lambda x: x.split([1, 6], -1), (2, 7), {"axis": 1, "sizes": [1, 6]}),
    ("unbind", lambda x: x.unbind(1), (2, 3), {"axis": 1}),
    ("slice", lambda x: x[:, -3:100:2], (2, 7), {"slices": [(1, 4, 7, 2)]}),
    ("slice", lambda x: x.narrow(1, 2, 3), (2, 7), {"slices": [(1, 2, 5, 1)]}),
    ("select", lambda x: x[:, -1], (2, 7), {"axis": 1, "index": 6}),
    ("flip", lambda x: x.flip(-1), (2, 7), {"axes": [1]}),
    ("roll", lambda x: x.roll((1, -2), (0, 1)), (2, 7), {"shifts": [1, -2], "axes": [0, 1]}),
    ("unknown", lambda x: x.roll(1), (2, 7), {}),
    ("pad", lambda x: nf.pad(x, (1, 2, 0, 3)), (2, 4, 5), {"pads": [(1, 0, 3), (2, 1, 2)], "mode": "constant"}),
    ("pad", lambda x: nf.pad(x, (1, 1), mode="reflect"), (2, 4, 5), {"pads": [(2, 1, 1)], "mode": "reflect"}),
    ("reshape", lambda x: x.view(2, -1), (2, 3, 4), {"shape": (2, 12)}),
    ("reshape", lambda x: x.flatten(1), (2, 3, 4), {"shape": (2, 12)}),
    ("reshape", lambda x: x.unflatten(1, (2, -1)), (2, 4), {"shape": (2, 2, 2)}),
    ("reshape", lambda x: x.unsqueeze(-1), (2, 4), {"shape": (2, 4, 1)}),
    ("reshape", lambda x: x.view_as(torch.ones(4, 2)), (2, 4), {"shape": (4, 2)}),
    ("transpose", lambda x: x.permute(0, -1, 1), (2, 3, 4), {"perm": [0, 2, 1]}),
    ("transpose", lambda x: x.movedim(0, -1), (2, 3, 4), {"perm": [1, 2, 0]}),
    ("transpose", lambda x: x.t(), (2, 3), {"perm": [1, 0]}),
    ("expand", lambda x: x.expand(5, -1, 4), (2, 1), {"shape": (5, 2, 4)}),
    ("expand", lambda x: x.expand_as(torch.ones(3, 4)), (1, 4), {"shape": (3, 4)}),
    ("tile", lambda x: x.repeat(3, 1, 2), (2, 4), {"repeats": [3, 1, 2]}),
    ("tile", lambda x: x.tile(2), (2, 4), {"repeats": [1, 2]}),
    ("repeat_interleave", lambda x: x.repeat_interleave(3, 1), (2, 4), {"axis": 1, "repeats": 3}),
    ("reduce", lambda x: x.mean((-1, -2), keepdim=True), (2, 3, 4), {"fn": "mean", "axes": [1, 2], "keepdims": True}),
    ("reduce", lambda x: x.sum(), (2, 3), {"fn": "sum", "axes": [0, 1], "keepdims": False}),
    ("reduce", lambda x: x.amax(1), (2, 3), {"fn": "max", "axes": [1]}),
    ("reduce", lambda x: x.max(1).values, (2, 3), {"fn": "max", "axes": [1]}),
    ("reduce", lambda x: x.norm(dim=1), (2, 3), {"fn": "l2", "axes": [1]}),
    ("reduce", lambda x: x.var(1), (2, 3), {"fn": "var"}),
    ("elementwise", lambda x: torch.max(x, -x), (2, 3), {"fn": "maximum"}),
    ("spatial", lambda x: nf.max_pool2d(x, 2), (2, 3, 4, 4), {}),
    ("spatial", lambda x: nf.adaptive_avg_pool2d(x, 1), (2, 3, 4, 4), {}),
    ("unknown", lambda x: nf.max_pool2d(x, 2), (3, 4, 4), {}),
    ("spatial", lambda x: nf.interpolate(x, scale_factor=2.0), (2, 3, 4, 4), {}),
    ("cumsum", lambda x: x.cumsum(1), (2, 3), {"axis": 1}),
    ("topk", lambda x: x.topk(2, -1).values, (2, 3), {"axis": 1}),
    ("spatial", lambda x: nf.avg_pool2d(x, (2, 1)), (2, 3, 4, 4), {"axes": [2]}),
    ("spatial", lambda x: nf.max_pool2d(x, (1, 3), (1, 1), (0, 1)), (2, 3, 4, 4), {"axes": [3]}),
    ("one_hot", lambda x: nf.one_hot(x.argmax(-1), 5), (2, 5), {"classes": 5}),
    ("fill_rows", lambda x: x.masked_scatter(torch.tensor([[True], [False]]), x + 1), (2, 5), {"width": 1}),
    ("unknown", lambda x: x.masked_scatter(torch.eye(3) > 0, x + 1), (3, 3), {}),
    ("lookup", lambda x: x[[0, 1], :, [2, 0]], (2, 4, 3), {"axes": [0, 2]}),
    ("depth_to_space", lambda x: nf.pixel_shuffle(x, 2), (1, 8, 3, 3), {"block": 2, "mode": "CRD"}),
    ("space_to_depth", lambda x: nf.pixel_unshuffle(x, 2), (1, 2, 4, 4), {"block": 2, "mode": "CRD"}),
    ("unfold", lambda x: nf.unfold(x, (2, 3)), (1, 2, 4, 4), {"kernel": 6}),
    ("reshape", lambda x: nf.channel_shuffle(x, 2), (1, 6, 2, 2), {"shape": (1, 6, 2, 2)}),
    ("gather", lambda x: x[:, [2, 0, -1]], (2, 4), {"axis": 1}),
    ("gather", lambda x: x.index_select(1, torch.tensor([1, 1])), (2, 4), {"axis": 1}),
    ("fold", lambda x: nf.fold(x, (4, 4), 2), (1, 8, 9), {"kernel": 4}),
    ("take_along", lambda x: x.gather(1, torch.zeros(2, 1, dtype=torch.long)), (2, 4), {"axis": 1}),
    ("scatter_along", lambda x: x.scatter(1, torch.zeros(2, 1, dtype=torch.long), 3.0), (2, 4), {"axis": 1}),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "function", "shape", "attrs"), CASES)
def test_kind_and_attributes(kind: str, function: Callable[..., Any], shape: tuple[int, ...], attrs: Any) -> None:
    node = lowered(function, *shape)
    assert node.kind == kind
    for name, value in attrs.items():
        assert node.attrs[name] == value


def test_constant_indices_are_known_and_not_negative() -> None:
    node = lowered(lambda x: x[:, [2, 0, -1]], 2, 4)
    assert node.attrs["indices"].tolist() == [2, 0, 3]


def test_embedding_of_inputs_has_no_known_indices() -> None:
    table = nn.Embedding(7, 3)
    graph = capture(table, torch.tensor([[1, 2]]))
    assert [n.kind for n in graph.nodes] == ["gather"]
    assert graph.nodes[0].attrs["indices"] is None


def test_composites_are_taken_apart() -> None:
    module = Apply(lambda x: nf.cosine_similarity(x, x + 1, dim=1))
    graph = capture(module, torch.randn(2, 4))
    assert "unknown" not in {n.kind for n in graph.nodes}
    same(module, graph, (torch.randn(2, 4),))


@pytest.mark.parametrize(
    ("equation", "ranks", "expected"),
    [
        ("ij,jk", [2, 2], "ij,jk->ik"),
        ("b i j , j -> b i", [3, 1], "bij,j->bi"),
        ("...ij,jk->...ik", [4, 2], "abij,jk->abik"),
        ("...i,...i", [3, 2], "abi,bi->ab"),
        ("ij,jk", [2, 3], None),
    ],
)
def test_einsum_equations_are_spelled_out(equation: str, ranks: list[int], expected: str | None) -> None:
    assert explicit_equation(equation, ranks) == expected


@pytest.mark.parametrize("cell", [nn.LSTM, nn.GRU, nn.RNN])
def test_recurrent_layers_name_their_inputs(cell: type[nn.RNNBase]) -> None:
    module = cell(5, 3, num_layers=2, bidirectional=True, batch_first=True)
    graph = capture(module, torch.randn(2, 4, 5))
    node = next(n for n in graph.nodes if n.kind == "recurrent")
    order = dict(zip(node.attrs["order"], node.inputs, strict=True))
    assert order["x"] is graph.inputs[0]
    assert order["w_hh.1.0"] is not None and order["w_hh.1.0"].name == "weight_hh_l1"
    assert (node.attrs["hidden"], node.attrs["layers"], node.attrs["directions"]) == (3, 2, 2)
    same(module, graph, (torch.randn(2, 4, 5),))


def test_recurrent_projection() -> None:
    module = nn.LSTM(5, 6, proj_size=2)
    node = capture(module, torch.randn(4, 1, 5)).nodes[-1]
    assert (node.attrs["hidden"], node.attrs["proj"]) == (6, 2)
    order = dict(zip(node.attrs["order"], node.inputs, strict=True))
    sizes = {name: value.sizes for name, value in order.items() if value is not None}
    assert (sizes["h0"], sizes["c0"], sizes["w_hr.0.0"]) == ((1, 1, 2), (1, 1, 6), (2, 6))


@pytest.mark.parametrize("batch_first", [True, False])
def test_attention_modules_are_not_fused(batch_first: bool) -> None:
    for module in (
        nn.TransformerEncoderLayer(8, 2, 16, batch_first=batch_first),
        nn.TransformerDecoderLayer(8, 2, 16, batch_first=batch_first),
    ):
        inputs = (torch.randn(3, 3, 8),) * (2 if isinstance(module, nn.TransformerDecoderLayer) else 1)
        graph = capture(module, inputs)
        assert "unknown" not in {n.kind for n in graph.nodes}
        assert any(n.kind == "attention" for n in graph.nodes)
        same(module, graph, inputs)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_types(dtype: torch.dtype) -> None:
    module = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)).to(dtype)
    x = torch.randn(3, 4, dtype=dtype)
    graph = capture(module, x)
    weight = graph.weights()["0.weight"].weight
    assert weight is not None and weight.array().dtype == weight.dtype == run(module, (x,))[0].dtype
    same(module, graph, (x,))


def test_weights_share_the_memory_of_the_module() -> None:
    module = nn.Linear(3, 2)
    weight = capture(module, torch.randn(1, 3)).weights()["weight"].weight
    assert weight is not None and weight.trainable and weight.tied
    assert np.shares_memory(weight.array(), module.weight.detach().numpy())
