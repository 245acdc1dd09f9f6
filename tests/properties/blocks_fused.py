"""Blocks of operators that runtimes fuse out of several, or run on integers; see `blocks`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .blocks import WIDTHS, block, make_conv, make_linear, pick, proper, tokens, untokens


@block
def skip_norms(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """A residual addition and its norm in one; perhaps both results are read."""
    t = tokens(o, x)
    c = o.shape(t)[2]
    work = make_linear(o, o.unary("tanh", make_linear(o, t, pick(WIDTHS, a))), c)
    scale, shift, bias = o.weight(c, scale=0.3, offset=1.0), o.weight(c, scale=0.3), o.weight(c, scale=0.3)
    normed, total = o.skip_norm(work, t, scale, shift, bias, b % 2 == 1)
    y = make_linear(o, normed, c)
    return untokens(o, o.binary("add", y, total) if a % 2 else y, x)


@block
def packed_attention(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """Attention with its projections inside; keys and values of one width or two."""
    t, heads = tokens(o, x), pick((2, 3, 4), a)
    c, width, other = o.shape(t)[2], 4, pick((4, 4, 2), b)
    sizes = [heads * width, heads * width, heads * other]
    y = o.packed_attention(t, o.weight(c, sum(sizes), scale=c**-0.5), o.weight(sum(sizes)), heads, sizes, b % 2 == 1)
    return o.binary("add", x, untokens(o, make_linear(o, y, c), x))


@block
def attention_side_by_side(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """One operator on heads beside each other; rotated before, causal, or with fewer heads for keys and values."""
    t, own = tokens(o, x), pick((2, 3, 1), a)
    c, length = o.shape(t)[2], o.shape(t)[1]
    heads, width = own * pick((1, 2), b), pick((4, 8), b // 2) if b % 3 else 16
    q = make_linear(o, t, heads * width)
    k, v = (make_linear(o, t, own * width) for _ in range(2))
    angle = np.arange(length)[:, None] * 0.7 ** np.arange(width // 2)[None, :]
    tables = [o.constant(fn(angle).astype(np.float32)) for fn in (np.cos, np.sin)]
    if b % 3 == 0 and not getattr(o, "dynamic", False):
        y = o.grouped_query(q, k, v, heads, own, tables if a % 2 else [])
    else:
        if a % 2:
            q, k = o.rotary(q, *tables, heads), o.rotary(k, *tables, own)
        y = o.side_by_side(q, k, v, heads, own)
    return o.binary("add", x, untokens(o, make_linear(o, y, c), x))


@block
def fused_layers(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """A bias with its activation, and products with a factor."""
    t, hidden = tokens(o, x), pick(WIDTHS, a)
    c = o.shape(t)[2]
    y = o.scaled_matmul(t, o.weight(hidden, c), 0.7)
    y = o.bias_gelu(pick(("BiasGelu", "FastGelu", "QuickGelu"), b), y, o.weight(hidden, scale=0.3))
    return untokens(o, o.scaled_matmul(y, o.weight(c, hidden), 1.3), x)


@block
def fused_conv(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """A convolution with a residual and an activation inside."""
    c = o.shape(x)[1]
    groups = pick((1, proper(c, a), c), b)
    skip = x if a % 2 else make_conv(o, x, c)
    return o.conv_and_more(x, o.weight(c, c // groups, 1, 1), o.weight(c, scale=0.3), skip, groups)


@block
def embedded_and_normed(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """The user's ids, looked up, added and normalised in one."""
    if "ids" not in o.inputs:
        return x
    n, c = o.shape(x)[:2]
    wide = pick(WIDTHS, a)
    scale, shift = o.weight(wide, scale=0.3, offset=1.0), o.weight(wide, scale=0.3)
    rows = o.embed_norm(o.inputs["ids"], o.weight(8, wide, scale=1.0), o.weight(4, wide, scale=1.0), scale, shift)
    pooled = make_linear(o, o.reduce("mean", rows, (1,), False), c)
    return o.binary("add", x, o.reshape(pooled, (n, c, 1, 1)))


@block
def integer_weights(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """Weights as integers with one scale, or one for each filter or column."""
    c, hidden, axis = o.shape(x)[1], pick(WIDTHS, a), pick((0, 1, None), b)
    if a % 2:
        y = o.conv(x, o.unpacked(o.integer_weight(hidden, c, 1, 1, axis=axis), axis), o.weight(hidden, scale=0.3), 1, 0)
        return o.conv(o.unary("relu", y), o.unpacked(o.integer_weight(c, hidden, 1, 1, axis=axis), axis), None, 1, 0)
    y = o.matmul(tokens(o, x), o.unpacked(o.integer_weight(c, hidden, axis=axis), axis))
    return untokens(o, o.matmul(o.unary("tanh", y), o.unpacked(o.integer_weight(hidden, c, axis=axis), axis)), x)


@block
def integer_layers(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """Layers on integers: convolutions and sums, or products whose scales are found on the way."""
    c, hidden = o.shape(x)[1], pick(WIDTHS, a)
    if b % 2:
        groups, axis = pick((1, proper(c, a)), b // 2), pick((0, None), a)
        y = o.quantised_conv(o.unary("tanh", x), o.integer_weight(c, c // groups, 1, 1, axis=axis), axis, groups)
        return o.quantised_sum(y, o.quantised(x)) if a % 2 else y
    how, axis = pick(("QLinearMatMul", "DynamicQuantizeMatMul", "MatMulInteger"), b // 2), pick((1, None), a)
    t = o.unary("tanh", tokens(o, x))
    y = o.quantised_matmul(t, o.integer_weight(c, hidden, axis=axis), axis, how)
    return untokens(o, o.quantised_matmul(o.unary("relu", y), o.integer_weight(hidden, c, axis=axis), axis, how), x)


@block
def integer_joins(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """Maps joined, gated and pooled as integers."""
    near = [p for p in past if o.shape(p)[2:] == o.shape(x)[2:] and o.shape(p)[1] < 12] or [x]
    if o.shape(x)[1] > 16:
        return x
    return o.joined_integers([x, pick(near, a)] if b % 2 else [make_conv(o, x, pick(WIDTHS, a)), x])


@block
def few_bits(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """Products with weights of four bits, in blocks that share a scale, along rows or along columns."""
    t, c, hidden = tokens(o, x), o.shape(x)[1], pick((8, 16, 20, 40), a)
    if b % 3 == 0:
        y = o.unary("tanh", o.few_bits_matmul(t, o.blocked_weight(hidden, c, axis=1, size=16), 16, a % 2 == 1))
        return untokens(o, o.few_bits_matmul(y, o.blocked_weight(c, hidden, axis=1, size=16), 16, b % 2 == 1), x)
    size = proper(hidden, b)
    first = o.unpacked_blocks(o.blocked_weight(c, hidden, axis=1, size=size), 1, size)
    second = o.unpacked_blocks(o.blocked_weight(hidden, c, axis=0, size=size), 0, size)
    return untokens(o, o.matmul(o.unary("tanh", o.matmul(t, first)), second), x)
