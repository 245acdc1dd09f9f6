"""Sizes that follow values: rows that a mask picks, and graph networks, which pick edges."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

import graphprune as gp
from graphprune.frontends import torch as frontend
from graphprune.ir.graph import Graph

EDGES = torch.tensor([[0, 1, 2, 3, 4, 5, 0, 2, 3], [1, 2, 3, 4, 5, 0, 0, 4, 3]])
OTHER_EDGES = torch.tensor([[5, 1, 2, 0, 4, 3, 1, 1, 2], [1, 1, 3, 4, 5, 0, 2, 4, 2]])
X = torch.randn(6, 8, generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([1, 0, 1, 1, 0, 1]).bool()


def with_loops(edges: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Edges without those from a node to itself, then one of these for each node."""
    edges = edges[:, edges[0] != edges[1]]
    loops = torch.arange(count)
    edges = torch.cat([edges, torch.stack([loops, loops])], 1)
    return edges[0], edges[1]


class Convolution(nn.Module):
    """As Kipf and Welling have it."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.linear, self.bias = nn.Linear(inside, outside, bias=False), nn.Parameter(torch.randn(outside))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        row, col = with_loops(edges, x.size(0))
        degree = torch.zeros(x.size(0)).scatter_add_(0, col, torch.ones(row.size(0)))
        norm = degree.pow_(-0.5)
        norm.masked_fill_(norm == float("inf"), 0)
        h = self.linear(x)
        passed = h[row] * (norm[row] * norm[col]).unsqueeze(-1)
        return torch.zeros(x.size(0), h.size(1)).index_add_(0, col, passed) + self.bias


class Attention(nn.Module):
    """As Velickovic et al. have it: a softmax over the edges that come in."""

    def __init__(self, inside: int, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.width = heads, width
        self.linear = nn.Linear(inside, heads * width, bias=False)
        self.source, self.target = (nn.Parameter(torch.randn(1, heads, width)) for _ in range(2))

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        row, col = with_loops(edges, x.size(0))
        h = self.linear(x).view(-1, self.heads, self.width)
        scores = F.leaky_relu((h * self.source).sum(-1)[row] + (h * self.target).sum(-1)[col], 0.2)
        at = col.unsqueeze(-1).expand_as(scores)
        highest = torch.full((x.size(0), self.heads), -1e9).scatter_reduce(0, at, scores, "amax")
        scores = (scores - highest[col]).exp()
        total = torch.zeros(x.size(0), self.heads).scatter_add_(0, at, scores)
        passed = h[row] * (scores / (total[col] + 1e-16)).unsqueeze(-1)
        return torch.zeros(x.size(0), self.heads, self.width).index_add_(0, col, passed).flatten(1)


class Network(nn.Module):
    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        super().__init__()
        self.first, self.second, self.out = first, second, nn.Linear(16, 3)

    def forward(self, x: Tensor, edges: Tensor) -> Tensor:
        return self.out(self.second(F.elu(self.first(x, edges)), edges))  # type: ignore[no-any-return]


def same(graph: Graph, module: nn.Module, inputs: Any) -> None:
    """A graph module computes what the module does, also where other sizes follow from the values."""
    for a, b in zip(frontend.run(frontend.to_graph_module(graph), inputs), frontend.run(module, inputs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("first", "second"),
    [(Convolution(8, 16), Convolution(16, 16)), (Attention(8, 4, 4), Attention(16, 4, 4))],
    ids=["convolution", "attention"],
)
def test_graph_networks_are_pruned_and_stay_open_for_other_edges(first: nn.Module, second: nn.Module) -> None:
    net = Network(first, second).eval()
    result = gp.prune(net, (X, EDGES), target=gp.channels(0.5))
    assert result.emitted.form == "module" and result.report.proof is not None and result.report.proof.passed
    assert result.report.after.parameters <= 0.5 * result.report.before.parameters
    assert not [n for n in result.coupling.graph.nodes if n.kind == "unknown"]
    same(result.graph, result.model, (X, OTHER_EDGES))
    same(gp.capture(net, (X, EDGES)), net, (X.flip(0), OTHER_EDGES))


def picked(m: Any, x: Tensor, mask: Tensor) -> Tensor:
    return m.out(m.a(x)[mask].relu())  # type: ignore[no-any-return]


def written(m: Any, x: Tensor, mask: Tensor) -> Tensor:
    h = m.a(x).clone()
    h[mask] = m.b(h[mask])
    return m.out(h)  # type: ignore[no-any-return]


def overwritten(m: Any, x: Tensor, mask: Tensor) -> Tensor:
    h = m.a(x).clone()
    h[mask] = 0.5
    h[~mask] += h[0]
    return m.out(h)  # type: ignore[no-any-return]


def places(m: Any, x: Tensor, mask: Tensor) -> Tensor:
    (found,) = torch.nonzero(mask, as_tuple=True)
    some = m.a(x).index_select(0, found)
    twice = torch.cat([some, some * some.new_ones(found.shape[0], 1)], 0)
    return m.out(twice.view(2, found.numel(), -1))  # type: ignore[no-any-return]


def split_and_joined(m: Any, x: Tensor, mask: Tensor) -> Tensor:
    rows = m.a(x).index_select(0, mask.nonzero().view(-1)).view(-1, 4, 4)
    return m.out(rows.flatten(1).relu())  # type: ignore[no-any-return]


def of_two_axes(m: Any, x: Tensor, mask: Tensor) -> Tensor:
    h = m.a(x).view(2, 3, 16)
    both = mask.view(2, 3)
    h = h.clone()
    h[both] = m.b(h[both]).tanh()
    return m.out(h)  # type: ignore[no-any-return]


class Masked(nn.Module):
    def __init__(self, call: Any) -> None:
        super().__init__()
        self.a, self.b, self.out, self.call = nn.Linear(8, 16), nn.Linear(16, 16), nn.Linear(16, 3), call

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        return self.call(self, x, mask)  # type: ignore[no-any-return]


@pytest.mark.parametrize("call", [picked, written, overwritten, places, split_and_joined, of_two_axes])
def test_rows_that_a_mask_picks(call: Any) -> None:
    torch.manual_seed(0)
    net = Masked(call).eval()
    result = gp.prune(net, (X, MASK), target=gp.channels(0.5))
    assert result.report.proof is not None and result.report.proof.passed
    assert result.report.after.parameters <= 0.75 * result.report.before.parameters
    assert not [n for n in result.coupling.graph.nodes if n.kind == "unknown"]
    other = torch.tensor([1, 1, 1, 0, 1, 1]).bool()
    same(result.graph, result.model, (X, other))
    same(gp.capture(net, (X, MASK)), net, (X.flip(0), other))
    lost = copy.deepcopy(net)  # what the pruned model lacks is zero in the original
    (keep,) = (group.keep[0] for group in result.plan.groups if group.size == 16)
    gone = sorted(set(range(16)) - set(keep))
    if call in (picked, split_and_joined):
        with torch.no_grad():
            lost.a.weight[gone], lost.a.bias[gone] = 0, 0
            torch.testing.assert_close(result.model(X, other), lost(X, other))
