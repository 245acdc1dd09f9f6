"""Worked examples: attention in the forms in which people write it."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from .registry import Net, example, parameter

WIDTH, HEADS, DIM = 12, 4, 3


def tokens() -> torch.Tensor:
    return torch.randn(2, 5, WIDTH)


def split_heads(x: torch.Tensor, heads: int = HEADS) -> torch.Tensor:
    return x.view(*x.shape[:2], heads, -1).transpose(1, 2)


def joined(x: torch.Tensor) -> torch.Tensor:
    return x.transpose(1, 2).flatten(2)


def written_out(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, bias: Any = 0.0) -> torch.Tensor:
    return (q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5 + bias).softmax(-1) @ v


def linear(inside: int, outside: int) -> nn.Linear:
    return nn.Linear(inside, outside)


@example(
    """
    4 of 3 exact: q.weight[0] q.bias[0] k.weight[0] k.bias[0] v.weight[0] v.bias[0] out.weight[1]
    """
)
def three_projections() -> Any:
    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (split_heads(p(x)) for p in (m.q, m.k, m.v))
        return m.out(joined(F.scaled_dot_product_attention(q, k, v)))

    return Net(call, q=linear(WIDTH, 12), k=linear(WIDTH, 12), v=linear(WIDTH, 12), out=linear(12, 2)), tokens()


@example(
    """
    4 of 3 exact: q.weight[0] q.bias[0] k.weight[0] k.bias[0] v.weight[0] v.bias[0] out.weight[1]
    """
)
def three_projections_written_out() -> Any:
    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m.out(joined(written_out(*(split_heads(p(x)) for p in (m.q, m.k, m.v)))))

    return Net(call, q=linear(WIDTH, 12), k=linear(WIDTH, 12), v=linear(WIDTH, 12), out=linear(12, 2)), tokens()


@example(
    """
    4 of 9 exact: qkv.weight[0] qkv.bias[0] out.weight[1]
    """
)
def fused_by_chunk() -> Any:
    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (split_heads(p) for p in m.qkv(x).chunk(3, -1))
        return m.out(joined(F.scaled_dot_product_attention(q, k, v)))

    return Net(call, qkv=linear(WIDTH, 36), out=linear(12, 2)), tokens()


@example(
    """
    4 of 9 exact: qkv.weight[0] qkv.bias[0] out.weight[1]
    """
)
def fused_three_heads_dim() -> Any:
    """timm's order: (3, heads, dim)."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        q, k, v = m.qkv(x).reshape(2, 5, 3, HEADS, DIM).permute(2, 0, 3, 1, 4).unbind(0)
        return m.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 5, 12))

    return Net(call, qkv=linear(WIDTH, 36), out=linear(12, 2)), tokens()


@example(
    """
    4 of 9 exact: qkv.weight[0] qkv.bias[0] out.weight[1]
    """
)
def fused_heads_three_dim() -> Any:
    """The order of GPT-NeoX: (heads, 3, dim)."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        qkv = m.qkv(x).view(2, 5, HEADS, 3, DIM).permute(3, 0, 2, 1, 4)
        return m.out(joined(written_out(qkv[0], qkv[1], qkv[2])))

    return Net(call, qkv=linear(WIDTH, 36), out=linear(12, 2)), tokens()


@example(
    """
    8 exact: inp.weight[0] inp.bias[0] attention.in_proj_weight[1]
    4 of 6 exact: attention.in_proj_weight[0] attention.in_proj_bias[0] attention.out_proj.weight[1]
    8 exact: attention.out_proj.weight[0] attention.out_proj.bias[0] out.weight[1]
    """
)
def module_attention() -> Any:
    net = Net(
        lambda m, x: m.out(m.attention(y := m.inp(x), y, y, need_weights=False)[0]),
        inp=linear(WIDTH, 8), attention=nn.MultiheadAttention(8, 4, batch_first=True), out=linear(8, 2),
    )  # fmt: skip
    return net, tokens()


@example(
    """
    2 of 6 exact: q.weight[0] q.bias[0] k.weight[0] k.bias[0] v.weight[0] v.bias[0] out.weight[1]
    """
)
def grouped_queries() -> Any:
    """Two key and value heads serve four query heads: one goes with the pair it serves."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        q, k, v = split_heads(m.q(x)), split_heads(m.k(x), 2), split_heads(m.v(x), 2)
        return m.out(joined(F.scaled_dot_product_attention(q, k, v, enable_gqa=True)))

    return Net(call, q=linear(WIDTH, 12), k=linear(WIDTH, 6), v=linear(WIDTH, 6), out=linear(12, 2)), tokens()


@example(
    """
    2 of 6 exact: q.weight[0] q.bias[0] k.weight[0] k.bias[0] v.weight[0] v.bias[0] out.weight[1]
    """
)
def grouped_queries_repeated() -> Any:
    """The same with the key and value heads repeated by hand, as LLaMA does."""

    def repeat(x: torch.Tensor) -> torch.Tensor:
        return x[:, :, None].expand(2, 2, 2, 5, DIM).reshape(2, 4, 5, DIM)

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        q, k, v = split_heads(m.q(x)), repeat(split_heads(m.k(x), 2)), repeat(split_heads(m.v(x), 2))
        return m.out(joined(written_out(q, k, v)))

    return Net(call, q=linear(WIDTH, 12), k=linear(WIDTH, 6), v=linear(WIDTH, 6), out=linear(12, 2)), tokens()


@example(
    """
    4 of 3 exact: q.weight[0] q.bias[0] out.weight[1]
    """
)
def multi_query() -> Any:
    """One key and value head for all queries."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        q, k, v = split_heads(m.q(x)), split_heads(m.k(x), 1), split_heads(m.v(x), 1)
        return m.out(joined(written_out(q, k, v)))

    return Net(call, q=linear(WIDTH, 12), k=linear(WIDTH, 3), v=linear(WIDTH, 3), out=linear(12, 2)), tokens()


@example(
    """
    4 of 9 exact: qkv.weight[0] qkv.bias[0] table[1] out.weight[1]
    """
)
def relative_position_bias() -> Any:
    """A bias per head, looked up by constant indices: the table loses columns with the heads."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (split_heads(p) for p in m.qkv(x).chunk(3, -1))
        bias = m.table[m.index].view(5, 5, HEADS).permute(2, 0, 1)
        return m.out(joined(written_out(q, k, v, bias[None])))

    index = (torch.arange(5)[:, None] - torch.arange(5) + 4).flatten()
    return Net(call, qkv=linear(WIDTH, 36), out=linear(12, 2), table=parameter(9, HEADS), index=index), tokens()


@example(
    """
    4 of 9 exact: qkv.weight[0] qkv.bias[0] out.weight[1]
    """
)
def attention_of_images() -> Any:
    """Heads split from channels, positions merged: attention on feature maps."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        q, k, v = m.qkv(x).view(2, HEADS, 3 * DIM, 16).split(DIM, 2)
        return m.out((v @ (q.transpose(-2, -1) @ k).softmax(-1).transpose(-2, -1)).view(2, 12, 4, 4))

    return Net(call, qkv=nn.Conv2d(3, 36, 1), out=nn.Conv2d(12, 2, 1)), torch.randn(2, 3, 4, 4)


@example(
    """
    12 renormalizing: inp.weight[0] inp.bias[0] norm.weight[0] norm.bias[0] qkv.weight[1] proj.weight[0]
    + proj.bias[0] out.weight[1]
    4 of 9 exact: qkv.weight[0] qkv.bias[0] table[1] proj.weight[1]
    """
)
def window_attention() -> Any:
    """A Swin block: windows cut by reshape and roll, residual stream around."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.norm(x := m.inp(x)).roll((-1, -1), (1, 2))
        y = y.view(2, 2, 2, 2, 2, 12).permute(0, 1, 3, 2, 4, 5).reshape(8, 4, 12)
        q, k, v = m.qkv(y).reshape(8, 4, 3, HEADS, DIM).permute(2, 0, 3, 1, 4)
        bias = m.table[m.index].view(4, 4, HEADS).permute(2, 0, 1)
        y = m.proj(joined(written_out(q, k, v, bias[None])))
        y = y.view(2, 2, 2, 2, 2, 12).permute(0, 1, 3, 2, 4, 5).reshape(2, 4, 4, 12)
        return m.out(x + y.roll((1, 1), (1, 2)))

    net = Net(
        call,
        inp=linear(3, 12), norm=nn.LayerNorm(12), qkv=linear(12, 36), proj=linear(12, 12), out=linear(12, 2),
        table=parameter(9, HEADS), index=torch.randint(0, 9, (16,)),
    )  # fmt: skip
    return net, torch.randn(2, 4, 4, 3)


@example(
    """
    4 of 9 exact: qkv.weight[0] qkv.bias[0] up.weight[0] logit_scale[0] out.weight[1]
    8 exact: down.weight[0] down.bias[0] up.weight[1]
    """
)
def window_attention_cosine() -> Any:
    """Swin v2: normalized queries and keys, a learned factor per head, a bias made by a small network."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        q, k, v = m.qkv(x).reshape(2, 5, 3, HEADS, DIM).permute(2, 0, 3, 1, 4)
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).transpose(-2, -1)
        bias = 16 * torch.sigmoid(m.up(torch.relu(m.down(m.places)))[m.index].view(5, 5, HEADS).permute(2, 0, 1))
        scores = scores * torch.clamp(m.logit_scale, max=4.6).exp() + bias[None]
        return m.out(joined(scores.softmax(-1) @ v))

    net = Net(
        call,
        qkv=linear(12, 36), out=linear(12, 2), down=linear(2, 8), up=nn.Linear(8, HEADS, bias=False),
        logit_scale=parameter(HEADS, 1, 1), places=torch.randn(9, 2), index=torch.randint(0, 9, (25,)),
    )  # fmt: skip
    return net, tokens()


@example(
    """
    3 of 4 exact: q.weight[0] q.bias[0] k.weight[0] k.bias[0] v.weight[0] v.bias[0] out.weight[1]
    """
)
def rotary() -> Any:
    """Rotary positions turn each head's halves into one another; heads stay free."""

    def turn(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        left, right = x.chunk(2, -1)
        return x * cos + torch.cat([-right, left], -1) * sin

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (split_heads(p(x), 3) for p in (m.q, m.k, m.v))
        return m.out(joined(written_out(turn(q, m.cos, m.sin), turn(k, m.cos, m.sin), v)))

    angles = torch.randn(5, 2).repeat(1, 2)
    parts = {"cos": angles.cos(), "sin": angles.sin()}
    return Net(
        call, q=linear(WIDTH, 12), k=linear(WIDTH, 12), v=linear(WIDTH, 12), out=linear(12, 2), **parts
    ), tokens()


@example(
    """
    4 of 3 exact: slopes[0] q.weight[0] q.bias[0] k.weight[0] k.bias[0] v.weight[0] v.bias[0] out.weight[1]
    """
)
def slopes_made_before_the_heads() -> Any:
    """ALiBi: a constant for each head that the graph has first; heads may go all the same, since weights make them."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        bias = m.slopes[:, None, None] * x.sum(-1).cumsum(-1)[:, None, None]
        q, k, v = (split_heads(p(x)) for p in (m.q, m.k, m.v))
        return m.out(joined(written_out(q, k, v, bias)))

    slopes = torch.tensor([0.5, 0.25, 0.125, 0.0625])
    parts = {"q": linear(WIDTH, 12), "k": linear(WIDTH, 12), "v": linear(WIDTH, 12), "out": linear(12, 2)}
    return Net(call, slopes=slopes, **parts), tokens()


@example(
    """
    4 exact: a.weight[0] a.bias[0] qkv.weight[1]
    3 of 12 exact: qkv.weight[0] qkv.bias[0] bias[1] out.weight[1]
    """
)
def one_bias_for_queries_keys_and_values() -> Any:
    """Of three factors, labeled alike in a parameter, the heads go: neither queries as a whole, nor a part of each."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (m.qkv(torch.relu(m.a(x))).view(2, 5, 3, 3, 4) + m.bias).permute(2, 0, 3, 1, 4).unbind(0)
        return m.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))

    net = Net(
        call, a=nn.Linear(6, 4), qkv=nn.Linear(4, 36), bias=nn.Parameter(torch.randn(3, 3, 4)), out=nn.Linear(12, 2)
    )
    return net, torch.randn(2, 5, 6)
