"""Worked examples: operators that join, pick and move indices."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from .examples_onnx import model, node, normal
from .registry import Net, conv, example, image


@example(
    """
    6 exact: a.weight[0] a.bias[0] b.weight[1] c.weight[0] c.bias[0] out.weight[1]
    4 exact: b.weight[0] b.bias[0] c.weight[1]
    """
)
def residual() -> Any:
    net = Net(
        lambda m, x: m.out(F.relu(m.c(m.b(y := m.a(x))) + y)), a=conv(3, 6), b=conv(6, 4), c=conv(4, 6), out=conv(6, 2)
    )
    return net, image()


@example(
    """
    4 exact: a.weight[0] a.bias[0] b.weight[1] c.weight[1] out.weight[1]
    3 exact: b.weight[0] b.bias[0] c.weight[1] out.weight[1]
    5 exact: c.weight[0] c.bias[0] out.weight[1]
    """
)
def dense() -> Any:
    """Concatenated features: each producer keeps its own group, consumers see them in order."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.a(x)
        y = torch.cat([y, m.b(y)], 1)
        return m.out(torch.cat([y, m.c(y)], 1))

    return Net(call, a=conv(3, 4), b=conv(4, 3), c=conv(7, 5), out=conv(12, 2)), image()


@example(
    """
    4 exact: a.weight[0] a.bias[0] out.weight[1]
    """
)
def concat_with_itself() -> Any:
    return Net(lambda m, x: m.out(torch.cat([y := m.a(x), y], 1)), a=conv(3, 4), out=conv(8, 2)), image()


@example(
    """
    2 exact: a.weight[0] a.bias[0] c.weight[0] c.bias[0] out.weight[1]
    4 exact: b.weight[0] b.bias[0] c.weight[0] c.bias[0] out.weight[1]
    """
)
def concat_of_residuals() -> Any:
    """Added after a concat: pieces of the sum live with pieces of the parts."""
    net = Net(
        lambda m, x: m.out(torch.cat([m.a(x), m.b(x)], 1) + m.c(x)),
        a=conv(3, 2),
        b=conv(3, 4),
        c=conv(3, 6),
        out=conv(6, 2),
    )
    return net, image()


@example(
    """
    6 exact: a.weight[0] a.bias[0] b.weight[1] out.weight[1]
    3 exact: b.weight[0] b.bias[0] out.weight[1]
    """
)
def split_and_work() -> Any:
    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        left, right = torch.split(m.a(x), [2, 4], 1)
        return m.out(torch.cat([m.b(left), right], 1))

    return Net(call, a=conv(3, 6), b=conv(2, 3), out=conv(7, 2)), image()


@example(
    """
    6 of 2 exact: a.weight[0] a.bias[0] out.weight[1]
    """
)
def chunk_gate() -> Any:
    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        left, right = m.a(x).chunk(2, 1)
        return m.out(left * torch.sigmoid(right))

    return Net(call, a=conv(3, 12), out=conv(6, 2)), image()


@example(
    """
    4 exact: a.weight[0] a.bias[0] out.weight[1]
    """
)
def focus() -> Any:
    """Strided slices of the image, concatenated: one channel becomes four."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.a(x)
        return m.out(torch.cat([y[..., ::2, ::2], y[..., 1::2, ::2], y[..., ::2, 1::2], y[..., 1::2, 1::2]], 1))

    return Net(call, a=conv(3, 4), out=conv(16, 2)), image()


@example(
    """
    4 renormalizing: a.weight[0] a.bias[0] norm.weight[0] norm.bias[0] reduce.weight[1]
    """
)
def patch_merging() -> Any:
    """As in Swin: channels last, a norm over the four neighbors."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.a(x).permute(0, 2, 3, 1)
        y = torch.cat([y[:, 0::2, 0::2], y[:, 1::2, 0::2], y[:, 0::2, 1::2], y[:, 1::2, 1::2]], -1)
        return m.reduce(m.norm(y))

    return Net(call, a=conv(3, 4), norm=nn.LayerNorm(16), reduce=nn.Linear(16, 5)), image()


@example(
    """
    8 exact: a.weight[0] a.bias[0] b.weight[1] c.weight[1]
    """
)
def strided_channels() -> Any:
    """Even channels one way, odd ones the other."""
    net = Net(lambda m, x: (m.b((y := m.a(x))[:, ::2]), m.c(y[:, 1::2])), a=conv(3, 8), b=conv(4, 2), c=conv(4, 2))
    return net, image()


@example(
    """
    5 exact: a.weight[0] a.bias[0] out.weight[1]
    """
)
def gathered() -> Any:
    """Channels by constant indices: permuted, one of them twice."""
    net = Net(lambda m, x: m.out(m.a(x)[:, [4, 0, 3, 1, 2, 0]]), a=conv(3, 5), out=conv(6, 2))
    return net, image()


@example(
    """
    6 exact: a.weight[0] a.bias[0] b.weight[0] b.bias[0] out.weight[1]
    """
)
def flipped() -> Any:
    """Channel j meets channel n-1-j."""
    return Net(lambda m, x: m.out(m.a(x).flip(1) + m.b(x)), a=conv(3, 6), b=conv(3, 6), out=conv(6, 2)), image()


@example(
    """
    6 exact: a.weight[0] a.bias[0] b.weight[0] b.bias[0] out.weight[1]
    """
)
def rolled() -> Any:
    return Net(lambda m, x: m.out(m.a(x).roll(2, 1) * m.b(x)), a=conv(3, 6), b=conv(3, 6), out=conv(6, 2)), image()


@example(
    """
    4 exact: a.weight[0] a.bias[0] b.weight[0] b.weight[1] b.bias[0] out.weight[1]
    4 exact: b.weight[0] b.bias[0] out.weight[1]
    """
)
def padded_shortcut() -> Any:
    """Option A of the ResNet paper: the shortcut grows by zero channels, which may go as well."""
    net = Net(
        lambda m, x: m.out(F.pad((y := m.a(x))[:, :, ::2, ::2], (0, 0, 0, 0, 2, 2)) + m.b(y)),
        a=conv(3, 4), b=conv(4, 8, 3, stride=2), out=conv(8, 2),
    )  # fmt: skip
    return net, image()


@example(
    """
    8 exact: a.weight[0] a.bias[0] out.weight[1]
    """
)
def cropped() -> Any:
    return Net(lambda m, x: m.out(F.pad(m.a(x), (0, 0, 0, 0, -1, -2))), a=conv(3, 8), out=conv(5, 2)), image()


@example(
    """
    6 exact: a.weight[0] a.bias[0] b.weight[0] b.bias[0] out.weight[1]
    """
)
def stacked() -> Any:
    """Branches on a new axis, weighed and summed."""
    net = Net(
        lambda m, x: m.out((torch.stack([m.a(x), m.b(x)], 1) * m.weights.softmax(0)[:, None, None, None]).sum(1)),
        a=conv(3, 6), b=conv(3, 6), out=conv(6, 2), weights=nn.Parameter(torch.randn(2)),
    )  # fmt: skip
    return net, image()


@example(
    """
    4 of 3 exact: a.weight[0] a.bias[0] out.weight[1]
    """
)
def unbound() -> Any:
    """Pieces along an axis that a reshape made: the other factor stays free."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        a, b, c = m.a(x).unflatten(1, (3, 4)).unbind(1)
        return m.out(a * b + c)

    return Net(call, a=conv(3, 12), out=conv(4, 2)), image()


@example(
    """
    6 exact: b.weight[0] b.bias[0] c.weight[1]
    """
)
def picked() -> Any:
    """A channel picked by number stays, and so do its fellows."""
    return Net(lambda m, x: (m.a(x)[:, 2], m.c(m.b(x))), a=conv(3, 4), b=conv(3, 6), c=conv(6, 2)), image()


@example(
    """
    8 renormalizing: patch.weight[0] patch.bias[0] token[2] positions[2] norm.weight[0] norm.bias[0]
    + head.weight[1]
    """
)
def class_token() -> Any:
    """A learned token before the patches, positions added, one token read out."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        t = m.patch(x).flatten(2).transpose(1, 2)
        t = torch.cat([m.token.expand(t.shape[0], -1, -1), t], 1) + m.positions
        return m.head(m.norm(t)[:, 1])

    net = Net(
        call,
        patch=nn.Conv2d(3, 8, 2, 2), token=nn.Parameter(torch.randn(1, 1, 8)),
        positions=nn.Parameter(torch.randn(1, 10, 8)), norm=nn.LayerNorm(8), head=nn.Linear(8, 2),
    )  # fmt: skip
    return net, image()


@example(
    """
    6 exact: a.weight[0] a.bias[0] b.weight[0] b.bias[0] out.weight[1]
    """
)
def overwritten() -> Any:
    """A slice of channels replaced by others."""
    net = Net(
        lambda m, x: m.out(torch.slice_scatter(m.a(x), m.b(x), 1, 1, 4)), a=conv(3, 6), b=conv(3, 3), out=conv(6, 2)
    )
    return net, image()


def _modulated(pick: Any) -> Any:
    """A table of three rows plus three numbers for each channel, made from a condition: shift, scale and gate."""

    def call(m: Any, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        shift, scale, gate = pick(m.table[None] + m.t(t).reshape(2, 3, -1))
        x = m.a(x)
        return m.out(x + gate * m.b(x * (1 + scale) + shift))

    table = nn.Parameter(torch.randn(3, 8))
    parts = {"t": nn.Linear(4, 24), "a": nn.Linear(5, 8), "b": nn.Linear(8, 8), "out": nn.Linear(8, 2)}
    return Net(call, table=table, **parts), (torch.randn(2, 6, 5), torch.randn(2, 4))


@example(
    """
    8 of 3 exact: table[1] t.weight[0] t.bias[0] a.weight[0] a.bias[0] b.weight[0] b.weight[1] b.bias[0] out.weight[1]
    """
)
def modulation_in_pieces() -> Any:
    """Channels of the residual stream go, not the shift, the scale or the gate, though each of these could."""
    return _modulated(lambda made: made.chunk(3, 1))


@example(
    """
    8 of 3 exact: table[1] t.weight[0] t.bias[0] a.weight[0] a.bias[0] b.weight[0] b.weight[1] b.bias[0] out.weight[1]
    """
)
def modulation_index_by_index() -> Any:
    """The same where each is picked by its index."""
    return _modulated(lambda made: [made[:, i : i + 1] for i in range(2)] + [made[:, 2].unsqueeze(1)])


@example("8 of 3 exact: t[1] table[1] a[1] b[0] b[1] c[0]")
def onnx_modulation() -> Any:
    """The same in an ONNX file."""
    nodes = [
        node("MatMul", "x t", "made"),
        node("Reshape", "made apart", "rows"),
        node("Add", "rows table", "m"),
        node("Split", "m", "shift scale gate", axis=1),
        node("MatMul", "x a", "i"),
        node("Reshape", "i one", "h"),
        node("Mul", "h scale", "scaled"),
        node("Add", "scaled shift", "shifted"),
        node("MatMul", "shifted b", "j"),
        node("Mul", "j gate", "gated"),
        node("Add", "h gated", "sum"),
        node("MatMul", "sum c", "y"),
    ]
    weights = {"t": normal(5, 24), "table": normal(3, 8), "a": normal(5, 8), "b": normal(8, 8), "c": normal(8, 2)}
    return model(nodes, {**weights, "apart": [2, 3, 8], "one": [2, 1, 8]}, [2, 5], [2, 1, 2], 13)


@example("16 of 4 exact: made.weight[0] made.bias[0] a.weight[0] a.bias[0]")
def weights_made_for_each_sample() -> Any:
    """A matrix for each sample, as a layer makes it: its columns go with what they meet, which frees more than rows."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        weight = m.made(x).view(-1, 4, 16)
        return m.out(torch.bmm(weight, torch.relu(m.a(x)).unsqueeze(-1)).squeeze(-1))

    return Net(call, made=nn.Linear(8, 64), a=nn.Linear(8, 16), out=nn.Linear(4, 2)), torch.randn(3, 8)
