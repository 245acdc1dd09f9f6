"""Lowerings: attention in the forms that ONNX and onnxruntime have as one operator, and rotary positions."""

from __future__ import annotations

from collections.abc import Sequence
from math import sqrt

from ..quantized import Along, Layout, Single, affine
from .registry import Coding, Lowered, UnlowerableError, View, lowers
from .sketch import Operand, Sketch


@lowers("Attention")
def attention(view: View) -> Lowered | None:
    """Of the standard (heads apart or, on three axes, side by side) or of onnxruntime (with its projections)."""
    if view.proto.domain == "com.microsoft":
        return _projected(view, 4)
    if view.wants(3):
        return None
    if [view.rank(i) for i in range(3)] == [4, 4, 4] and not view.has(4) and view.produced == 1:
        return _plain(view)
    sketch = Sketch(view)
    query_heads, own_heads = int(view.attr("q_num_heads", 0)), int(view.attr("kv_num_heads", 0))
    query = sketch.heads(sketch.given(0), query_heads, "query")
    pair = [sketch.heads(sketch.given(i), own_heads, n) for i, n in ((1, "key"), (2, "value"))]
    mask = _bias(sketch, 3)
    key, value = _after_past(sketch, pair, 4)
    found = sketch.attend(query, key, value, mask, to=0 if view.rank() == 4 else -1)
    if view.rank() != 4:
        sketch.merged(found, to=0)
    return sketch.lowered(3)


def _plain(view: View) -> Lowered:
    """Heads apart, no cache: the canonical kind itself, in which also the width of heads may shrink."""
    query, key, scale = view.shape(0), view.shape(1), view.attr("scale")
    attrs = {
        "scale": float(scale) if scale is not None else 1 / sqrt(query[-1]),
        "causal": bool(view.attr("is_causal", 0)),
        "grouped": query[1] != key[1],
    }
    return Lowered("attention", (0, 1, 2, 3), attrs)


def _after_past(sketch: Sketch, pair: Sequence[Operand], slot: int) -> list[Operand]:
    """Keys and values behind those of earlier runs (inputs `slot` and the next), handed out as outputs 1 and 2."""
    return [sketch.cached(x, sketch.input(slot + i), 1 + i) for i, x in enumerate(pair)]


def _bias(sketch: Sketch, slot: int) -> Operand | None:
    """A mask or bias on `[batch, heads, queries, keys]`; one on fewer axes is aligned from the right."""
    return sketch.input(slot) if sketch.view.has(slot) and 2 <= sketch.view.rank(slot) <= 4 else None


def _projected(view: View, past: int, coding: Coding | None = None) -> Lowered | None:
    """Query, key and value made from one input by one weight whose columns are theirs, one after the other."""
    sketch, count = Sketch(view), int(view.attr("num_heads"))
    x, weight, bias = sketch.given(0), sketch.given(1, coding), sketch.input(2)
    if view.attr("do_rotary") or x.rank != 3 or weight.rank != 2 or x.shape[2] != weight.shape[0]:
        return None
    shape = (*x.shape[:2], weight.shape[1])
    packed = sketch.step("matmul", [x, weight, bias], shape, "packed", trans_a=False, trans_b=False)
    sizes = view.attr("qkv_hidden_sizes") or [shape[2] // 3] * 3
    parts = zip(sketch.split(packed, sizes), ("query", "key", "value"), strict=True)
    query, key, value = (sketch.heads(part, count, name) for part, name in parts)
    if view.has(past) or view.wants(1):
        key, value = _joint_cache(sketch, key, value, past)
    mask = _bias(sketch, 5) if past == 4 and view.has(5) and view.rank(5) == 4 else None
    sketch.merged(sketch.attend(query, key, value, mask), to=0)
    return sketch.lowered(2)


def _joint_cache(sketch: Sketch, key: Operand, value: Operand, slot: int) -> tuple[Operand, Operand]:
    """Keys and values of earlier runs in one tensor `[2, batch, heads, length, width]`."""
    past = sketch.input(slot)
    if past is not None and past.rank == 5:
        key, value = (sketch.concat([p, x], 2) for p, x in zip(sketch.unbind(past, 0), (key, value), strict=True))
    if sketch.view.wants(1):
        if sketch.view.out_shape(1) != (2, *key.shape):
            raise UnlowerableError
        sketch.step("stack", [key, value], (2, *key.shape), "present", 1, axis=0)
    return key, value


@lowers("QAttention")
def quantised_attention(view: View) -> Lowered | None:
    """The same with an 8-bit input and weight."""
    shape = view.shape(1)
    columns = Single() if not view.shape(4) or view.shape(4) == (1,) else Along(1)
    coding = Coding(shape, (1, 4, 7), (Layout(), columns, columns), affine)
    return _projected(view, 8, coding)


@lowers("MultiHeadAttention")
def multi_head(view: View) -> Lowered | None:
    """Query, key and value apart, or two or three of them packed head by head."""
    sketch, count = Sketch(view), int(view.attr("num_heads"))
    if view.has(9) or view.wants(3):
        return None
    query, *pair = _operands(sketch, count)
    key, value = _after_past(sketch, pair, 6)
    bias = _bias(sketch, 5)
    sketch.merged(sketch.attend(query, key, value, bias), to=0)
    return sketch.lowered(3)


def _operands(sketch: Sketch, count: int) -> tuple[Operand, Operand, Operand]:
    view = sketch.view
    query, key, value = sketch.given(0), sketch.input(1), sketch.input(2)
    if query.rank == 5 or (key is not None and key.rank == 5):
        if view.has(3):
            raise UnlowerableError  # a bias beside packed operands: no kernel takes it
        whole = query if query.rank == 5 else key
        assert whole is not None
        apart = [sketch.transpose(part, (0, 2, 1, 3), "key") for part in sketch.unbind(whole, 3)]
        queries = apart[0] if query.rank == 5 else sketch.heads(query, count, "query")
        return queries, apart[-2], apart[-1]
    if key is None or value is None:
        raise UnlowerableError
    parts: list[Operand] = [query, key, value]
    bias = sketch.input(3)
    if bias is not None:
        widths = [x.shape[2] if x.rank == 3 else x.shape[1] * x.shape[3] for x in parts]
        pieces = sketch.split(bias, widths)
        parts = [sketch.add([x, b]) if x.rank == 3 else x for x, b in zip(parts, pieces, strict=True)]
    heads = [sketch.heads(x, count, n) for x, n in zip(parts, ("query", "key", "value"), strict=True)]
    return heads[0], heads[1], heads[2]


@lowers("GroupQueryAttention")
def group_query(view: View) -> Lowered | None:
    """Fewer heads for keys and values than for queries; all in one input, or apart; with a cache."""
    sketch, count, own = Sketch(view), int(view.attr("num_heads")), int(view.attr("kv_num_heads"))
    if view.wants(3) or view.attr("k_quant_type", "NONE") != "NONE" or view.has(12) or view.has(13):
        return None
    query, key, value = sketch.given(0), sketch.input(1), sketch.input(2)
    if key is None or value is None:
        width = query.shape[2] // (count + 2 * own)
        query, key, value = sketch.split(query, [count * width, own * width, own * width])
    parts = ((query, count, "query"), (key, own, "key"), (value, own, "value"))
    heads, *pair = (_whole(sketch, sketch.heads(x, n, name)) for x, n, name in parts)
    key, value = _after_past(sketch, pair, 3)
    if view.has(11):
        sink = sketch.reshape(sketch.given(11), (count, 1, 1))
        heads = sketch.add([heads, sink])  # one number for each head goes with it
    sketch.merged(sketch.attend(heads, key, value, _bias(sketch, 10)), to=0)
    return sketch.lowered(3)


def _whole(sketch: Sketch, x: Operand) -> Operand:
    """Heads keep their width: the operator has one for all three, in multiples of 8, and may rotate it."""
    return sketch.step("axiswise", [x], x.shape, "whole", axes=(3,))


@lowers("RotaryEmbedding", "GemmaRotaryEmbedding")
def rotary(view: View) -> Lowered | None:
    """Positions turn the elements of each head into one another; each by angles of its own, so all of them stay."""
    if view.op != "RotaryEmbedding" or view.rank() not in (3, 4):
        return None
    sketch = Sketch(view)
    x = sketch.given(0)
    if x.rank == 4:
        sketch.step("axiswise", [x], x.shape, "", 0, axes=(2, 3))
        return sketch.lowered()
    count = int(view.attr("num_heads", 0)) or x.shape[2] // _rotary_width(view)
    apart = sketch.heads(x, count, "apart")
    turned = sketch.step("axiswise", [apart], apart.shape, "turned", axes=(2, 3))
    sketch.merged(turned, to=0)
    return sketch.lowered()


def _rotary_width(view: View) -> int:
    """The width of a head where only the table tells: it has a column for each pair."""
    return 2 * view.shape(2 if view.proto.domain == "com.microsoft" else 1)[-1]
