"""Lowerings: normalisations, softmax and other operators that take statistics along axes, pools and resizes."""

from __future__ import annotations

from typing import Any

from .axes import pooled
from .registry import FILL, Lowered, View, lowers
from .sketch import Sketch


@lowers("BatchNormalization")
def batch_norm(view: View) -> Lowered:
    """With statistics of the batch where `training_mode` says so, or before opset 14 the number of outputs."""
    training = bool(view.attr("training_mode", 0) or view.produced > 1)
    attrs = {"epsilon": float(view.attr("epsilon", 1e-5)), "training": training}
    return Lowered("batch_norm", (0, 1, 2, 3, 4), attrs, outputs=view.produced)


@lowers("InstanceNormalization")
def instance_norm(view: View) -> Lowered:
    """Statistics over the spatial axes."""
    return Lowered("instance_norm", (0, 1, 2), {"epsilon": float(view.attr("epsilon", 1e-5))})


@lowers("LayerNormalization", "RMSNormalization", "SimplifiedLayerNormalization")
def layer_norm(view: View) -> Lowered | None:
    """Statistics over the last axes, from `axis` on. With a scale or bias of other sizes (one number; as large as the
    data, where torch exports a norm without weights): a norm, a product and a sum.
    """
    first, rms = view.axis(int(view.attr("axis", -1))), view.op != "LayerNormalization"
    attrs: dict[str, Any] = {
        "axes": tuple(range(first, view.rank())),
        "rms": rms,
        "epsilon": float(view.attr("epsilon", 1e-5)),
    }
    slots = (0, 1) if rms else (0, 1, 2)
    if all(view.shape(slot) == tuple(view.shape()[first:]) for slot in slots[1:] if view.has(slot)):
        return Lowered("layer_norm", slots, attrs)
    sketch = Sketch(view)
    x, scale, bias = sketch.given(0), sketch.given(1), None if rms else sketch.input(2)
    normed = sketch.step("layer_norm", [x], x.shape, "normed", **attrs)
    scaled = sketch.step("elementwise", [normed, scale], x.shape, "scaled", -1 if bias else 0, fn="mul")
    if bias is not None:
        sketch.add([scaled, bias], "", 0)
    return sketch.lowered()


@lowers("GroupNormalization")
def group_norm(view: View) -> Lowered | None:
    """Scale and bias per channel (opset 21) or per group (opset 18)."""
    groups = int(view.attr("num_groups"))
    if view.shape(1) not in ((view.shape()[1],), (groups,)):
        return None
    return Lowered("group_norm", (0, 1, 2), {"groups": groups, "epsilon": float(view.attr("epsilon", 1e-5))})


@lowers("MeanVarianceNormalization")
def mean_variance(view: View) -> Lowered:
    """An instance norm without parameters where it runs over exactly the spatial axes."""
    rank = view.rank()
    axes = sorted(view.axis(a) for a in view.attr("axes", [0, 2, 3]))
    if axes == list(range(2, rank)):
        return Lowered("instance_norm", (0,), {"epsilon": 1e-9})
    return Lowered("axiswise", (0,), {"axes": tuple(axes)})


@lowers("Softmax", "LogSoftmax", "Hardmax")
def softmax(view: View) -> Lowered:
    """Before opset 13 these work on all axes from `axis` on, flattened."""
    rank = view.rank()
    if view.opset >= 13:
        return Lowered("softmax", (0,), {"axis": view.axis(int(view.attr("axis", -1)))})
    first = view.axis(int(view.attr("axis", 1)))
    wide = [a for a in range(first, rank) if view.shape()[a] != 1]
    if len(wide) > 1:
        return Lowered("axiswise", (0,), {"axes": tuple(range(first, rank))})
    return Lowered("softmax", (0,), {"axis": wide[0] if wide else first})


@lowers("LpNormalization")
def lp_norm(view: View) -> Lowered:
    """Divides by a norm along one axis: like a softmax, a statistic that keeps the shape."""
    return Lowered("softmax", (0,), {"axis": view.axis(int(view.attr("axis", -1)))})


@lowers("LRN")
def lrn(view: View) -> Lowered:
    """Mixes neighbouring channels."""
    return Lowered("axiswise", (0,), {"axes": (1,)})


@lowers("CumSum", "CumProd")
def cumulative(view: View) -> Lowered | None:
    """Running sums or products along one axis."""
    axis = view.ints("axis")
    if axis is None:
        return None
    along = view.axis(axis[0])
    return (
        Lowered("cumsum", (0,), {"axis": along})
        if view.op == "CumSum"
        else Lowered("axiswise", (0,), {"axes": (along,)})
    )


@lowers("TopK")
def top_k(view: View) -> Lowered:
    """The largest (or smallest) entries along one axis and their positions."""
    return Lowered("topk", (0,), {"axis": view.axis(int(view.attr("axis", -1)))}, outputs=2)


@lowers("Trilu")
def triangle(view: View) -> Lowered:
    """Zeroes by position in the last two axes."""
    rank = view.rank()
    return Lowered("axiswise", (0,), {"axes": (rank - 2, rank - 1)})


@lowers("MaxPool", "AveragePool", "LpPool", "GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool")
def pool(view: View) -> Lowered | None:
    """Pools over the spatial axes. The indices of a max pool count through channels, so nobody may read them."""
    return pooled(view)


@lowers("GridSample")
def grid_sample(view: View) -> Lowered:
    """Samples x at the points of a grid."""
    return Lowered("spatial", (0, 1))


@lowers("Resize", "Upsample")
def resize(view: View) -> Lowered | None:
    """Resizes of the spatial axes; batch and channel must keep their size."""
    if view.rank() < 3 or view.out_shape()[:2] != view.shape()[:2]:
        return None
    if view.attr("coordinate_transformation_mode") == "tf_crop_and_resize":
        return None
    return Lowered("spatial", (0,))


@lowers("DepthToSpace")
def depth_to_space(view: View) -> Lowered:
    """Blocks of channels become blocks of pixels."""
    return Lowered("depth_to_space", (0,), {"block": int(view.attr("blocksize")), "mode": view.attr("mode", "DCR")})


@lowers("SpaceToDepth")
def space_to_depth(view: View) -> Lowered:
    """Blocks of pixels become blocks of channels."""
    return Lowered("space_to_depth", (0,), {"block": int(view.attr("blocksize")), "mode": "DCR"})


@lowers("RandomNormalLike", "RandomUniformLike", "Bernoulli")
def drawn(view: View) -> Lowered:
    """A random number for each element of the data: it goes where they go."""
    return Lowered("elementwise", (0,), {"fn": view.op.lower()})


@lowers("RandomNormal", "RandomUniform")
def generated(view: View) -> Lowered:
    """As many random numbers as the shape says."""
    return Lowered("noise", (), {"shape": view.out_shape()})


@lowers("Multinomial")
def multinomial(view: View) -> Lowered:
    """Positions along the last axis, picked by chance."""
    return Lowered("sample", (0,), {"axis": view.rank() - 1, "distinct": False})


@lowers("EyeLike")
def fill(view: View) -> Lowered:
    """Values that do not depend on the input's values."""
    return Lowered("fill", view.slots)


@lowers("ConstantOfShape")
def constant_of_shape(view: View) -> Lowered:
    """One number broadcast to a computed shape (states of a recurrent layer); integers are shape arithmetic."""
    if view.out_float():
        return Lowered("expand", (FILL,), {"shape": view.out_shape()})
    return Lowered("shape_math", view.slots)


@lowers("Shape", "Size", "Range")
def shape_math(view: View) -> Lowered:
    """Sizes, and tensors made from them."""
    return Lowered("shape_math", view.slots)
