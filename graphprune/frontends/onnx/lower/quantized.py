"""Lowerings: operators on 8-bit and smaller integers. They are what they are on floats; scales and zero points of data
are parameters, those of a constant weight belong to the weight.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

from ..quantized import Affine, Along, Blocked, Layout, Nibbles, PackedRows, Single, Swapped, in_both_units
from .axes import pooled
from .fused import convolved, normed, pool_of_last
from .math import recurrent
from .registry import Coding, Lowered, UnlowerableError, View, lowers
from .sketch import Operand, Sketch

#: A slot that no operator has.
ABSENT = 1 << 10


def _single(view: View, *slots: int) -> bool:
    """Whether each of these parameters (where given) is one number."""
    return all(prod(view.shape(slot)) == 1 for slot in slots if view.has(slot))


def _weight(view: View, data: int, scale: int | None, zero: int | None, axis: int) -> Coding | None:
    """A weight whose scale and zero point are single numbers or lie along an axis; None if it is no constant."""
    shape = view.shape(data)
    layouts: list[Layout] = [Layout()]
    for slot in (scale, zero):
        sizes = view.shape(slot) if slot is not None and view.has(slot) else ()
        if len(sizes) > 1 or (prod(sizes) != 1 and prod(sizes) != shape[axis]):
            raise UnlowerableError
        layouts.append(Single() if prod(sizes) == 1 else Along(axis))
    if not view.constant(data):
        if not all(type(layout) is Single for layout in layouts[1:]):
            raise UnlowerableError
        return None
    return Coding(shape, (data, scale, zero), tuple(layouts))


@lowers("QuantizeLinear", "DequantizeLinear")
def quantize(view: View) -> Lowered | None:
    """Index by index; where there is a scale for each index of an axis, it goes with that axis."""
    fn = "quantize" if view.op[0] == "Q" else "dequantize"
    if _single(view, 1, 2):
        return Lowered("elementwise", (0,), {"fn": fn})
    sketch, axis = Sketch(view), view.axis(int(view.attr("axis", 1)))
    x = sketch.given(0)
    if view.attr("block_size") or view.shape(1) != (x.shape[axis],):
        return None
    full = tuple(n if a == axis else 1 for a, n in enumerate(x.shape))
    vectors = [sketch.reshape(v, full) for v in (sketch.input(1), sketch.input(2)) if v is not None]
    sketch.step("elementwise", [x, *vectors], x.shape, "", 0, fn=fn)
    return sketch.lowered()


@lowers("DynamicQuantizeLinear")
def dynamic_quantize(view: View) -> Lowered:
    """The scale follows from the smallest and largest element and zero, so that zeros do not change it."""
    sketch = Sketch(view)
    x = sketch.given(0)
    sketch.step("elementwise", [x], x.shape, "", 0, fn="quantize")
    return sketch.lowered(3)


@lowers("QLinearConv")
def quantised_conv(view: View) -> Lowered | None:
    """A convolution; its bias is stored in units of both scales."""
    if not _single(view, 1, 2, 6, 7):
        return None
    sketch, coding = Sketch(view), _weight(view, 3, 4, 5, 0)
    x, weight = sketch.given(0), sketch.given(3, coding)
    bias = None
    if view.has(8):
        bias = sketch.given(8, _bias(view, 8, coding) if coding is not None and view.constant(1) else None)
    convolved(sketch, x, weight, bias, bool(view.attr("channels_last")))
    return sketch.lowered()


def _bias(view: View, slot: int, weight: Coding) -> Coding:
    """A bias in units of the scales of data (slot 1) and weight (slot 4)."""
    scales = Along(0) if isinstance(weight.layouts[1], Along) else Single()
    return Coding(view.shape(slot), (slot, 1, 4), (Layout(), Single(), scales), in_both_units, frozenset({1, 4}))


@lowers("QLinearMatMul")
def quantised_matmul(view: View) -> Lowered | None:
    """A product with a constant on the right, or of two computed tensors."""
    return _matmul(view, 3, 4, 5) if _single(view, 1, 2, 6, 7) else None


@lowers("MatMulInteger")
def integer_matmul(view: View) -> Lowered | None:
    """A product of integers; its scales are applied by what follows."""
    return _matmul(view, 1, None, 3) if _single(view, 2) else None


@lowers("MatMulIntegerToFloat")
def integer_matmul_to_float(view: View) -> Lowered | None:
    """A product of integers, scaled, with a bias."""
    return _matmul(view, 1, 3, 5, 6) if _single(view, 2, 4) else None


@lowers("DynamicQuantizeMatMul")
def dynamic_matmul(view: View) -> Lowered | None:
    """A product that quantises its left operand first."""
    return _matmul(view, 1, 2, 3, 4)


def _matmul(view: View, data: int, scale: int | None, zero: int | None, bias: int = ABSENT) -> Lowered | None:
    if view.rank(data) < 2 or (view.has(bias) and view.shape(bias) != view.shape(data)[-1:]):
        return None
    coding = _weight(view, data, scale, zero, view.rank(data) - 1)
    slots = (0, data, bias) if view.has(bias) else (0, data)
    attrs = {"trans_a": False, "trans_b": False}
    return Lowered("matmul", slots, attrs, encoded={data: coding} if coding is not None else {})


@lowers("DynamicQuantizeLSTM")
def dynamic_lstm(view: View) -> Lowered | None:
    """An LSTM that quantises its data; inputs come before gates in its weights, with a scale for each direction."""
    encoded = {}
    for data, scale in ((1, 8), (2, 10)):
        directions, columns, gates = view.shape(data)
        if not view.constant(data) or view.shape(scale) != (directions,):
            return None
        numbers = Single() if directions == 1 else Along(0)
        slots = (data, scale, scale + 1)
        encoded[data] = Coding((directions, gates, columns), slots, (Swapped(), numbers, numbers))
    lowered = recurrent(view)
    return lowered and replace(lowered, encoded=encoded)


@lowers("QGemm")
def quantised_gemm(view: View) -> Lowered | None:
    """A matrix product with bias."""
    trans = bool(view.attr("transB", 0))
    if not _single(view, 1, 2, 7, 8) or view.rank(3) != 2:
        return None
    coding = _weight(view, 3, 4, 5, 0 if trans else 1)
    encoded = {3: coding} if coding is not None else {}
    if view.has(6) and coding is not None and view.constant(6) and view.constant(1) and view.rank(6) == 1:
        encoded[6] = _bias(view, 6, coding)
    attrs = {"trans_a": bool(view.attr("transA", 0)), "trans_b": trans, "beta": 1.0}
    return Lowered("matmul", (0, 3, 6), attrs, encoded=encoded)


@lowers("ConvInteger")
def integer_conv(view: View) -> Lowered | None:
    """A convolution of integers; its scales are applied by what follows."""
    if not _single(view, 2):
        return None
    coding = _weight(view, 1, None, 3, 0)
    attrs = {"groups": int(view.attr("group", 1)), "transposed": False}
    return Lowered("conv", (0, 1), attrs, encoded={1: coding} if coding is not None else {})


@lowers("MatMulNBits")
def small_matmul(view: View) -> Lowered | None:
    """A product with a weight of few bits, stored by rows in blocks: whole blocks of the inner axis go together."""
    bits, block = int(view.attr("bits", 4)), int(view.attr("block_size"))
    rows, depth = int(view.attr("N")), int(view.attr("K"))
    if view.has(4) or not all(view.constant(s) for s in (1, 2)) or (view.has(3) and not view.constant(3)):
        return None
    if bits not in (2, 4, 8) or view.shape(1) != (rows, -(-depth // block), block * bits // 8):
        return None
    blocks, packed = -(-depth // block), view.has(3) and _is_bytes(view, 3)
    zeros = rows * (-(-blocks * bits // 8) if packed else blocks)
    if view.has(5) and view.shape(5) != (rows,):
        return None
    if prod(view.shape(2)) != rows * blocks or (view.has(3) and prod(view.shape(3)) != zeros):
        return None
    zero: Layout = Nibbles(1, block, bits, each=False) if packed else Blocked(1, block)
    layouts = (Nibbles(1, block, bits), Blocked(1, block), zero)
    coding = Coding((rows, depth), (1, 2, 3 if view.has(3) else None), layouts, Affine(1 << (bits - 1)))
    return Lowered("matmul", (0, 1, 5), {"trans_a": False, "trans_b": True}, encoded={1: coding})


def _is_bytes(view: View, slot: int) -> bool:
    fact = view.fact(slot)
    return fact is not None and fact.weight is not None and fact.weight.dtype.kind == "u"


@lowers("QLinearAdd", "QLinearMul")
def quantised_binary(view: View) -> Lowered | None:
    """Two operands index by index."""
    if not _single(view, 1, 2, 4, 5, 6, 7):
        return None
    encoded = _constants(view, (0, 3))
    return Lowered("elementwise", (0, 3), {"fn": "add" if view.op == "QLinearAdd" else "mul"}, encoded=encoded)


def _constants(view: View, slots: tuple[int, ...]) -> dict[int, Coding]:
    """Constant operands, each followed by its scale and zero point."""
    layouts = (Layout(), Single(), Single())
    return {s: Coding(view.shape(s), (s, s + 1, s + 2), layouts) for s in slots if view.constant(s)}


@lowers("QLinearSigmoid", "QLinearLeakyRelu")
def quantised_activation(view: View) -> Lowered | None:
    """One operand index by index."""
    fn = "sigmoid" if view.op == "QLinearSigmoid" else "leaky_relu"
    return Lowered("elementwise", (0,), {"fn": fn}) if _single(view, 1, 2, 3, 4) else None


@lowers("QLinearSoftmax")
def quantised_softmax(view: View) -> Lowered | None:
    """A statistic along one axis."""
    if int(view.attr("opset", 13)) < 13:
        return None
    return Lowered("softmax", (0,), {"axis": view.axis(int(view.attr("axis", -1)))})


@lowers("QLinearGlobalAveragePool", "QLinearAveragePool")
def quantised_pool(view: View) -> Lowered | None:
    """Pools over the spatial axes, with channels second or last."""
    if not view.attr("channels_last"):
        return pooled(view)
    return pool_of_last(view)


@lowers("QLinearConcat")
def quantised_concat(view: View) -> Lowered | None:
    """Concatenation of tensors, each with a scale and a zero point."""
    data = view.slots[2::3]
    if not _single(view, *(s for s in view.slots if s not in data)):
        return None
    rank = view.rank(2)
    axis = view.axis(int(view.attr("axis", 1)), rank)
    return Lowered("concat", data, {"axis": axis}, encoded=_constants(view, data))


@lowers("QLinearReduceMean")
def quantised_mean(view: View) -> Lowered | None:
    """A mean over the given axes."""
    if not _single(view, 1, 2, 3, 4):
        return None
    axes = tuple(sorted(view.axis(int(a)) for a in view.attr("axes") or range(view.rank())))
    return Lowered("reduce", (0,), {"fn": "mean", "axes": axes, "keepdims": bool(view.attr("keepdims", 1))})


@lowers("QEmbedLayerNormalization")
def quantised_embed_norm(view: View) -> Lowered | None:
    """Tables of integers, looked up, added and normalised; each with one scale and one zero point."""
    if view.wants(2) or not _single(view, *range(8, 18)):
        return None
    sketch, ids = Sketch(view), view.shape(0)

    def table(slot: int, scale: int) -> Operand:
        whole = (Layout(), Single(), Single())
        coding = Coding(view.shape(slot), (slot, scale, scale + 5), whole)
        return sketch.given(slot, coding if view.constant(slot) else None)

    rows = [table(slot, 6 + slot) for slot in (2, 3, 4) if view.has(slot)]
    looked = zip(("word", "position", "segment"), (sketch.input(0), None, sketch.input(1)), rows, strict=False)
    found = [sketch.step("gather", [r, at], (*ids, r.shape[1]), name, axis=0, indices=None) for name, at, r in looked]
    normed(sketch, sketch.add(found, "sum"), table(5, 11), table(6, 12), False)
    return sketch.lowered(2)


@lowers("GatherBlockQuantized")
def gather_blocks(view: View) -> Lowered | None:
    """Rows of a table whose columns share scales in blocks; of 4 bits, two columns lie in one byte."""
    bits, block, data = int(view.attr("bits", 4)), int(view.attr("block_size", 128)), view.shape(0)
    if view.rank() != 2 or int(view.attr("gather_axis", 0)) or view.axis(int(view.attr("quantize_axis", 1))) != 1:
        return None
    if not (view.constant(0) and view.constant(2)) or (view.has(3) and not view.constant(3)):
        return None
    packed = _is_bytes(view, 0) and bits < 8
    shape = (data[0], data[1] * 8 // bits) if packed else data
    blocks = -(-shape[1] // block)
    if view.shape(2) != (shape[0], blocks):
        return None
    small = packed and view.has(3)
    zero: Layout = Nibbles(1, block, bits, each=False) if small else Blocked(1, block)
    layouts = (PackedRows(1, block, bits) if packed else Layout(), Blocked(1, block), zero)
    default = Affine(1 << (bits - 1) if _is_bytes(view, 0) else 0)
    coding = Coding(shape, (0, 2, 3 if view.has(3) else None), layouts, default)
    return Lowered("gather", (0, 1), {"axis": 0, "indices": None}, encoded={0: coding})
