"""Worked examples: convolutions, pools, pixel shuffles."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from .registry import Net, conv, example, image, parameter


@example(
    """
    6 exact: 0.weight[0] 0.bias[0] 2.weight[1]
    """
)
def two_convolutions() -> Any:
    return nn.Sequential(conv(3, 6, 3), nn.ReLU(), conv(6, 4, 3)), image()


@example(
    """
    6 exact: a.weight[0] a.bias[0] b.weight[1]
    4 exact: c.weight[0] c.bias[0] d.weight[1]
    """
)
def conv_1d_and_3d() -> Any:
    net = Net(
        lambda m, x, y: (m.b(m.a(x)), m.d(m.c(y))),
        a=nn.Conv1d(3, 6, 3), b=nn.Conv1d(6, 2, 3), c=nn.Conv3d(3, 4, 2), d=nn.Conv3d(4, 2, 2),
    )  # fmt: skip
    return net, (torch.randn(2, 3, 8), torch.randn(2, 3, 4, 4, 4))


@example(
    """
    6 exact: 0.weight[0] 0.bias[0] 1.weight[0] 1.bias[0] 2.weight[1]
    """
)
def depthwise_with_multiplier() -> Any:
    return nn.Sequential(conv(3, 6), conv(6, 12, 3, groups=6), conv(12, 4)), image()


@example(
    """
    4x2 exact: 0.weight[0] 0.bias[0] 1.weight[1]
    4x3 exact: 1.weight[0] 1.bias[0] 2.weight[1]
    """
)
def grouped_group_by_group() -> Any:
    return nn.Sequential(conv(3, 8), conv(8, 12, 3, groups=4), conv(12, 4)), image()


@example(
    """
    4 of 2 exact: 0.weight[0] 0.bias[0] 1.weight[0] 1.weight[1] 1.bias[0] 2.weight[1]
    """,
    grouped="whole",
)
def grouped_whole() -> Any:
    return nn.Sequential(conv(3, 8), conv(8, 12, 3, groups=4), conv(12, 4)), image()


@example(
    """
    6 exact: 0.weight[0] 0.bias[0] 1.weight[0]
    8 exact: 1.weight[1] 1.bias[0] 2.weight[1]
    """
)
def transposed() -> Any:
    return nn.Sequential(conv(3, 6), nn.ConvTranspose2d(6, 8, 4, stride=2, padding=1), conv(8, 4)), image()


@example(
    """
    2x4 exact: 0.weight[0] 0.bias[0] 1.weight[0]
    2x3 exact: 1.weight[1] 1.bias[0] 2.weight[0] 2.bias[0] 3.weight[1]
    """
)
def transposed_grouped() -> Any:
    net = nn.Sequential(
        conv(3, 8),
        nn.ConvTranspose2d(8, 6, 3, groups=2),
        nn.ConvTranspose2d(6, 12, 3, groups=6),
        conv(12, 4),
    )
    return net, image()


@example(
    """
    6 exact: 0.weight[0] 0.bias[0] 1.weight[0]
    8 exact: 1.weight[1] 1.bias[0] 2.weight[1]
    """
)
def transposed_1d() -> Any:
    return nn.Sequential(nn.Conv1d(3, 6, 1), nn.ConvTranspose1d(6, 8, 3), nn.Conv1d(8, 2, 1)), torch.randn(2, 3, 9)


@example(
    """
    6 exact: a.weight[0] a.bias[0] b.weight[0] b.bias[0] c.weight[1]
    """
)
def pools_and_resize() -> Any:
    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = F.max_pool2d(m.a(x), 3, 1, 1) + F.avg_pool2d(m.b(x), 3, 1, 1)
        return m.c(F.interpolate(F.adaptive_avg_pool2d(y, 3), scale_factor=2, mode="bilinear"))

    return Net(call, a=conv(3, 6), b=conv(3, 6), c=conv(6, 2)), image()


@example(
    """
    4 of 4 exact: 0.weight[0] 0.bias[0] 2.weight[1]
    """
)
def pixel_shuffle() -> Any:
    return nn.Sequential(conv(3, 16), nn.PixelShuffle(2), conv(4, 2)), image()


@example(
    """
    4 exact: 0.weight[0] 0.bias[0] 2.weight[1]
    """
)
def pixel_unshuffle() -> Any:
    return nn.Sequential(conv(3, 4), nn.PixelUnshuffle(2), conv(16, 2)), image()


@example(
    """
    4 exact: a.weight[0] a.bias[0] b.weight[1]
    """
)
def unfolded() -> Any:
    """im2col and a matrix product: a convolution written out."""
    net = Net(lambda m, x: m.b(F.unfold(m.a(x), 3).transpose(1, 2)), a=conv(3, 4), b=nn.Linear(36, 5))
    return net, image()


@example(
    """
    4 exact: a.weight[0] a.bias[0] b.weight[1]
    """
)
def folded() -> Any:
    """Overlapping patches added up again: the channels come back."""
    net = Net(lambda m, x: m.b(F.fold(F.unfold(m.a(x), 3, padding=1), 6, 3, padding=1)), a=conv(3, 4), b=conv(4, 2))
    return net, image()


@example(
    """
    4 exact: a.weight[0] a.bias[0] b.weight[1]
    """
)
def sliding_windows() -> Any:
    """Blocks with a halo, as in HaloNet: windows along both axes of the image, summed."""
    net = Net(lambda m, x: m.b(m.a(x).unfold(2, 4, 2).unfold(3, 4, 2).sum((-1, -2))), a=conv(3, 4), b=conv(4, 2))
    return net, image()


@example(
    """
    6 exact: a.weight[0] a.bias[0] b.weight[0] b.bias[0] c.weight[1]
    3 exact: mix.weight[0] mix.bias[0] last.weight[1]
    """
)
def pointwise_along_a_stack() -> Any:
    """A kernel of one position leaves its axis alone: here the features, mixed over a stack of two."""
    net = Net(
        lambda m, x: m.last(m.c(m.mix(torch.stack([m.a(x), m.b(x)], 1)))),
        a=nn.Linear(4, 6), b=nn.Linear(4, 6), mix=nn.Conv1d(2, 3, 1), c=nn.Linear(6, 5), last=nn.Conv1d(3, 2, 5),
    )  # fmt: skip
    return net, torch.randn(3, 4)


@example(
    """
    6 exact: a.weight[0] a.bias[0] b.weight[0] b.bias[0] tower.weight[1]
    8 exact: tower.weight[0] tower.bias[0] head.weight[1]
    """
)
def shared_over_levels() -> Any:
    """One head on every level of a pyramid: the levels live and die together."""
    net = Net(
        lambda m, x: [m.head(m.tower(level)) for level in (m.a(x), m.b(F.max_pool2d(x, 2)))],
        a=conv(3, 6), b=conv(3, 6), tower=conv(6, 8, 3), head=conv(8, 2),
    )  # fmt: skip
    return net, image()


@example(
    """
    4 of 2 exact: a.weight[0] a.bias[0] g[0] v[0] v[1] out.weight[1]
    """
)
def grouped_convolution_with_a_computed_weight() -> Any:
    """Weight norm: the weight is made anew each time, so all groups have the same columns; its kernel stays."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        h = m.a(x)
        weight = m.g * m.v / m.v.norm(dim=(1, 2), keepdim=True)
        return m.out(h + F.conv1d(h, weight, padding=1, groups=2))

    parts = {"a": nn.Conv1d(3, 8, 1), "v": parameter(8, 4, 3), "g": parameter(8, 1, 1), "out": nn.Conv1d(8, 2, 1)}
    return Net(call, **parts), torch.randn(2, 3, 6)


@example(
    """
    6 exact: a.weight[0] a.bias[0] w[0] out.weight[1]
    """
)
def depthwise_convolution_with_a_computed_weight() -> Any:
    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m.out(F.conv1d(m.a(x), m.w.unsqueeze(1), padding=1, groups=6))

    return Net(call, a=nn.Conv1d(3, 6, 1), w=parameter(6, 3), out=nn.Conv1d(6, 2, 1)), torch.randn(2, 3, 7)


@example(
    """
    6 exact: a.weight[0] a.bias[0] out.weight[1]
    """
)
def pool_over_one_axis() -> Any:
    """Channels last, pooled along positions: a window of one index leaves its axis alone."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        h = F.avg_pool2d(m.a(x)[:, None], (2, 1), stride=(2, 1))
        return m.out(F.max_pool2d(h, [3, 1], [1, 1], [1, 0])[:, 0])

    return Net(call, a=nn.Linear(3, 6), out=nn.Linear(6, 2)), torch.randn(2, 8, 3)
