"""Further blocks of random networks over feature maps; see `blocks`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .blocks import WIDTHS, block, make_conv, pick, proper


@block
def sequence_conv(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """A one- or three-dimensional convolution, plain, grouped or transposed."""
    n, c, h, w = o.shape(x)
    shape = (n, c, h * w) if a % 2 else (n, c, 1, h, w)
    data, kernel = o.reshape(x, shape), (3,) * (len(shape) - 2)
    groups = pick((1, proper(c, b)), b)
    out = groups * pick((1, 2), a) if groups > 1 else pick(WIDTHS, a)
    if b % 3 == 2:
        w_ = o.weight(c, out // groups, *kernel)
        data = o.conv_transpose_nd(data, w_, o.weight(out, scale=0.3), groups)
    else:
        data = o.conv_nd(data, o.weight(out, c // groups, *kernel), o.weight(out, scale=0.3), groups, 1)
    return o.reshape(data, (n, out, h, w))


@block
def sparse_conv(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """A strided or dilated convolution."""
    c, h = o.shape(x)[1:3]
    w, bias = o.weight(pick(WIDTHS, a), c, 3, 3), o.weight(pick(WIDTHS, a), scale=0.3)
    if h > 2 and b % 2:
        return o.conv_nd(x, w, bias, 1, 1, stride=2)
    return o.conv_nd(x, w, bias, 1, 2, dilation=2)


@block
def batch_of_activations(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """Activations that move zero, have a kink, or choose between two operands."""
    names = ("gelu", "silu", "erf", "cos", "softplus", "hardswish", "leaky", "relu6", "abs")
    if a % 4 == 3:
        return o.where(x, o.unary("tanh", x), make_conv(o, x, o.shape(x)[1]))
    if a % 4 == 2:
        return o.clip(x, -0.5, 0.8)
    return o.unary(pick(names, b), x)


@block
def shared_vectors(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """One vector for several operators: the bias of a convolution, a scale and a shift, here and elsewhere."""
    c = o.shape(x)[1]
    vector = o.weight(c, name=f"vector{c}", scale=0.3, offset=1.0)
    y = o.conv(x, o.weight(c, c, 1, 1), vector, 1, 0)
    if a % 2:
        y = o.instance_norm(y, vector, vector)
    if b % 2:
        y = o.batch_norm(y, vector, vector, o.weight(c, scale=0.3), o.weight(c, scale=0.1, offset=1.5))
    return o.flip(y, 1) if b % 3 == 0 else y


@block
def unfolded(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """Patches as columns, then a matrix over them."""
    n, c, h, w = o.shape(x)
    columns = o.unfold(x)
    if b % 2:
        out = pick(WIDTHS, a)
        return o.reshape(o.matmul(o.weight(out, c * 9), columns), (n, out, h, w))
    parts = o.reshape(columns, (n, c, 9, h, w))
    return o.reduce("max" if a % 2 else "sum", parts, (2,), False)


@block
def scattered(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """A slice of the channels or rows replaced by work on it."""
    c, h = o.shape(x)[1:3]
    if b % 2 and c > 3:
        start, stop = pick((0, 1), a), c - pick((1, 2, 0), b)
        part = make_conv(o, o.slice(x, 1, start, stop, 1), stop - start)
        return o.slice_scatter(x, part, 1, start, stop)
    return o.slice_scatter(x, o.unary("tanh", o.slice(x, 2, 0, h - 1, 1)), 2, 0, h - 1)


@block
def unbound(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """Factors of the channels taken apart by index and put together again."""
    n, c, h, w = o.shape(x)
    outer = proper(c, a)
    if outer > 6:
        return x
    axis = 1 + b % 2
    parts = o.unbind(o.reshape(x, (n, outer, c // outer, h, w) if axis == 1 else (n, c // outer, outer, h, w)), axis)
    how = b % 3
    if how == 0:
        return o.concat([o.unary("tanh", parts[0]), *parts[1:]], 1)
    if how == 1:
        return o.reshape(o.stack(parts[::-1], axis), (n, c, h, w))
    total = parts[0]
    for part in parts[1:]:
        total = o.binary("mul" if a % 2 else "add", total, part)
    return total


@block
def repeats(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """Each channel several times in a row, or the whole map twice."""
    if o.shape(x)[1] > 8:
        return x
    wide = o.repeat_interleave(x, 1, pick((2, 3), a))
    return o.binary("mul", wide, make_conv(o, x, o.shape(wide)[1])) if b % 2 else wide


@block
def gated_channels(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """The operator GLU over channels."""
    c = o.shape(x)[1]
    return o.glu(x if c % 2 == 0 and b % 2 else make_conv(o, x, 2 * pick(WIDTHS, a)), 1)


@block
def filled(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """A tensor of ones of the map's shape, scaled per channel and added; or joined as a channel of its own."""
    if b % 3 == 2:
        n, c = o.shape(x)[:2]
        pooled = o.reduce("mean", x, (2, 3), False)
        return o.binary("add", x, o.reshape(o.binary("add", pooled, o.eye_like(pooled)), (n, c, 1, 1)))
    ones = o.ones_like(x)
    if b % 2:
        return o.concat([x, o.slice(ones, 1, 0, 1, 1)], 1)
    return o.binary("add", x, o.binary("mul", ones, o.weight(o.shape(x)[1], 1, 1, scale=0.3)))


@block
def running_sums(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """Sums or a sort along rows, seldom along channels."""
    axis = pick((2, 3, 2, 3, 1), a)
    return o.scale(o.cumsum(x, axis), 0.5) if b % 2 else o.top(x, axis, o.shape(x)[axis])


@block
def blocks_of_pixels(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """The order of channels that ONNX prefers."""
    c, h, w = o.shape(x)[1:]
    if b % 2 == 0 and h % 2 == 0 and w % 2 == 0 and c <= 8:
        return o.space_to_depth(x, 2)
    if h > 4:
        return x
    return o.depth_to_space(x if c % 4 == 0 else make_conv(o, x, 12), 2)


@block
def pyramid(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """Up and down again, joined with what was there."""
    if o.shape(x)[2] > 4:
        return o.average_pool(x)
    c = o.shape(x)[1]
    low = o.conv_nd(x, o.weight(pick(WIDTHS, a), c, 3, 3), None, 1, 1, stride=2)
    h, w = (2 * n for n in o.shape(low)[2:])
    if (h, w) != tuple(o.shape(x)[2:]):
        return o.resize(low)
    high = o.resize(low)
    return o.concat([high, x], 1) if b % 2 else o.binary("add", make_conv(o, high, c), x)


@block
def twofold(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """Joined with itself, in another order, or shifted."""
    c = o.shape(x)[1]
    if c > 10:
        return x
    other = pick((x, o.flip(x, 1), o.roll(x, 1, 1)), b)
    return o.concat([x, other], 1) if a % 2 else o.binary("add", o.concat([x, other], 1), make_conv(o, x, 2 * c))


@block
def nested_factors(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """Channels split in three factors, turned, merged in part, scaled, and merged."""
    n, c, h, w = o.shape(x)
    if c % 4:
        return make_conv(o, x, 8)
    parts = o.reshape(x, (n, 2, c // 4, 2, h, w))
    turned = o.transpose(parts, pick(((0, 3, 2, 1, 4, 5), (0, 2, 1, 3, 4, 5), (0, 1, 3, 2, 4, 5)), a))
    s = o.shape(turned)
    merged = o.reshape(turned, (n, s[1] * s[2], s[3], h, w) if b % 2 else (n, s[1], s[2] * s[3], h, w))
    if b % 3 == 0:
        merged = o.binary("mul", merged, o.weight(o.shape(merged)[1], 1, 1, 1, scale=1.0))
    elif b % 3 == 1:
        merged = o.unary("tanh", merged)
    return o.reshape(merged, (n, c, h, w))


@block
def position_mixer(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """Einsum with a learned matrix over channels, over positions, or over both."""
    c, h = o.shape(x)[1:3]
    if b % 3 == 0:
        return o.einsum("nchw,cd->ndhw", x, o.weight(c, pick(WIDTHS, a), scale=0.4))
    if b % 3 == 1:
        return o.einsum("nchw,hk->nckw", x, o.weight(h, h, scale=0.5))
    return o.einsum("nchw,chk->nckw", x, o.weight(c, h, h, scale=0.5))


@block
def second_input(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """Modulation by a vector that the user gives, where there is one (a time embedding)."""
    if "z" not in o.inputs:
        return x
    z, c = o.inputs["z"], o.shape(x)[1]
    hidden = o.unary("silu", o.linear(z, o.weight(pick(WIDTHS, a), o.shape(z)[1]), None))
    both = o.linear(hidden, o.weight(2 * c, o.shape(hidden)[1]), o.weight(2 * c, scale=0.3))
    n = o.shape(z)[0]
    scale, shift = (o.reshape(part, (n, c, 1, 1)) for part in o.split(both, [c, c], 1))
    return o.binary("add", o.binary("mul", x, scale), shift)


@block
def early_exit(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """A further output: logits, or (seldom) the map itself."""
    if b % 4 == 3:
        o.results.append(x)
    else:
        pooled = o.reduce("mean", x, (2, 3), False)
        o.results.append(o.linear(pooled, o.weight(3, o.shape(x)[1]), o.weight(3, scale=0.3)))
    return x


@block
def statistics(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """A norm written out: mean and spread over channels, over positions or over both."""
    axes = pick(((1,), (2, 3), (1, 2, 3)), a)
    centred = o.binary("sub", x, o.reduce("mean", x, axes, True))
    spread = o.reduce(pick(("mean", "sum"), b), o.binary("mul", centred, centred), axes, True)
    return o.binary("mul", centred, o.unary("sigmoid", spread))


def strange(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """An operator nobody knows, in the middle or in a branch; placed by programs that say so."""
    y = o.strange(make_conv(o, x, pick(WIDTHS, a)))
    return make_conv(o, y, o.shape(x)[1]) if b % 2 else y


@block
def experts(o: Any, x: Any, past: Sequence[Any], a: int, b: int) -> Any:
    """Convolutions with a gate each, added up; gates are channels picked one by one."""
    count, width = 2 + a % 3, o.shape(x)[1]
    gates = make_conv(o, x, count)
    gates = o.softmax(gates, 1) if b % 2 else o.unary("sigmoid", gates)
    picked = [o.slice(gates, 1, e, e + 1, 1) for e in range(count)]
    found = [o.binary("mul", gate, make_conv(o, x, width)) for gate in picked]
    total = found[0]
    for one in found[1:]:
        total = o.binary("add", total, one)
    return o.binary("add", x, total) if b % 3 else total
