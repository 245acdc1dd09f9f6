"""Worked examples: reshapes, transposes, copies."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from .registry import Net, conv, example, image, parameter


@example(
    """
    4 exact: 0.weight[0] 0.bias[0] 3.weight[1]
    """
)
def flatten_after_conv() -> Any:
    return nn.Sequential(conv(3, 4, 3), nn.AvgPool2d(2), nn.Flatten(), nn.Linear(36, 5)), image()


@example(
    """
    4 of 9 exact: 0.weight[0] 0.bias[0] 2.weight[0]
    """
)
def decoder() -> Any:
    """Linear, unflatten, transposed convolution: a channel is a block of the linear layer's rows."""
    return nn.Sequential(nn.Linear(5, 36), nn.Unflatten(1, (4, 3, 3)), nn.ConvTranspose2d(4, 2, 2)), torch.randn(2, 5)


@example(
    """
    6 exact: a.weight[0] a.bias[0] b.weight[1]
    """
)
def channels_last() -> Any:
    return Net(lambda m, x: m.b(F.gelu(m.a(x).permute(0, 2, 3, 1))), a=conv(3, 6), b=nn.Linear(6, 2)), image()


@example(
    """
    3x2 exact: a.weight[0] a.bias[0] b.weight[1]
    3x4 exact: b.weight[0] b.bias[0] d.weight[0] d.bias[0] out.weight[1]
    """
)
def channel_shuffle() -> Any:
    """Shuffled between grouped convolutions, as in ShuffleNet."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.b(m.a(x))
        n, c, h, w = y.shape
        return m.out(m.d(y.view(n, 3, c // 3, h, w).transpose(1, 2).reshape(n, c, h, w)))

    return Net(call, a=conv(3, 6), b=conv(6, 12, groups=3), d=conv(12, 12, 3, groups=12), out=conv(12, 2)), image()


@example(
    """
    6 exact: a.weight[0] a.bias[0] b.weight[1]
    """
)
def squeezed() -> Any:
    net = Net(
        lambda m, x: m.b(m.a(x).mean((2, 3), keepdim=True).squeeze(-1).squeeze(-1).unsqueeze(1)),
        a=conv(3, 6),
        b=nn.Linear(6, 2),
    )
    return net, image()


@example(
    """
    6 exact: b.weight[0] b.bias[0] out.weight[1]
    """
)
def expanded() -> Any:
    """A single channel spread over the channels of another branch."""
    return Net(
        lambda m, x: m.out(m.a(x).expand(-1, 6, -1, -1) * m.b(x)), a=conv(3, 1), b=conv(3, 6), out=conv(6, 2)
    ), image()


@example(
    """
    2 exact: a.weight[0] a.bias[0]
    6 exact: b.weight[0] b.bias[0] out.weight[1]
    """
)
def expanded_piece() -> Any:
    """Each of two channels on its own, spread over the channels of another branch: one of them may vanish."""
    pieces = lambda m, x: sum(piece.expand(-1, 6, -1, -1) for piece in m.a(x).split(1, 1))  # noqa: E731
    return Net(lambda m, x: m.out(pieces(m, x) * m.b(x)), a=conv(3, 2), b=conv(3, 6), out=conv(6, 2)), image()


@example(
    """
    4 exact: a.weight[0] a.bias[0] out.weight[1]
    """
)
def repeated() -> Any:
    return Net(lambda m, x: m.out(m.a(x).repeat(1, 2, 1, 1)), a=conv(3, 4), out=conv(8, 2)), image()


@example(
    """
    4 exact: a.weight[0] a.bias[0] out.weight[1]
    """
)
def interleaved() -> Any:
    net = Net(
        lambda m, x: m.out(torch.repeat_interleave(m.a(x), 2, dim=1, output_size=8)), a=conv(3, 4), out=conv(8, 2)
    )
    return net, image()


@example(
    """
    6 exact: b.weight[0] b.bias[0] out.weight[1]
    """
)
def interleaved_one() -> Any:
    """A single channel repeated for the channels of another branch, as one key-value head for all query heads."""
    return Net(
        lambda m, x: m.out(m.a(x).repeat_interleave(6, 1) * m.b(x)), a=conv(3, 1), b=conv(3, 6), out=conv(6, 2)
    ), image()


@example(
    """
    3 of 2 exact: a.weight[0] a.bias[0] out.weight[1]
    """
)
def merged_and_split_again() -> Any:
    """Whole heads behind positions, merged with them and taken apart again: positions have no labels then either."""

    def heads(m: Net, x: torch.Tensor) -> torch.Tensor:
        x = torch.index_select(m.a(x).unflatten(-1, (3, 2)), 2, torch.tensor([2, 0, 1]))
        x = x.reshape(-1, 2).unflatten(0, (-1, 3))
        return m.out((x * torch.arange(1.0, 8.0).reshape(7, 1, 1)).flatten(1))

    return Net(heads, a=nn.Linear(4, 6), out=nn.Linear(6, 2)), torch.randn(1, 7, 4)


@example(
    """
    4 of 3 exact: a.weight[0] a.bias[0] scale[0] out.weight[1]
    """
)
def factor_by_factor() -> Any:
    """Twelve channels as four blocks of three, each block with its own factor: blocks go whole."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.a(x).unflatten(1, (4, 3)) * m.scale
        return m.out(y.flatten(1, 2))

    return Net(call, a=conv(3, 12), scale=parameter(4, 1, 1, 1), out=conv(12, 2)), image()


@example(
    """
    8 of 3 exact: a.weight[0] a.bias[0]
    """
)
def outer_factor_summed() -> Any:
    """Eight blocks of three channels are summed: any block may go, whatever reads the sum."""
    return Net(lambda m, x: m.out(m.a(x).unflatten(1, (8, 3)).sum(1)), a=conv(3, 24), out=conv(3, 2)), image()


@example(
    """
    6 exact: a.weight[0] a.bias[0] out.weight[1]
    """
)
def one_index_repeated_along_channels() -> Any:
    """A factor for each position, repeated for every channel: as many copies as channels are left."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m.out(m.a(x) * x.sum(1, keepdim=True).repeat(1, 6, 1, 1))

    return Net(call, a=conv(3, 6), out=conv(6, 2)), image()


@example(
    """
    6 exact: a.weight[0] a.bias[0] out.weight[1]
    """
)
def flattened_positions_and_channels() -> Any:
    """Both factors of a merge have weights of their own; positions are fixed by a residual, so channels stay active."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        h = m.a(x)
        h = h * x[:, :, :1] + m.mix(h.transpose(1, 2)).transpose(1, 2)
        return m.out(h.flatten(1))

    parts = {"a": nn.Linear(3, 6), "mix": nn.Linear(5, 5), "out": nn.Linear(30, 2)}
    return Net(call, **parts), torch.randn(2, 5, 3)
