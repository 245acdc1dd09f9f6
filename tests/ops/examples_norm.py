"""Worked examples: normalization, activations with parameters, channel scales."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from .registry import Net, conv, example, image, parameter


@example(
    """
    6 exact: 0.weight[0] 0.bias[0] 1.weight[0] 1.bias[0] 1.running_mean[0] 1.running_var[0] 3.weight[1]
    """
)
def batch_norms() -> Any:
    return nn.Sequential(conv(3, 6), nn.BatchNorm2d(6), nn.ReLU(), conv(6, 2)), image()


@example(
    """
    6 renormalizing: 0.weight[0] 0.bias[0] 1.weight[0] 1.bias[0] 3.weight[1]
    """
)
def layer_norms() -> Any:
    return nn.Sequential(nn.Linear(3, 6), nn.LayerNorm(6), nn.GELU(), nn.Linear(6, 2)), torch.randn(4, 3)


@example(
    """
    4 renormalizing: 0.weight[0] 0.bias[0] 1.weight[0] 1.bias[0] 2.weight[1]
    """
)
def layer_norm_over_image() -> Any:
    return nn.Sequential(conv(3, 4), nn.LayerNorm([4, 6, 6]), conv(4, 2)), image()


@example(
    """
    6 renormalizing: 0.weight[0] 0.bias[0] 1.weight[0] 2.weight[1]
    """
)
def rms_norm() -> Any:
    return nn.Sequential(nn.Linear(3, 6), nn.RMSNorm(6), nn.Linear(6, 2)), torch.randn(4, 3)


@example(
    """
    6 renormalizing: a.weight[0] a.bias[0] weight[0] b.weight[1]
    """
)
def rms_norm_written_out() -> Any:
    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.a(x)
        return m.b(y * torch.rsqrt(y.pow(2).mean(-1, keepdim=True) + 1e-6) * m.weight)

    return Net(call, a=nn.Linear(3, 6), b=nn.Linear(6, 2), weight=parameter(6)), torch.randn(4, 3)


@example(
    """
    3x4 renormalizing: 0.weight[0] 0.bias[0] 1.weight[0] 1.bias[0] 2.weight[1]
    """
)
def group_norm() -> Any:
    return nn.Sequential(conv(3, 12), nn.GroupNorm(3, 12), conv(12, 2)), image()


@example(
    """
    3 of 4 renormalizing: 0.weight[0] 0.bias[0] 1.weight[0] 1.bias[0] 2.weight[1]
    """,
    grouped="whole",
)
def group_norm_whole() -> Any:
    return nn.Sequential(conv(3, 12), nn.GroupNorm(3, 12), conv(12, 2)), image()


@example(
    """
    6 renormalizing: 0.weight[0] 0.bias[0] 1.weight[0] 1.bias[0] 2.weight[1]
    """
)
def group_norm_of_one_group() -> Any:
    return nn.Sequential(conv(3, 6), nn.GroupNorm(1, 6), conv(6, 2)), image()


@example(
    """
    4x2 renormalizing: a.weight[0] a.bias[0] n1.weight[0] n1.bias[0] b.weight[0] b.weight[1] b.bias[0]
    + n2.weight[0] n2.bias[0] out.weight[1]
    """
)
def group_norms_of_different_counts() -> Any:
    """A residual stream under norms of 2 and of 4 groups: equal counts in each quarter serve both."""
    net = Net(
        lambda m, x: m.out(m.n2(m.b(m.n1(y := m.a(x)))) + y),
        a=conv(3, 8), b=conv(8, 8), n1=nn.GroupNorm(2, 8), n2=nn.GroupNorm(4, 8), out=conv(8, 2),
    )  # fmt: skip
    return net, image()


@example(
    """
    6 exact: 0.weight[0] 0.bias[0] 1.weight[0] 1.bias[0] 3.weight[1]
    """
)
def instance_norm() -> Any:
    return nn.Sequential(conv(3, 6, 3), nn.InstanceNorm2d(6, affine=True), nn.Tanh(), conv(6, 2)), image()


@example(
    """
    6 exact: 0.weight[0] 0.bias[0] 1.weight[0] 3.weight[1]
    """
)
def prelu() -> Any:
    return nn.Sequential(conv(3, 6), nn.PReLU(6), nn.PReLU(1), conv(6, 2)), image()


@example(
    """
    6 exact: a.weight[0] a.bias[0] b.weight[0] b.weight[1] b.bias[0] gamma[0] out.weight[1]
    """
)
def layer_scale() -> Any:
    net = Net(
        lambda m, x: m.out((y := m.a(x)) + m.gamma * m.b(y)),
        a=conv(3, 6), b=conv(6, 6), gamma=parameter(6, 1, 1), out=conv(6, 2),
    )  # fmt: skip
    return net, image()


@example(
    """
    8 exact: a.weight[0] a.bias[0] down.weight[1] up.weight[0] up.bias[0] out.weight[1]
    4 exact: down.weight[0] down.bias[0] up.weight[1]
    """
)
def squeeze_excite() -> Any:
    net = Net(
        lambda m, x: m.out((y := m.a(x)) * torch.sigmoid(m.up(F.relu(m.down(y.mean((2, 3), keepdim=True)))))),
        a=conv(3, 8), down=conv(8, 4), up=conv(4, 8), out=conv(8, 2),
    )  # fmt: skip
    return net, image()


@example(
    """
    6 of 2 exact: 0.weight[0] 0.bias[0] 2.weight[1]
    """
)
def gated() -> Any:
    return nn.Sequential(conv(3, 12), nn.GLU(1), conv(6, 2)), image()


@example(
    """
    6 renormalizing: 0.weight[0] 0.bias[0] 2.weight[1]
    """
)
def softmax_over_channels() -> Any:
    return nn.Sequential(conv(3, 6), nn.Softmax(1), conv(6, 2)), image()


@example(
    """
    6 renormalizing: a.weight[0] a.bias[0]
    5 renormalizing: b.weight[0] b.bias[0]
    """
)
def reductions() -> Any:
    """Sums are exact; a mean or a maximum over the channels renormalizes."""

    def call(m: Any, x: torch.Tensor) -> Any:
        y, z = m.a(x), m.b(x)
        return y.sum(1), z.amax(1), z.mean(1)

    return Net(call, a=conv(3, 6), b=conv(3, 5)), image()


@example(
    """
    6 exact: b.weight[0] b.bias[0] d.weight[1]
    """
)
def cumulative_products() -> Any:
    """Cumulative products mix the channels: they stay; those of the other branch may go."""
    net = Net(
        lambda m, x: (m.c(m.a(x).cumprod(1)), m.d(m.b(x).cumprod(2))),
        a=conv(3, 4),
        b=conv(3, 6),
        c=conv(4, 2),
        d=conv(6, 2),
    )
    return net, image()


@example(
    """
    6 exact: b.weight[0] b.bias[0] c.weight[1]
    """
)
def unknown_operator() -> Any:
    """A determinant has no rule: what it touches stays, the rest is pruned."""
    net = Net(lambda m, x: (torch.linalg.det(m.a(x)), m.c(m.b(x))), a=conv(3, 4), b=conv(3, 6), c=conv(6, 2))
    return net, image()


@example(
    """
    6 exact: a.weight[0] a.bias[0] b.weight[1]
    """
)
def filled() -> Any:
    """Random numbers shaped like a value do not hold its channels."""
    net = Net(lambda m, x: m.b(m.a(x) + 0 * torch.rand_like(x[:, :1])), a=conv(3, 6), b=conv(6, 2))
    return net, image()


def _standardised(weight: torch.Tensor) -> torch.Tensor:
    flat = weight.reshape(1, len(weight), -1)
    return F.batch_norm(flat, None, None, training=True).reshape_as(weight)


@example(
    """
    8 renormalizing: a.weight[0] a.bias[0] w[1]
    6 exact: w[0] b.weight[1]
    """
)
def weight_standardization() -> Any:
    """A filter is divided by a statistic over its own columns: rows go exactly, columns renormalize."""
    net = Net(
        lambda m, x: m.b(F.conv2d(m.a(x), _standardised(m.w), padding=1)),
        a=conv(3, 8), w=parameter(6, 8, 3, 3), b=conv(6, 2),
    )  # fmt: skip
    return net, image()


@example(
    """
    4 of 2 renormalizing: a.weight[0] a.bias[0] w[1]
    2x3 exact: w[0] b.weight[1]
    """
)
def weight_standardization_grouped() -> Any:
    """A computed weight has the same columns in every group."""
    net = Net(
        lambda m, x: m.b(F.conv2d(m.a(x), _standardised(m.w), groups=2)),
        a=conv(3, 8), w=parameter(6, 4, 1, 1), b=conv(6, 2),
    )  # fmt: skip
    return net, image()


@example(
    """
    4 of 2 exact: q.weight[0] k.weight[0]
    3 of 2 renormalizing: v.weight[0] norm.weight[0] norm.bias[0] gate.weight[0] out.weight[1]
    """
)
def group_norm_of_heads() -> Any:
    """Retention: each head is one group of the norm, so that heads stay, and lose the same part of their width."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (p(x).unflatten(-1, (2, -1)).transpose(1, 2) for p in (m.q, m.k, m.v))
        decay = m.decay[:, None, None] ** torch.ones(4, 4).tril()
        y = (q @ k.transpose(-1, -2) * decay) @ v
        y = m.norm(y.transpose(1, 2).reshape(8, 6)).view(2, 4, 6)
        return m.out(y * F.silu(m.gate(x)))

    names = ("q", 8), ("k", 8), ("v", 6), ("gate", 6)
    parts: dict[str, Any] = {name: nn.Linear(5, wide, bias=False) for name, wide in names}
    decay = torch.tensor([0.5, 0.7])
    return Net(call, **parts, norm=nn.GroupNorm(2, 6), out=nn.Linear(6, 2), decay=decay), torch.randn(2, 4, 5)


@example(
    """
    4x2 exact: a.weight[0] a.bias[0] b.weight[1]
    """
)
def shuffled_groups() -> Any:
    """One channel from each group to each group leaves nothing to remove; the layers around are pruned."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.b(m.a(x))
        y = y.view(2, 4, 4, 6, 6).transpose(1, 2).reshape(2, 16, 6, 6)
        return m.c(y)

    return Net(call, a=conv(3, 8), b=conv(8, 16, groups=4), c=conv(16, 4, groups=4)), image()


@example(
    """
    4 of 9 exact: a.weight[0] a.bias[0] b.weight[1] constant_arange[0]
    """
)
def instance_norm_behind_a_linear_layer() -> Any:
    """Channels made with their positions are no groups; the weight's own norm, by a flattened axis, stays as it is."""

    def forward(m: Any, x: torch.Tensor) -> torch.Tensor:
        h = F.relu(nn.functional.instance_norm(m.a(x).unflatten(1, (4, 3, 3))))
        return F.conv2d(h, m.b.weight / m.b.weight.flatten(1).mv(torch.arange(1.0, 17.0)).sum())

    return Net(forward, a=nn.Linear(5, 36), b=conv(4, 2, 2)), torch.randn(2, 5)
