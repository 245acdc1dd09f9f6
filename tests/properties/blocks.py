"""Building blocks of random networks. Each takes feature maps `[N, C, H, W]` and gives one.

A block sees the operators `o`, the current map `x`, all earlier maps `past` and two small integers that choose
variants. It must work for any channel count and any size of at least 2.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

Block = Callable[[Any, Any, Sequence[Any], int, int], Any]
BLOCKS: dict[str, Block] = {}
WIDTHS = (4, 6, 8, 12)


def block(function: Block) -> Block:
    BLOCKS[function.__name__] = function
    return function


def divisors(n: int) -> list[int]:
    return [d for d in range(1, n + 1) if n % d == 0]


def pick(options: Sequence[Any], at: int) -> Any:
    return options[at % len(options)]


def proper(n: int, at: int) -> int:
    """A divisor that is neither 1 nor n, if there is one."""
    return pick([d for d in divisors(n) if 1 < d < n] or [n], at)


def make_conv(o: Any, x: Any, out: int, kernel: int = 1, groups: int = 1, bias: bool = True) -> Any:
    w = o.weight(out, o.shape(x)[1] // groups, kernel, kernel)
    return o.conv(x, w, o.weight(out, scale=0.3) if bias else None, groups, kernel // 2)


@block
def conv(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    return o.unary("relu", make_conv(o, x, pick(WIDTHS, a), pick((1, 3), b), bias=b % 4 < 2))


@block
def grouped_conv(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    groups = proper(o.shape(x)[1], a)
    return make_conv(o, x, groups * pick((1, 2, 3), b), pick((1, 3), a), groups)


@block
def depthwise(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    channels = o.shape(x)[1]
    return make_conv(o, x, channels * pick((1, 2), a), 3, channels, bias=b % 2 == 0)


@block
def transposed_conv(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    channels = o.shape(x)[1]
    groups = pick([1, proper(channels, b), channels], a)
    out = pick((1, 2), b) if groups > 1 else pick(WIDTHS, b)
    return o.conv_transpose(x, o.weight(channels, out, 3, 3), o.weight(out * groups, scale=0.3), groups)


@block
def batch_norm(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    n = o.shape(x)[1]
    scale, bias = o.weight(n, scale=0.3, offset=1.0), o.weight(n, scale=0.3)
    return o.batch_norm(x, scale, bias, o.weight(n, scale=0.3), o.weight(n, scale=0.1, offset=1.5))


@block
def group_norm(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    n = o.shape(x)[1]
    return o.group_norm(
        x, pick([d for d in divisors(n) if d < n] or [1], a), o.weight(n, scale=0.3, offset=1.0), o.weight(n)
    )


@block
def instance_norm(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    n, *positions = o.shape(x)[1:]
    if max(positions, default=1) == 1:  # PyTorch refuses a statistic over one position
        return x
    return o.instance_norm(x, o.weight(n, scale=0.3, offset=1.0), o.weight(n))


@block
def layer_norm(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    _, c, h, w = o.shape(x)
    if a % 3 == 0:
        return o.layer_norm(x, o.weight(c, h, w, scale=0.3, offset=1.0), o.weight(c, h, w))
    last = o.transpose(x, (0, 2, 3, 1))
    return o.transpose(o.layer_norm(last, o.weight(c, scale=0.3, offset=1.0), o.weight(c)), (0, 3, 1, 2))


@block
def activation(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    if a % 4 == 3:
        return o.prelu(x, o.weight(o.shape(x)[1], offset=0.3))
    return o.unary(pick(("relu", "sigmoid", "tanh"), a), x)


@block
def layer_scale(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    return o.binary(pick(("mul", "add", "max"), a), x, o.weight(o.shape(x)[1], 1, 1, scale=1.0))


@block
def residual(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """Add an earlier map of the same shape, or one brought to it by a convolution."""
    same = [p for p in past if o.shape(p) == o.shape(x)]
    if same and b % 4:
        return o.binary(pick(("add", "add", "mul", "sub"), b), pick(same, a), x)
    near = [p for p in past if o.shape(p)[2:] == o.shape(x)[2:]]
    return o.binary("add", x, make_conv(o, pick(near, a), o.shape(x)[1])) if near else x


@block
def dense(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    near = [p for p in past if o.shape(p)[2:] == o.shape(x)[2:] and o.shape(p)[1] < 20] or [x]
    parts = [x, pick(near, a)] if b % 3 else [pick(near, a), x, x]
    return o.concat(parts, 1) if o.shape(x)[1] < 20 else x


@block
def split(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """Split in two or three; put back in another order, gated, or after work on one part."""
    n = o.shape(x)[1]
    if n < 4:
        return x
    if b % 3 == 0 and n % 2 == 0:
        left, right = o.split(x, [n // 2] * 2, 1)
        return o.binary("mul", left, o.unary("sigmoid", right))
    cut = 1 + a % (n - 2)
    left, right = o.split(x, [cut, n - cut], 1)
    if b % 3 == 1:
        return o.concat([right, left], 1)
    return o.concat([left, make_conv(o, right, n - cut)], 1)


@block
def slices(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """A strided slice of the channels, or a focus layer."""
    _, n, h, w = o.shape(x)
    if b % 2 and h % 2 == 0 and w % 2 == 0 and h > 2 and n <= 8:
        rows = [o.slice(x, 2, i, h, 2) for i in (0, 1)]
        return o.concat([o.slice(r, 3, j, w, 2) for r in rows for j in (0, 1)], 1)
    return o.slice(x, 1, a % 2, n - (b % 3) // 2, pick((1, 2), b)) if n > 5 else x


@block
def gather(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    n = o.shape(x)[1]
    stride = next(s for s in (5, 7, 11, 13) if n % s)
    order = [(i * stride + a) % n for i in range(n)]
    return o.gather(x, 1, pick((order, order[: max(3, n - 2)], [*order, *order[:2]]), b))


@block
def reorder(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    if b % 3 == 0:
        return o.flip(x, 1)
    if b % 3 == 1:
        return o.roll(x, 1, a - 3)
    return o.roll(x, pick((2, 3), a), 1)


@block
def pad(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """Zero channels (option-A shortcut), added or cropped again."""
    n = o.shape(x)[1]
    if n > 16:
        return x
    wide = o.pad(x, 1, pick((0, 1, 2), a), pick((2, 1, 3), b))
    if b % 4 == 3:
        return o.slice(wide, 1, 1, n + 1, 1)
    return o.binary("add", wide, make_conv(o, x, o.shape(wide)[1])) if b % 2 else wide


@block
def shuffle(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    n, c, h, w = o.shape(x)
    groups = proper(c, a)
    parts = o.transpose(o.reshape(x, (n, groups, c // groups, h, w)), (0, 2, 1, 3, 4))
    return o.reshape(parts, (n, c, h, w))


@block
def pixels(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    _, c, h, w = o.shape(x)
    if b % 2 == 0 and h % 2 == 0 and w % 2 == 0 and c <= 8:
        return o.pixel_unshuffle(x, 2)
    if h > 4:
        return x
    return o.pixel_shuffle(x if c % 4 == 0 else make_conv(o, x, 12), 2)


@block
def squeeze_excite(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    n = o.shape(x)[1]
    squeezed = o.reduce("mean", x, (2, 3), True)
    hidden = o.unary("relu", make_conv(o, squeezed, pick(WIDTHS, a)))
    return o.binary("mul", o.unary("sigmoid", make_conv(o, hidden, n)), x)


@block
def spatial_attention(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    return o.binary("mul", x, o.unary("sigmoid", o.reduce(pick(("mean", "max", "sum"), a), x, (1,), True)))


@block
def channel_softmax(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    return o.scale(o.softmax(x, 1), 4.0)


@block
def factor_scale(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """Split the channels in two factors, work on one of them (or both), merge again, perhaps turned."""
    n, c, h, w = o.shape(x)
    outer = proper(c, a)
    parts = o.reshape(x, (n, outer, c // outer, h, w))
    how = b % 6
    if how == 0:
        parts = o.binary("mul", parts, o.weight(outer, 1, 1, 1, scale=1.0))
    elif how == 1:
        parts = o.binary("add", parts, o.weight(c // outer, 1, 1, scale=1.0))
    elif how == 2:
        parts = o.binary("mul", parts, o.weight(outer, c // outer, 1, 1, scale=1.0))
    elif how == 3:
        parts = o.softmax(parts, 1)
    elif how == 4:
        parts = o.softmax(parts, 2)
    if a % 3 == 0:
        parts = o.transpose(parts, (0, 2, 1, 3, 4))
    return o.reshape(parts, (n, c, h, w))


@block
def factor_reduce(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    n, c, h, w = o.shape(x)
    outer = proper(c, a)
    if not 1 < outer < c:
        return x
    parts = o.reshape(x, (n, outer, c // outer, h, w))
    return o.reduce(pick(("sum", "mean", "max"), a), parts, (1 + b % 2,), False)


@block
def selective(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """Two branches stacked, weighed by a softmax over the branches (selective kernels)."""
    c = o.shape(x)[1]
    both = o.stack([make_conv(o, x, c), x], 1)
    logits = o.stack([make_conv(o, o.reduce("mean", x, (2, 3), True), c) for _ in range(2)], 1)
    if b % 2:
        return o.binary("sub", o.select(both, 1, 0), o.select(both, 1, 1))
    return o.reduce("sum", o.binary("mul", both, o.softmax(logits, 1)), (1,), False)


@block
def copies(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """Tile the channels, or repeat each of them by expanding a new axis."""
    n, c, h, w = o.shape(x)
    if c > 8:
        return x
    if a % 2:
        return o.tile(x, (1, 2, 1, 1))
    wide = o.expand(o.reshape(x, (n, c, 1, h, w)), (n, c, 2, h, w))
    return o.reshape(wide, (n, 2 * c, h, w))


@block
def broadcast(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """One channel spread over several."""
    n, _, h, w = o.shape(x)
    one = make_conv(o, x, 1)
    wide = o.expand(one, (n, pick(WIDTHS, a), h, w))
    return o.binary("mul", wide, make_conv(o, x, o.shape(wide)[1])) if b % 2 else wide


@block
def shared(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """A convolution whose weight all blocks of this kind with the same width share."""
    c = o.shape(x)[1]
    w, bias = o.weight(c, c, 1, 1, name=f"shared{c}"), o.weight(c, name=f"sharedb{c}", scale=0.3)
    y = o.conv(x, w, bias, 1, 0)
    return o.conv(o.unary("relu", y), w, bias, 1, 0) if a % 2 else y


@block
def pool(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    return o.max_pool(x)


@block
def flattened(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """Flatten, a linear layer or two, and unflatten (a decoder's start)."""
    n, c, h, w = o.shape(x)
    if c * h * w > 256:
        return x
    flat = o.reshape(x, (n, c * h * w))
    if b % 2:
        flat = o.unary("relu", o.linear(flat, o.weight(10, c * h * w), o.weight(10, scale=0.3)))
    width = pick(WIDTHS, a)
    return o.reshape(o.linear(flat, o.weight(width * h * w, o.shape(flat)[1]), None), (n, width, h, w))


def tokens(o: Any, x: Any) -> Any:
    n, c, h, w = o.shape(x)
    return o.transpose(o.reshape(x, (n, c, h * w)), (0, 2, 1))


def untokens(o: Any, t: Any, like: Any) -> Any:
    _, _, h, w = o.shape(like)
    n, _, c = o.shape(t)
    return o.reshape(o.transpose(t, (0, 2, 1)), (n, c, h, w))


def heads_of(o: Any, t: Any, heads: int) -> Any:
    n, length, width = o.shape(t)
    return o.transpose(o.reshape(t, (n, length, heads, width // heads)), (0, 2, 1, 3))


def make_linear(o: Any, t: Any, out: int) -> Any:
    return o.linear(t, o.weight(out, o.shape(t)[-1]), o.weight(out, scale=0.3))


@block
def attention(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """Self-attention with a residual: three projections; fused as (3, h, d), (h, 3, d) or by split; grouped queries."""
    t = o.layer_norm(tokens(o, x), o.weight(o.shape(x)[1], offset=1.0, scale=0.3), o.weight(o.shape(x)[1]))
    n, length, c = o.shape(t)
    heads, width = pick((2, 3, 4), a), 3
    inner, how = heads * width, b % 5
    if how == 0:
        q, k, v = (heads_of(o, make_linear(o, t, inner), heads) for _ in range(3))
    elif how == 1:
        fused = o.reshape(make_linear(o, t, 3 * inner), (n, length, 3, heads, width))
        q, k, v = (o.select(o.transpose(fused, (2, 0, 3, 1, 4)), 0, i) for i in range(3))
    elif how == 2:
        fused = o.reshape(make_linear(o, t, 3 * inner), (n, length, heads, 3, width))
        q, k, v = (o.transpose(o.select(fused, 3, i), (0, 2, 1, 3)) for i in range(3))
    elif how == 3:
        q, k, v = (heads_of(o, part, heads) for part in o.split(make_linear(o, t, 3 * inner), [inner] * 3, 2))
    else:
        q = heads_of(o, make_linear(o, t, 2 * inner), 2 * heads)
        k, v = (heads_of(o, make_linear(o, t, inner), heads) for _ in range(2))
        k, v = (
            o.reshape(
                o.expand(o.reshape(p, (n, heads, 1, length, width)), (n, heads, 2, length, width)),
                (n, 2 * heads, length, width),
            )
            for p in (k, v)
        )
    y = o.transpose(o.attention(q, k, v), (0, 2, 1, 3))
    y = make_linear(o, o.reshape(y, (n, length, o.shape(y)[2] * width)), c)
    return o.binary("add", x, untokens(o, y, x))


@block
def mlp(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    t = tokens(o, x)
    y = o.unary(pick(("relu", "tanh"), a), make_linear(o, t, pick(WIDTHS, a)))
    return untokens(o, o.binary("add", t, make_linear(o, y, o.shape(t)[2])) if b % 2 else make_linear(o, y, 6), x)


@block
def mixer(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """A matrix from the left, over positions."""
    n, c, h, w = o.shape(x)
    flat = o.reshape(x, (n, c, h * w))
    if b % 2:
        return o.reshape(make_linear(o, flat, h * w), (n, c, h, w))
    return o.reshape(o.matmul(o.weight(c, c, scale=0.3), flat), (n, c, h, w))


@block
def gram(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """Channel attention written with einsum: both axes of the matrix are the channels."""
    n, c, h, w = o.shape(x)
    flat = o.reshape(x, (n, c, h * w))
    matrix = o.softmax(o.einsum("ncl,ndl->ncd", flat, o.unary("tanh", flat)), 2)
    return o.reshape(o.einsum("ncd,ndl->ncl", matrix, flat), (n, c, h, w))
