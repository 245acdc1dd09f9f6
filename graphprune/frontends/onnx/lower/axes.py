"""Lowerings: rarer operators that work along a few axes and leave the others alone."""

from __future__ import annotations

from collections.abc import Sequence

from .registry import Lowered, View, lowers
from .shape import constant_tuples


def untouched(view: View, kernel: Sequence[int]) -> tuple[int, ...]:
    """The axes along which a kernel has one position and nothing is skipped or padded."""
    strides, pads = view.attr("strides", [1] * len(kernel)), view.attr("pads", [0] * 2 * len(kernel))
    if view.attr("auto_pad", "NOTSET") not in ("NOTSET", b"NOTSET"):
        pads = [0] * 2 * len(kernel)  # for a kernel of one position that is nothing
    sizes = zip(kernel, strides, pads[: len(kernel)], pads[len(kernel) :], strict=True)
    return tuple(i + 2 for i, four in enumerate(sizes) if four == (1, 1, 0, 0))


def pooled(view: View) -> Lowered:
    """A pool with channels second works along the axes along which its window has several indices."""
    window = view.attr("kernel_shape")
    alone = () if window is None else untouched(view, window)
    return Lowered("spatial", (0,), {"axes": [axis for axis in range(2, view.rank()) if axis not in alone]})


@lowers("ReverseSequence")
def reverse_sequence(view: View) -> Lowered:
    """Reverses a part of the time axis, as long as each entry of the batch says."""
    axes = {view.axis(int(view.attr("batch_axis", 1))), view.axis(int(view.attr("time_axis", 0)))}
    return Lowered("axiswise", (0, 1), {"axes": tuple(sorted(axes))})


@lowers("CenterCropPad")
def center_crop_pad(view: View) -> Lowered:
    """Crops or pads the listed axes (all, if none are) to a size."""
    axes = view.attr("axes")
    listed = range(view.rank()) if axes is None else [view.axis(int(a)) for a in axes]
    return Lowered("axiswise", (0,), {"axes": tuple(sorted(set(listed)))})


@lowers("RoiAlign", "MaxRoiPool")
def regions(view: View) -> Lowered:
    """Pools of regions: one picture a region comes out, with the channels of those that went in."""
    return Lowered("axiswise", view.slots, {"axes": (0, 2, 3)})


@lowers("DFT")
def fourier(view: View) -> Lowered | None:
    """Mixes one axis, and the last one, which tells real from imaginary."""
    rank = view.rank()
    if view.opset < 20:
        axis = int(view.attr("axis", 1))
    else:
        given = view.ints("axis")
        if given is None and view.has(2):
            return None
        axis = -2 if given is None else given[0]
    return Lowered("axiswise", (0,), {"axes": tuple(sorted({view.axis(axis), rank - 1}))})


@lowers("DeformConv")
def deformable_conv(view: View) -> Lowered | None:
    """A convolution whose points are shifted by further operands, alike for all channels."""
    if int(view.attr("offset_group", 1)) != 1:
        return None
    return Lowered("conv", (0, 1, 3, 2, 4), {"groups": int(view.attr("group", 1)), "transposed": False})


@lowers("ScatterND")
def scatter_rows(view: View) -> Lowered:
    """Writes to tuples of indices that address the first axes."""
    return Lowered("scatter_rows", (0, 1, 2), {"depth": int(view.shape(1)[-1]), "indices": constant_tuples(view, 1)})


@lowers("OneHot")
def one_hot(view: View) -> Lowered | None:
    """A new axis of classes; the two values that it holds are parameters, or computed."""
    depth = view.ints("depth")
    if not depth or any(view.follows("depth")):
        return None
    axis = int(view.attr("axis", -1)) % (view.rank() + 1)
    return Lowered("one_hot", (0,) if view.constant(2) else (0, 2), {"classes": depth[0], "axis": axis})


@lowers("HannWindow", "HammingWindow", "BlackmanWindow", "MelWeightMatrix")
def table(view: View) -> Lowered:
    """A table made from sizes."""
    return Lowered("fill", view.slots)
