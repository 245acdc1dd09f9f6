"""Worked examples: operators that are taken apart, since ATen has them in one piece or computes them in place."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from .registry import Net, conv, example, image, parameter


@example(
    """
    8 exact: a[0] b.weight[1]
    """
)
def standardized_weight() -> Any:
    """Mean and variance of a filter's weights come from one operator."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        spread, mean = torch.var_mean(m.a, dim=[1, 2, 3], keepdim=True, unbiased=False)
        return m.b(F.relu(F.conv2d(x, (m.a - mean) / torch.sqrt(spread + 1e-5))))

    return Net(call, a=parameter(8, 3, 3, 3), b=conv(8, 2)), image()


@example(
    """
    8 exact: a.parametrizations.weight.original[0] a.parametrizations.weight.0._u[0] a.bias[0] b.weight[1]
    """
)
def spectral_norm() -> Any:
    """The largest singular value is a dot product of two vectors."""
    named = nn.utils.parametrizations.spectral_norm(nn.Linear(5, 8))
    return Net(lambda m, x: m.b(F.relu(m.a(x))), a=named, b=nn.Linear(8, 3)), torch.randn(4, 5)


def _graph(m: Any, x: torch.Tensor, ends: torch.Tensor, *, put: bool) -> torch.Tensor:
    x = m.a(x)
    messages = F.relu(m.b(x[ends[0]]))
    new = torch.zeros_like(messages[:1]).repeat(6, 1)
    if put:
        new[ends[1]] = messages
    else:
        new.index_add_(0, ends[1], messages)
    return m.out(torch.cat([x, new], 1))


@example(
    """
    6 exact: a.weight[0] a.bias[0] b.weight[1] out.weight[1]
    8 exact: b.weight[0] b.bias[0] constant_repeat[1] out.weight[1]
    """
)
def messages_added_up() -> Any:
    parts = {"a": nn.Linear(5, 6), "b": nn.Linear(6, 8), "out": nn.Linear(14, 3)}
    ends = torch.tensor([[0, 1, 2, 3, 4, 5, 5, 2], [1, 0, 3, 2, 5, 4, 1, 1]])
    return Net(lambda m, x, e: _graph(m, x, e, put=False), **parts), (torch.randn(6, 5), ends)


@example(
    """
    6 exact: a.weight[0] a.bias[0] b.weight[1] out.weight[1]
    8 exact: b.weight[0] b.bias[0] constant_repeat[1] constant_expand_1[1] out.weight[1]
    """
)
def messages_written_by_index() -> Any:
    parts = {"a": nn.Linear(5, 6), "b": nn.Linear(6, 8), "out": nn.Linear(14, 3), "e": torch.tensor([[0, 1], [4, 2]])}
    return Net(lambda m, x: _graph(m, x, m.e, put=True), **parts), torch.randn(6, 5)


@example(
    """
    6 exact: inside.weight[0] inside.bias[0] a.weight_ih[1]
    8 of 4 exact: a.weight_ih[0] a.bias_ih[0] a.weight_hh[0] a.weight_hh[1] constant_new_zeros[1] a.bias_hh[0]
    + b.weight_ih[1]
    5 of 3 exact: b.weight_ih[0] b.bias_ih[0] b.weight_hh[0] b.weight_hh[1] constant_new_zeros_1[1] b.bias_hh[0]
    + c.weight_ih[1]
    4 exact: c.weight_ih[0] c.weight_hh[0] c.weight_hh[1] constant_new_zeros_2[1] out.weight[1]
    """
)
def cells() -> Any:
    """Recurrent cells step by step: gates are slices of one product, hidden units are rows of every gate."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        x = m.inside(x)
        h = s = x.new_zeros(len(x), 8)
        g, r = x.new_zeros(len(x), 5), x.new_zeros(len(x), 4)
        for step in x.unbind(1):
            h, s = m.a(step, (h, s))
            g = m.b(h, g)
            r = m.c(g, r)
        return m.out(r)

    parts = {"inside": nn.Linear(3, 6), "a": nn.LSTMCell(6, 8), "b": nn.GRUCell(8, 5)}
    return Net(call, **parts, c=nn.RNNCell(5, 4, bias=False), out=nn.Linear(4, 2)), torch.randn(2, 3, 3)


@example(
    """
    6 exact: a.weight[0] a.bias[0] both.weight[1]
    5 exact: b.weight[0] b.bias[0] both.weight[2]
    8 exact: both.weight[0] both.bias[0] out.weight[1]
    """
)
def bilinear() -> Any:
    parts = {"a": nn.Linear(3, 6), "b": nn.Linear(4, 5), "both": nn.Bilinear(6, 5, 8), "out": nn.Linear(8, 2)}
    return Net(lambda m, x, y: m.out(F.relu(m.both(m.a(x), m.b(y)))), **parts), (torch.randn(3, 3), torch.randn(3, 4))


@example(
    """
    8 exact: bag.weight[1] constant_zeros[1] constant_expand[1] out.weight[1]
    """
)
def bags_of_embeddings() -> Any:
    """Rows are looked up and averaged; they stay, since the caller names them."""
    bag = nn.EmbeddingBag(12, 8, mode="mean", padding_idx=3)
    return Net(lambda m, ids: m.out(m.bag(ids)), bag=bag, out=nn.Linear(8, 3)), torch.arange(12).view(4, 3)


@example(
    """
    8 renormalizing: a.weight[0] a.bias[0] places[1]
    """
)
def distances() -> Any:
    """Distances to a code book, which are the output."""
    net = Net(lambda m, x: torch.cdist(m.a(x), m.places), a=nn.Linear(5, 8), places=parameter(4, 8))
    return net, torch.randn(3, 5)
