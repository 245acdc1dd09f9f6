"""Lowerings: operators that onnxruntime and its tools fuse out of several."""

from __future__ import annotations

from typing import Any

from .axes import untouched
from .registry import Lowered, UnlowerableError, View, lowers
from .sketch import Operand, Sketch


@lowers("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
def skip_norm(view: View) -> Lowered | None:
    """A residual addition (with the bias of the layer before it) and the norm after it; both may be read."""
    if view.wants(1) or view.wants(2):
        return None
    sketch, rms = Sketch(view), view.op == "SkipSimplifiedLayerNormalization"
    x, skip, scale = sketch.given(0), sketch.given(1), sketch.given(2)
    shift, bias = (None, sketch.input(3)) if rms else (sketch.input(3), sketch.input(4))
    total = sketch.add([x, skip, bias], "sum", 3)
    normed(sketch, total, scale, shift, rms)
    return sketch.lowered(4)


def normed(sketch: Sketch, x: Operand, scale: Operand, shift: Operand | None, rms: bool) -> None:
    """A norm over the last axis, to output 0."""
    if any(v is not None and v.shape != x.shape[-1:] for v in (scale, shift)):
        raise UnlowerableError
    epsilon = float(sketch.view.attr("epsilon", 1e-5))
    axes = (x.rank - 1,)
    sketch.step("layer_norm", [x, scale, shift], x.shape, "", 0, axes=axes, rms=rms, epsilon=epsilon)


@lowers("EmbedLayerNormalization")
def embed_norm(view: View) -> Lowered | None:
    """Tables for words, positions and segments, looked up, added and normalised."""
    sketch, ids = Sketch(view), view.shape(0)
    places = (("word", 0, 2), ("position", 8, 3), ("segment", 1, 4))
    tables = [(name, sketch.input(slot), sketch.input(table)) for name, slot, table in places]
    rows = [
        sketch.step("gather", [table, at], (*ids, table.shape[1]), name, axis=0, indices=None)
        for name, at, table in tables
        if table is not None
    ]
    normed(sketch, sketch.add(rows, "sum", 2), sketch.given(5), sketch.given(6), False)
    return sketch.lowered(3)


def _window(view: View, count: int) -> dict[str, Any]:
    """Where a convolution's kernel is laid: see `conv` in docs/ir.md; empty where sizes are computed otherwise."""
    pads, auto = list(view.attr("pads", [0] * 2 * count)), view.attr("auto_pad", "NOTSET")
    auto = auto.decode() if isinstance(auto, bytes) else auto
    transposed = view.op == "ConvTranspose"
    if transposed and (view.attr("output_shape") or auto.startswith("SAME")):
        return {}
    if auto == "VALID":
        pads = [0] * 2 * count
    places: dict[str, Any] = {
        "strides": tuple(view.attr("strides", [1] * count)),
        "dilations": tuple(view.attr("dilations", [1] * count)),
        "pads": auto.lower() if auto.startswith("SAME") else tuple(zip(pads[:count], pads[count:], strict=True)),
    }
    if transposed:
        places["output_pads"] = tuple(view.attr("output_padding", [0] * count))
    return places


@lowers("Conv", "ConvTranspose", "FusedConv", "NhwcConv", "NhwcFusedConv")
def conv(view: View) -> Lowered | None:
    """Convolutions; where a residual is added inside or channels come last, as steps."""
    attrs: dict[str, Any] = {"groups": int(view.attr("group", 1)), "transposed": view.op == "ConvTranspose"}
    attrs.update(_window(view, view.rank(1) - 2))
    if view.shape(1)[0] % attrs["groups"]:
        return None
    if not view.op.startswith("Nhwc") and not view.has(3):
        pointwise = {} if attrs["transposed"] else {"pointwise": untouched(view, view.shape(1)[2:])}
        return Lowered("conv", (0, 1, 2), {**attrs, **pointwise})
    sketch = Sketch(view)
    x = sketch.given(0)
    convolved(sketch, x, sketch.given(1), sketch.input(2), view.op.startswith("Nhwc"), sketch.input(3))
    return sketch.lowered()


def convolved(
    sketch: Sketch, x: Operand, weight: Operand, bias: Operand | None, last: bool, skip: Operand | None = None
) -> None:
    """A convolution to output 0, of channels that come second or last."""
    rank, out = x.rank, sketch.view.out_shape()
    groups = int(sketch.view.attr("group", 1))
    if last:
        x = sketch.transpose(x, (0, rank - 1, *range(1, rank - 1)))
        out = (out[0], out[-1], *out[1:-1])
    if weight.shape[0] % groups or weight.shape[1] * groups != x.shape[1] or weight.shape[0] != out[1]:
        raise UnlowerableError
    done = not last and skip is None
    attrs = {"groups": groups, "transposed": False, **_window(sketch.view, rank - 2)}
    found = sketch.step("conv", [x, weight, bias], out, "conv", 0 if done else -1, **attrs)
    if last:
        found = sketch.transpose(found, (0, *range(2, rank), 1), "", 0 if skip is None else -1)
    if skip is not None:
        sketch.add([found, skip], "", 0)


@lowers("GemmFastGelu")
def gemm_gelu(view: View) -> Lowered:
    """A product of a batch of rows with a matrix, a bias, an activation."""
    return Lowered("matmul", (0, 1, 2), {"trans_a": False, "trans_b": False})


@lowers("BiasAdd")
def bias_add(view: View) -> Lowered:
    """A bias on the last axis, and a residual."""
    return Lowered("elementwise", view.slots, {"fn": "add"})


@lowers("BiasSplitGelu")
def bias_split_gelu(view: View) -> Lowered:
    """A bias, and one half times the gelu of the other."""
    sketch = Sketch(view)
    total = sketch.add([sketch.given(0), sketch.given(1)], "sum")
    sketch.step("glu", [total], view.out_shape(), "", 0, axis=total.rank - 1)
    return sketch.lowered()


@lowers("GroupNorm", "SkipGroupNorm")
def group_norm(view: View) -> Lowered | None:
    """A group norm with channels last (or second), after a residual addition where there is one."""
    sketch, groups = Sketch(view), int(view.attr("groups"))
    x, scale, shift = sketch.given(0), sketch.given(1), sketch.given(2)
    last = bool(view.attr("channels_last", 1))
    channels = x.shape[3 if last else 1]
    if x.rank != 4 or channels % groups or {scale.shape, shift.shape} != {(channels,)}:
        return None
    if view.op == "SkipGroupNorm":
        x = _with_skip(sketch, x, last)
    if last:
        x = sketch.transpose(x, (0, 3, 1, 2))
    norm = {"groups": groups, "epsilon": float(view.attr("epsilon", 1e-5))}
    found = sketch.step("group_norm", [x, scale, shift], x.shape, "norm", -1 if last else 0, **norm)
    if last:
        sketch.transpose(found, (0, 2, 3, 1), "", 0)
    return sketch.lowered(2)


def _with_skip(sketch: Sketch, x: Operand, last: bool) -> Operand:
    skip, bias = sketch.given(3), sketch.input(4)
    channels = x.shape[3 if last else 1]
    full = (1, 1, 1, channels) if last else (1, channels, 1, 1)
    if skip.rank == 2:
        skip = sketch.reshape(skip, (skip.shape[0], *full[1:]))
    return sketch.add([x, skip, None if bias is None else sketch.reshape(bias, full)], "sum", 1)


@lowers("BiasSoftmax")
def bias_softmax(view: View) -> Lowered | None:
    """An addition and a softmax over the last axes, where that is one axis."""
    sketch = Sketch(view)
    x = sketch.given(0)
    if view.axis(int(view.attr("axis", 1))) != x.rank - 1:
        return None
    total = sketch.add([x, sketch.given(1)], "sum")
    sketch.step("softmax", [total], x.shape, "", 0, axis=x.rank - 1)
    return sketch.lowered()


@lowers("NhwcMaxPool")
def pool_of_last(view: View) -> Lowered:
    """A pool with channels last."""
    sketch, rank, out = Sketch(view), view.rank(), view.out_shape()
    x = sketch.transpose(sketch.given(0), (0, rank - 1, *range(1, rank - 1)))
    found = sketch.step("spatial", [x], (out[0], out[-1], *out[1:-1]), "pool")
    sketch.transpose(found, (0, *range(2, rank), 1), "", 0)
    return sketch.lowered()
