"""Worked examples: losses in the network, sorted numbers, triangles of a weight, segments, fake quantisers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from .registry import Net, example, parameter

aten = torch.ops.aten


def around(call: Any, rows: int = 3, **parts: Any) -> Any:
    """Two linear layers with something between them."""
    net = Net(lambda m, x: m.out(call(m, m.a(x))), a=nn.Linear(4, 6), out=nn.Linear(6, 2), **parts)
    return net, torch.randn(rows, 4)


@example(
    """
    6 exact: a.weight[0] a.bias[0] w[1] out.weight[1]
    """
)
def squared_difference() -> Any:
    return around(lambda m, h: F.mse_loss(h, m.w, reduction="none"), w=parameter(3, 6))


@example(
    """
    6 exact: a.weight[0] a.bias[0] w[1] out.weight[1]
    """
)
def smooth_difference() -> Any:
    return around(lambda m, h: F.smooth_l1_loss(h, m.w, reduction="none"), w=parameter(3, 6))


@example(
    """
    6 exact: a.weight[0] a.bias[0] out.weight[1] b.weight[1]
    """
)
def likelihood_of_labels() -> Any:
    net = Net(
        lambda m, x: (m.out(F.relu(y := m.a(x))), F.cross_entropy(m.b(y), torch.tensor([0, 1, 2]))),
        a=nn.Linear(4, 6), b=nn.Linear(6, 5), out=nn.Linear(6, 2),
    )  # fmt: skip
    return net, torch.randn(3, 4)


@example(
    """
    6 exact: a.weight[0] a.bias[0] centres[1]
    28 exact: centres[0] constant_ones_like_1[0] out.weight[1]
    """
)
def distances_to_centres() -> Any:
    net = Net(
        lambda m, x: m.out(torch.exp(-torch.cdist(m.a(x), m.centres))),
        a=nn.Linear(4, 6), out=nn.Linear(28, 2), centres=parameter(28, 6),
    )  # fmt: skip
    return net, torch.randn(30, 4)


@example(
    """
    6 exact: a.weight[0] a.bias[0] b.weight[0] b.weight[1] b.bias[0] constant_expand_1[1] out.weight[1]
    """
)
def copied_rows() -> Any:
    return around(lambda m, h: h.index_copy(0, torch.tensor([2, 0]), m.b(h[:2])), b=nn.Linear(6, 6))


@example(
    """
    6 exact: a.weight[0] a.bias[0] b.weight[0] b.weight[1] b.bias[0] out.weight[1]
    """
)
def scattered_under_a_mask() -> Any:
    mask = torch.tensor([True, False, True])
    return around(lambda m, h: h.masked_scatter(mask[:, None].expand_as(h), m.b(h)), b=nn.Linear(6, 6))


@example(
    """
    6 renormalizing: a.weight[0] a.bias[0] out.weight[1]
    """
)
def median_over_channels() -> Any:
    return around(lambda m, h: h - h.median(1, keepdim=True).values)


@example(
    """
    6 renormalizing: a.weight[0] a.bias[0] out.weight[1]
    """
)
def third_of_the_channels() -> Any:
    """Three of them must stay."""
    return around(lambda m, h: h - h.kthvalue(3, 1, keepdim=True).values)


@example(
    """
    6 exact: a.weight[0] a.bias[0] out.weight[1]
    """
)
def numbers_in_buckets() -> Any:
    return around(lambda m, h: torch.bucketize(h, torch.linspace(-1, 1, 9)).float())


@example(
    """
    6 exact: a.weight[0] a.bias[0] b.weight[0] b.bias[0] out.weight[1]
    """
)
def numbers_among_sorted_ones() -> Any:
    """Each row has its own; leading axes go together."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        a, b = m.a(x).t(), m.b(x).cumsum(0).t()
        return m.out(torch.searchsorted(b.contiguous(), a.contiguous()).float().t())  # type: ignore[no-any-return]

    return Net(call, a=nn.Linear(4, 6), b=nn.Linear(4, 6), out=nn.Linear(6, 2)), torch.randn(3, 4)


@example(
    """
    6 exact: a.weight[0] a.bias[0] out.weight[1]
    """
)
def means_of_segments() -> Any:
    lengths = torch.tensor([2, 1, 3])
    return around(lambda m, h: torch.segment_reduce(h, "mean", lengths=lengths, axis=0, unsafe=True), rows=6)


@example(
    """
    6 exact: a.weight[0] a.bias[0] constant_ge[0] constant_ge[1] w[0] w[1]
    + constant_ge_1[0] constant_ge_1[1] out.weight[1]
    """
)
def triangle_of_a_weight() -> Any:
    return around(lambda m, h: F.linear(h, m.w.triu(1) + m.w.triu(1).t()), w=parameter(6, 6))


@example(
    """
    6 exact: a.weight[0] a.bias[0] b.weight[1] out.weight[1]
    """
)
def transformed_grid() -> Any:
    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        h = m.a(x)
        grid = F.affine_grid(m.b(h.mean((2, 3))).view(-1, 2, 3), [2, 6, 4, 4], align_corners=False)
        return m.out(F.grid_sample(h, grid, align_corners=False))  # type: ignore[no-any-return]

    net = Net(call, a=nn.Conv2d(3, 6, 1), b=nn.Linear(6, 6), out=nn.Conv2d(6, 2, 1))
    return net, torch.randn(2, 3, 4, 4)


@example(
    """
    6 exact: a.weight[0] a.bias[0] out.weight[1]
    """
)
def quantiser_of_a_tensor() -> Any:
    return around(lambda m, h: torch.fake_quantize_per_tensor_affine(h, 0.1, 3, -128, 127))


@example(
    """
    6 exact: a.weight[0] a.bias[0] b.weight[1]
    6 exact: b.weight[0] scale[0] zero[0] b.bias[0] out.weight[1]
    """
)
def quantiser_of_channels() -> Any:
    def call(m: Any, h: torch.Tensor) -> torch.Tensor:
        weight = torch.fake_quantize_per_channel_affine(m.b.weight, m.scale, m.zero, 0, -128, 127)
        return F.linear(h, weight, m.b.bias)

    return around(call, b=nn.Linear(6, 6), scale=torch.rand(6) / 20 + 0.01, zero=torch.arange(6, dtype=torch.int32))


@example(
    """
    6 exact: a.weight[0] a.bias[0] scale[0] zero[0] out.weight[1]
    """
)
def quantiser_that_learns() -> Any:
    def call(m: Any, h: torch.Tensor) -> torch.Tensor:
        return aten._fake_quantize_learnable_per_channel_affine(h, m.scale, m.zero, 1, -128, 127)  # type: ignore[no-any-return]

    return around(call, scale=nn.Parameter(torch.rand(6) / 20 + 0.01), zero=nn.Parameter(torch.zeros(6)))
