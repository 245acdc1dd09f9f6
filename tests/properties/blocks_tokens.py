"""Blocks that see a feature map as tokens: attention in its many forms, gated MLPs, experts, scans, embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .blocks import WIDTHS, block, heads_of, make_linear, pick, tokens, untokens


def norm(o: Any, t: Any, at: int) -> Any:
    """A layer or RMS norm over the last axis."""
    c = o.shape(t)[-1]
    scale = o.weight(c, scale=0.3, offset=1.0)
    return o.rms_norm(t, scale) if at % 2 else o.layer_norm(t, scale, o.weight(c, scale=0.3))


def merged(o: Any, y: Any) -> Any:
    """Heads back beside each other: `[N, heads, L, d]` to `[N, L, heads * d]`."""
    n, heads, length, width = o.shape(y)
    return o.reshape(o.transpose(y, (0, 2, 1, 3)), (n, length, heads * width))


def projections(o: Any, t: Any, source: Any, heads: int, shared: int, width: int) -> tuple[Any, Any, Any]:
    q = heads_of(o, make_linear(o, t, heads * width), heads)
    k, v = (heads_of(o, make_linear(o, source, shared * width), shared) for _ in range(2))
    return q, k, v


@block
def grouped_attention(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """Fewer key and value heads than query heads: repeated, or left to the operator; down to one."""
    t = norm(o, tokens(o, x), a)
    shared, times = pick((2, 3, 1), b), pick((2, 3), a)
    q, k, v = projections(o, t, t, shared * times, shared, pick((2, 4), a))
    if b % 2:
        k, v = (o.repeat_interleave(part, 1, times) for part in (k, v))
    y = o.softmax_attention(q, k, v, grouped=b % 2 == 0)
    return o.binary("add", x, untokens(o, make_linear(o, merged(o, y), o.shape(t)[2]), x))


@block
def cross_attention(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """Keys and values from an earlier map, of whatever size."""
    heads, t = pick((2, 3, 4), a), tokens(o, x)
    q, k, v = projections(o, t, tokens(o, pick(past or [x], b)), heads, heads, 2)
    y = make_linear(o, merged(o, o.softmax_attention(q, k, v)), o.shape(t)[2])
    return untokens(o, o.binary("add", t, y) if a % 2 else y, x)


@block
def biased_attention(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """A bias for each head: learned, looked up in a table by relative position, slopes (ALiBi), or a causal mask."""
    heads, t = pick((2, 4, 3), a), tokens(o, x)
    length = o.shape(t)[1]
    q, k, v = projections(o, t, t, heads, heads, 4)
    distance = np.abs(np.arange(length)[:, None] - np.arange(length)[None, :])
    if b % 4 == 0:
        mask = o.weight(heads, length, length, scale=1.0)
    elif b % 4 == 1:
        table = o.table(o.weight(length, heads, scale=1.0), 0, distance)
        mask = o.transpose(table, (2, 0, 1))
    elif b % 4 == 2:
        mask = o.binary("mul", o.constant(-distance[None].astype(np.float32)), o.weight(heads, 1, 1, scale=0.5))
    else:
        causal = np.where(np.tri(length, dtype=bool), 0.0, -1e4).astype(np.float32)
        mask = o.constant(causal[None])
    wide = o.reshape(mask, (1, *o.shape(mask)))
    y = o.softmax_attention(q, k, v, wide)
    return untokens(o, make_linear(o, merged(o, y), o.shape(t)[2]), x)


def _rotated(o: Any, x: Any, interleaved: bool) -> Any:
    """Rotary embedding by cos and sin tables; half by half, or pair by pair."""
    length, width = o.shape(x)[2:]
    angle = np.arange(length)[:, None] * 0.7 ** np.arange(width // 2)[None, :]
    angle = np.repeat(angle, 2, axis=1) if interleaved else np.concatenate([angle, angle], axis=1)
    cos, sin = (o.constant(fn(angle)[None, None].astype(np.float32)) for fn in (np.cos, np.sin))
    if interleaved:
        n, heads = o.shape(x)[:2]
        pairs = o.reshape(x, (n, heads, length, width // 2, 2))
        even, odd = o.select(pairs, 4, 0), o.select(pairs, 4, 1)
        turned = o.reshape(o.stack([o.unary("neg", odd), even], 4), (n, heads, length, width))
    else:
        left, right = (o.slice(x, 3, i, i + width // 2, 1) for i in (0, width // 2))
        turned = o.concat([o.unary("neg", right), left], 3)
    return o.binary("add", o.binary("mul", x, cos), o.binary("mul", turned, sin))


@block
def rotary_attention(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """Rotary tables, perhaps after a norm of queries and keys; perhaps on a part of the width only."""
    heads, t = pick((2, 4), a), tokens(o, x)
    q, k, v = projections(o, t, t, heads, heads, 4)
    if b % 3 == 0:
        q, k = norm(o, q, a), norm(o, k, a)
    if b % 4 == 3:
        cut = [o.split(part, [2, 2], 3) for part in (q, k)]
        q, k = (o.concat([_rotated(o, left, a % 2 == 1), right], 3) for left, right in cut)
    else:
        q, k = (_rotated(o, part, a % 2 == 1) for part in (q, k))
    y = make_linear(o, merged(o, o.softmax_attention(q, k, v)), o.shape(t)[2])
    return o.binary("add", x, untokens(o, y, x))


@block
def linear_attention(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """Keys times values first; or attention over the channels of each head."""
    heads, t = pick((2, 3), a), tokens(o, x)
    q, k, v = projections(o, t, t, heads, heads, pick((2, 3), b))
    if b % 2:
        context = o.matmul(o.transpose(o.softmax(k, 2), (0, 1, 3, 2)), v)
        y = o.matmul(o.softmax(q, 3), context)
    else:
        scores = o.matmul(o.transpose(q, (0, 1, 3, 2)), k)
        y = o.transpose(o.matmul(o.softmax(scores, 3), o.transpose(v, (0, 1, 3, 2))), (0, 1, 3, 2))
    return untokens(o, make_linear(o, merged(o, y), o.shape(t)[2]), x)


@block
def gated_mlp(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """Two projections, one packed and taken apart, or the operator for it."""
    t, hidden = norm(o, tokens(o, x), b), pick(WIDTHS, a)
    if b % 3 == 0:
        y = o.binary("mul", o.unary("silu", make_linear(o, t, hidden)), make_linear(o, t, hidden))
    elif b % 3 == 1:
        gate, up = o.split(make_linear(o, t, 2 * hidden), [hidden] * 2, 2)
        y = o.binary("mul", o.unary("gelu", gate), up)
    else:
        y = o.glu(make_linear(o, t, 2 * hidden), 2)
    return o.binary("add", x, untokens(o, make_linear(o, y, o.shape(t)[2]), x))


@block
def experts(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """Experts as three-dimensional weights, all run and weighed by a router."""
    t, count, hidden = tokens(o, x), pick((2, 3, 4), a), pick(WIDTHS, b)
    c = o.shape(t)[2]
    share = o.softmax(make_linear(o, t, count), 2)
    y = o.einsum("nlc,ech->nleh", t, o.weight(count, c, hidden, scale=0.3))
    y = o.einsum("nleh,ehc->nlec", o.unary("relu", y), o.weight(count, hidden, c, scale=0.3))
    if b % 2:
        return untokens(o, o.einsum("nlec,nle->nlc", y, share), x)
    n, length = o.shape(t)[:2]
    weighed = o.binary("mul", y, o.reshape(share, (n, length, count, 1)))
    return untokens(o, o.reduce("sum", weighed, (2,), False), x)


@block
def batched_experts(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """The same as batches of matrices: `[E, N*L, C] @ [E, C, H]` by broadcasting."""
    t, count, hidden = tokens(o, x), pick((2, 3), a), pick(WIDTHS, b)
    n, length, c = o.shape(t)
    wide = o.reshape(t, (n, 1, length, c))
    y = o.unary("relu", o.matmul(wide, o.weight(count, c, hidden, scale=0.3)))
    y = o.matmul(y, o.weight(count, hidden, c, scale=0.3))
    share = o.transpose(o.softmax(make_linear(o, t, count), 2), (0, 2, 1))
    weighed = o.binary("mul", y, o.reshape(share, (n, count, length, 1)))
    return untokens(o, o.reduce("sum", weighed, (1,), False), x)


@block
def recurrent(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """LSTM, GRU or a plain recurrent layer over the positions, perhaps in both directions."""
    cell, both, hidden, t = pick(("lstm", "gru", "rnn"), a), b % 2 == 1, pick((4, 6), b), tokens(o, x)
    rows = {"lstm": 4, "gru": 3, "rnn": 1}[cell] * hidden
    weights = []
    for _ in range(1 + both):
        weights += [o.weight(rows, o.shape(t)[2]), o.weight(rows, hidden)]
        weights += [o.weight(rows, scale=0.3), o.weight(rows, scale=0.3)]
    y = o.lstm(cell, t, weights, hidden, both)
    return untokens(o, make_linear(o, y, o.shape(t)[2]) if a % 2 else y, x)


@block
def state_space(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """A causal depthwise convolution over the positions, a running sum, and a gate."""
    t, inner = tokens(o, x), pick(WIDTHS, a)
    y = o.transpose(make_linear(o, t, inner), (0, 2, 1))
    wide = o.pad(y, 2, 2, 0)
    y = o.unary("silu", o.conv_nd(wide, o.weight(inner, 1, 3, scale=0.6), o.weight(inner, scale=0.3), inner, 0))
    y = o.cumsum(y, 2) if b % 2 else y
    y = o.binary("mul", o.transpose(y, (0, 2, 1)), o.unary("silu", make_linear(o, t, inner)))
    return untokens(o, make_linear(o, o.scale(y, 0.3), o.shape(t)[2]), x)


@block
def embedded(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """Positions or the user's ids looked up in a table and added; the table may make an output of logits too."""
    t = tokens(o, x)
    length, c = o.shape(t)[1:]
    rows = 8
    table = o.weight(rows, c, name=f"embedding{c}", scale=1.0)
    if "ids" in o.inputs:
        found = o.embedding(table, o.inputs["ids"])
        found = o.reduce("mean", found, (1,), True)
    else:
        found = o.table(table, 0, np.arange(length)[None] % rows)
    y = o.binary("add", t, found)
    if b % 2:
        o.results.append(o.linear(o.reduce("mean", o.unary("tanh", y), (1,), False), table, None))
    return untokens(o, y, x)


@block
def tied_layers(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """One matrix used as it is and transposed."""
    t, hidden = tokens(o, x), pick((4, 6, 8), a)
    w = o.weight(hidden, o.shape(t)[2], name=f"tied{hidden}_{o.shape(t)[2]}")
    y = o.unary("tanh", o.linear(t, w, None))
    return untokens(o, o.binary("add", t, o.matmul(y, w)) if b % 2 else o.matmul(y, w), x)


@block
def windows(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """Attention within windows, perhaps shifted: the windows join the batch."""
    n, c, h, w = o.shape(x)
    if h % 2 or w % 2:
        return x
    moved = o.roll(o.roll(x, 2, -1), 3, -1) if b % 2 else x
    cut = o.reshape(o.transpose(moved, (0, 2, 3, 1)), (n, h // 2, 2, w // 2, 2, c))
    count = h * w // 4
    t = o.reshape(o.transpose(cut, (0, 1, 3, 2, 4, 5)), (n * count, 4, c))
    heads = pick((2, 3), a)
    q, k, v = projections(o, t, t, heads, heads, 2)
    t = make_linear(o, merged(o, o.softmax_attention(q, k, v)), c)
    back = o.transpose(o.reshape(t, (n, h // 2, w // 2, 2, 2, c)), (0, 1, 3, 2, 4, 5))
    y = o.transpose(o.reshape(back, (n, h, w, c)), (0, 3, 1, 2))
    return o.binary("add", x, o.roll(o.roll(y, 2, 1), 3, 1) if b % 2 else y)
