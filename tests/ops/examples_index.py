"""Worked examples: operators that join, pick and move indices."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from .registry import Net, conv, example, image


@example()
def residual() -> Any:
    net = Net(lambda m, x: m.out(F.relu(m.c(m.b(y := m.a(x))) + y)), a=conv(3, 6), b=conv(6, 4), c=conv(4, 6), out=conv(6, 2))
    return net, image()


@example()
def dense() -> Any:
    """Concatenated features: each producer keeps its own group, consumers see them in order."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.a(x)
        y = torch.cat([y, m.b(y)], 1)
        return m.out(torch.cat([y, m.c(y)], 1))

    return Net(call, a=conv(3, 4), b=conv(4, 3), c=conv(7, 5), out=conv(12, 2)), image()


@example()
def concat_with_itself() -> Any:
    return Net(lambda m, x: m.out(torch.cat([y := m.a(x), y], 1)), a=conv(3, 4), out=conv(8, 2)), image()


@example()
def concat_of_residuals() -> Any:
    """Added after a concat: pieces of the sum live with pieces of the parts."""
    net = Net(lambda m, x: m.out(torch.cat([m.a(x), m.b(x)], 1) + m.c(x)), a=conv(3, 2), b=conv(3, 4), c=conv(3, 6), out=conv(6, 2))
    return net, image()


@example()
def split_and_work() -> Any:
    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        left, right = torch.split(m.a(x), [2, 4], 1)
        return m.out(torch.cat([m.b(left), right], 1))

    return Net(call, a=conv(3, 6), b=conv(2, 3), out=conv(7, 2)), image()


@example()
def chunk_gate() -> Any:
    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        left, right = m.a(x).chunk(2, 1)
        return m.out(left * torch.sigmoid(right))

    return Net(call, a=conv(3, 12), out=conv(6, 2)), image()


@example()
def focus() -> Any:
    """Strided slices of the image, concatenated: one channel becomes four."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.a(x)
        return m.out(torch.cat([y[..., ::2, ::2], y[..., 1::2, ::2], y[..., ::2, 1::2], y[..., 1::2, 1::2]], 1))

    return Net(call, a=conv(3, 4), out=conv(16, 2)), image()


@example()
def patch_merging() -> Any:
    """As in Swin: channels last, a norm over the four neighbors."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.a(x).permute(0, 2, 3, 1)
        y = torch.cat([y[:, 0::2, 0::2], y[:, 1::2, 0::2], y[:, 0::2, 1::2], y[:, 1::2, 1::2]], -1)
        return m.reduce(m.norm(y))

    return Net(call, a=conv(3, 4), norm=nn.LayerNorm(16), reduce=nn.Linear(16, 5)), image()


@example()
def strided_channels() -> Any:
    """Even channels one way, odd ones the other."""
    net = Net(lambda m, x: (m.b((y := m.a(x))[:, ::2]), m.c(y[:, 1::2])), a=conv(3, 8), b=conv(4, 2), c=conv(4, 2))
    return net, image()


@example()
def gathered() -> Any:
    """Channels by constant indices: permuted, one of them twice."""
    net = Net(lambda m, x: m.out(m.a(x)[:, [4, 0, 3, 1, 2, 0]]), a=conv(3, 5), out=conv(6, 2))
    return net, image()


@example()
def flipped() -> Any:
    """Channel j meets channel n-1-j."""
    return Net(lambda m, x: m.out(m.a(x).flip(1) + m.b(x)), a=conv(3, 6), b=conv(3, 6), out=conv(6, 2)), image()


@example()
def rolled() -> Any:
    return Net(lambda m, x: m.out(m.a(x).roll(2, 1) * m.b(x)), a=conv(3, 6), b=conv(3, 6), out=conv(6, 2)), image()


@example()
def padded_shortcut() -> Any:
    """Option A of the ResNet paper: the shortcut grows by zero channels, which may go as well."""
    net = Net(
        lambda m, x: m.out(F.pad((y := m.a(x))[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)) + m.b(y)),
        a=conv(3, 4), b=conv(4, 8, 3, stride=2), out=conv(8, 2),
    )  # fmt: skip
    return net, image()


@example()
def cropped() -> Any:
    return Net(lambda m, x: m.out(F.pad(m.a(x), (0, 0, 0, 0, -1, -2))), a=conv(3, 8), out=conv(5, 2)), image()


@example()
def stacked() -> Any:
    """Branches on a new axis, weighed and summed."""
    net = Net(
        lambda m, x: m.out((torch.stack([m.a(x), m.b(x)], 1) * m.weights.softmax(0)[:, None, None, None]).sum(1)),
        a=conv(3, 6), b=conv(3, 6), out=conv(6, 2), weights=nn.Parameter(torch.randn(2)),
    )  # fmt: skip
    return net, image()


@example()
def unbound() -> Any:
    """Pieces along an axis that a reshape made: the other factor stays free."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        a, b, c = m.a(x).unflatten(1, (3, 4)).unbind(1)
        return m.out(a * b + c)

    return Net(call, a=conv(3, 12), out=conv(4, 2)), image()


@example()
def picked() -> Any:
    """A channel picked by number stays, and so do its fellows."""
    return Net(lambda m, x: (m.a(x)[:, 2], m.c(m.b(x))), a=conv(3, 4), b=conv(3, 6), c=conv(6, 2)), image()


@example()
def class_token() -> Any:
    """A learned token before the patches, positions added, the first token read out."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        t = m.patch(x).flatten(2).transpose(1, 2)
        t = torch.cat([m.token.expand(t.shape[0], -1, -1), t], 1) + m.positions
        return m.head(m.norm(t)[:, 0])

    net = Net(
        call,
        patch=nn.Conv2d(3, 8, 2, 2), token=nn.Parameter(torch.randn(1, 1, 8)),
        positions=nn.Parameter(torch.randn(1, 10, 8)), norm=nn.LayerNorm(8), head=nn.Linear(8, 2),
    )  # fmt: skip
    return net, image()


@example()
def overwritten() -> Any:
    """A slice of channels replaced by others."""
    net = Net(lambda m, x: m.out(torch.slice_scatter(m.a(x), m.b(x), 1, 1, 4)), a=conv(3, 6), b=conv(3, 3), out=conv(6, 2))
    return net, image()
