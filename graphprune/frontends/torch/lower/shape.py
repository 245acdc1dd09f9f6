"""Lowerings of operators that move elements without computing: reshapes, transposes, slices, joins, pads."""

from __future__ import annotations

from typing import Any

import torch

from .registry import Call, Name, Spec, lowers

aten = torch.ops.aten


@lowers(
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "view_as", "reshape_as", "ravel"
)
def reshape(call: Call) -> Spec | None:
    """All become `reshape` to the bound sizes; `view` too, since what precedes it may have been rearranged."""
    if call.target is aten.view.dtype:
        return None
    if call.name in ("squeeze", "unsqueeze", "flatten", "unflatten"):
        return Spec("reshape", ("self",), {"shape": call.out})
    return Spec("reshape", ("self",), {"shape": call.out}, aten.reshape.default, (Name("self"), list(call.out)))


@lowers("permute")
def permute(call: Call) -> Spec:
    """Axes in their new order."""
    rank = call.rank("self")
    return Spec("transpose", ("self",), {"perm": [d % rank for d in call["dims"]]})


@lowers("transpose", "swapaxes", "swapdims", "t", "numpy_T", "mT", "mH", "adjoint", "matrix_H")
def transpose(call: Call) -> Spec:
    """Two axes change places."""
    rank = call.rank("self")
    perm = list(range(rank))
    if call.name == "numpy_T":
        return Spec("transpose", ("self",), {"perm": perm[::-1]})
    first, second = call.get("dim0", call.get("axis0", -2)), call.get("dim1", call.get("axis1", -1))
    if rank > 1:
        perm[first], perm[second] = perm[second], perm[first]
    return Spec("transpose", ("self",), {"perm": perm})


@lowers("movedim", "moveaxis")
def movedim(call: Call) -> Spec:
    """Some axes move, the others keep their order."""
    rank = call.rank("self")
    source, destination = ([call[n]] if isinstance(call[n], int) else call[n] for n in ("source", "destination"))
    moved = {d % rank: s % rank for s, d in zip(source, destination, strict=True)}
    rest = iter(a for a in range(rank) if a not in moved.values())
    return Spec("transpose", ("self",), {"perm": [moved[a] if a in moved else next(rest) for a in range(rank)]})


@lowers("expand", "broadcast_to", "expand_as")
def expand(call: Call) -> Spec:
    """Broadcast to the bound sizes."""
    return Spec("expand", ("self",), {"shape": call.out}, aten.expand.default, (Name("self"), list(call.out)))


@lowers("copy")
def copy(call: Call) -> Spec | None:
    """All elements overwritten by those of `src`: what an in-place copy of a whole tensor means."""
    if call.dtype("self") != call.dtype("src"):
        return None
    return Spec("expand", ("src",), {"shape": call.out}, aten.expand.default, (Name("src"), list(call.out)))


@lowers("repeat", "tile")
def tile(call: Call) -> Spec:
    """One count for each axis of the result."""
    repeats = list(call.get("repeats") or call.get("dims"))
    return Spec("tile", ("self",), {"repeats": [1] * (len(call.out) - len(repeats)) + repeats})


@lowers("repeat_interleave")
def repeat_interleave(call: Call) -> Spec | None:
    """Each index so many times in a row, without the size that results; other forms are unknown."""
    target = aten.repeat_interleave.self_int
    if call.target is not target or call["dim"] is None:
        return None
    axis, repeats = call.axis("self", call["dim"]), call["repeats"]
    return Spec(
        "repeat_interleave", ("self",), {"axis": axis, "repeats": repeats}, target, (Name("self"), repeats, axis)
    )


@lowers("cat", "concat", "concatenate")
def concat(call: Call) -> Spec | None:
    """Operands of one rank: those that ATen skips have been left out before."""
    rank = len(call.out)
    if any(len(t.meta["val"].shape) != rank for t in call["tensors"]):
        return None
    return Spec("concat", ("tensors",), {"axis": call.get("dim", call.get("axis", 0)) % rank})


@lowers("stack")
def stack(call: Call) -> Spec:
    """The axis counts in the result."""
    return Spec("stack", ("tensors",), {"axis": call["dim"] % len(call.out)})


@lowers("split", "split_with_sizes", "chunk", "tensor_split", "unsafe_split", "unsafe_chunk", "unsafe_split_with_sizes")
def split(call: Call) -> Spec | None:
    """The sizes are those of the results."""
    if not isinstance(call.get("dim", 0), int):
        return None
    axis = call.axis("self", call["dim"])
    return Spec("split", ("self",), {"axis": axis, "sizes": [r.shape[axis] for r in call.results]})


@lowers("unbind")
def unbind(call: Call) -> Spec:
    """One result for each index."""
    return Spec("unbind", ("self",), {"axis": call.axis("self", call["dim"])})


@lowers("slice", "narrow")
def slice_(call: Call) -> Spec | None:
    """Bounds resolved into [0, size]."""
    axis = call.axis("self", call["dim"])
    size = call.shape("self")[axis]
    start, stop, step = call.get("start"), call.get("end"), call.get("step", 1)
    if call.name == "narrow":
        if not isinstance(start, int):
            return None
        start += size if start < 0 else 0
        stop = start + call["length"]
    start, stop, step = slice(start, stop, step).indices(size)
    return Spec("slice", ("self",), {"slices": [(axis, start, max(start, stop), step)]})


@lowers("select")
def select(call: Call) -> Spec:
    """One index of one axis."""
    axis = call.axis("self", call["dim"])
    return Spec("select", ("self",), {"axis": axis, "index": call["index"] % call.shape("self")[axis]})


@lowers("slice_scatter")
def slice_scatter(call: Call) -> Spec:
    """A slice is overwritten."""
    axis = call.axis("self", call["dim"])
    start, stop, step = slice(call["start"], call["end"], call["step"]).indices(call.shape("self")[axis])
    return Spec(
        "slice_scatter", ("self", "src"), {"axis": axis, "start": start, "stop": max(start, stop), "step": step}
    )


@lowers("index_select")
def index_select(call: Call) -> Spec:
    """Indices along one axis."""
    return _gather(call, call.axis("self", call["dim"]), ("self", "index"), "index")


@lowers("embedding")
def embedding(call: Call) -> Spec:
    """Rows of a table."""
    return _gather(call, 0, ("weight", "indices"), "indices")


def _gather(call: Call, axis: int, inputs: tuple[str, str], index: str) -> Spec:
    indices = call.constant(index)
    if indices is not None:
        size = call.shape(inputs[0])[axis]
        indices = indices.astype("int64")
        indices = indices + size * (indices < 0)
    return Spec("gather", inputs, {"axis": axis, "indices": indices})


@lowers("gather", "take_along_dim")
def take_along(call: Call) -> Spec | None:
    """A position along one axis for each place of the result."""
    if call["dim"] is None or not call.rank("self"):
        return None
    ids = "index" if "index" in call else "indices"
    if call.rank("self") != call.rank(ids):
        return None
    return Spec("take_along", ("self", ids), {"axis": call.axis("self", call["dim"])})


@lowers("scatter", "scatter_add", "scatter_reduce")
def scatter_along(call: Call) -> Spec | None:
    """Values written to positions along one axis."""
    if not call.rank("self"):
        return None
    source = [name for name in ("src", "value") if call.has(name)]
    return Spec("scatter_along", ("self", "index", *source), {"axis": call.axis("self", call["dim"])})


@lowers("one_hot")
def one_hot(call: Call) -> Spec:
    """The number of classes is that of the result."""
    return Spec("one_hot", ("self",), {"classes": call.out[-1]})


@lowers("masked_scatter")
def fill_rows(call: Call) -> Spec | None:
    """Whole rows that a mask names are overwritten: as many last axes as the mask is broadcast along."""
    x, mask, source = call.shape("self"), call.shape("mask"), call.shape("source")
    mask = (1,) * (len(x) - len(mask)) + mask
    width = 0
    while width < min(len(x), len(source)) and mask[-1 - width] == 1 and x[-1 - width] == source[-1 - width]:
        width += 1
    return Spec("fill_rows", ("self", "mask", "source"), {"width": width}) if width else None


def _is_mask(node: Any) -> bool:
    return node.meta["val"].dtype in (torch.bool, torch.uint8)


@lowers("index")
def index(call: Call) -> Spec | None:
    """Tensors of integers; one of them is a `gather`: `x[:, index]`. A mask looks into as many axes as it has."""
    given = [(axis, i) for axis, i in enumerate(call["indices"]) if i is not None]
    if len(given) == 1 and _is_mask(given[0][1]):
        axis, mask = given[0]
        return Spec("lookup", ("self", "indices"), {"axes": [axis + a for a in range(mask.meta["val"].ndim)]})
    if not given or any(_is_mask(i) for _, i in given):
        return None
    if len(given) > 1:
        return Spec("lookup", ("self", "indices"), {"axes": [axis for axis, _ in given]})
    axis, node = given[0]
    indices = call.constant_of(node)
    if indices is not None:
        indices = indices.astype("int64")
        indices = indices + call.shape("self")[axis] * (indices < 0)
    return Spec("gather", ("self", "indices"), {"axis": axis, "indices": indices})


@lowers("flip")
def flip(call: Call) -> Spec:
    """Reversed axes."""
    return Spec("flip", ("self",), {"axes": [call.axis("self", d) for d in call["dims"]]})


@lowers("roll")
def roll(call: Call) -> Spec | None:
    """Without axes the tensor would be rolled as one long row: unknown."""
    if not call["dims"]:
        return None
    axes = [call.axis("self", d) for d in call["dims"]]
    return Spec("roll", ("self",), {"shifts": list(call["shifts"]), "axes": axes})


_PAD_MODES = {"constant": "constant", "reflection": "reflect", "replication": "replicate", "reflect": "reflect"}


@lowers(
    "pad", "constant_pad_nd", "reflection_pad1d", "reflection_pad2d", "reflection_pad3d",
    "replication_pad1d", "replication_pad2d", "replication_pad3d",
)  # fmt: skip
def pad(call: Call) -> Spec:
    """torch lists the amounts from the last axis backwards."""
    amounts: list[int] = list(call.get("pad") if "pad" in call else call["padding"])
    last = call.rank("self") - 1
    pads = [(last - i // 2, amounts[i], amounts[i + 1]) for i in range(0, len(amounts), 2)]
    name = call.get("mode") or call.name.split("_")[0]
    return Spec("pad", ("self",), {"pads": pads[::-1], "mode": _PAD_MODES.get(name, name)})


@lowers("pixel_shuffle")
def pixel_shuffle(call: Call) -> Spec | None:
    """Channels become blocks of pixels."""
    return _blocks(call, "depth_to_space", call["upscale_factor"])


@lowers("pixel_unshuffle")
def pixel_unshuffle(call: Call) -> Spec | None:
    """Blocks of pixels become channels."""
    return _blocks(call, "space_to_depth", call["downscale_factor"])


def _blocks(call: Call, kind: str, block: int) -> Spec | None:
    return Spec(kind, ("self",), {"block": block, "mode": "CRD"}) if call.rank("self") == 4 else None


@lowers("im2col")
def im2col(call: Call) -> Spec | None:
    """Sliding windows, laid out as channels times kernel positions."""
    kernel: Any = call["kernel_size"]
    return Spec("unfold", ("self",), {"kernel": kernel[0] * kernel[1]}) if call.rank("self") == 4 else None


@lowers("col2im")
def col2im(call: Call) -> Spec | None:
    """Sliding windows added up into an image."""
    kernel: Any = call["kernel_size"]
    return Spec("fold", ("self",), {"kernel": kernel[0] * kernel[1]}) if call.rank("self") == 3 else None


@lowers("unfold")
def unfold(call: Call) -> Spec | None:
    """`Tensor.unfold`: windows along one axis, their positions on a new last one."""
    return Spec("windows", ("self",), {"axis": call.axis("self", call["dimension"])}) if call.rank("self") else None


@lowers("index_put")
def index_put(call: Call) -> Spec | None:
    """Rows of the first axis are written over (or added to), one for each index."""
    places = call["indices"]
    if len(places) != 1 or places[0] is None:
        return None
    if _is_mask(places[0]):
        return _put_under_mask(call, places[0].meta["val"].ndim)
    if places[0].meta["val"].dtype != torch.int64 or call.shape("values") != (
        *places[0].meta["val"].shape,
        *call.shape("self")[1:],
    ):
        return None
    return Spec("scatter_rows", ("self", "indices", "values"), {"depth": 1, "tuples": 0})


def _put_under_mask(call: Call, covered: int) -> Spec | None:
    """Rows that a mask names, over its own axes, are written over by as many rows."""
    if (
        len(call.shape("values")) != 1 + call.rank("self") - covered
        or call.shape("values")[1:] != call.shape("self")[covered:]
    ):
        return None
    return Spec("scatter_rows", ("self", "indices", "values"), {"depth": covered, "tuples": covered - 1})


@lowers("nonzero", "argwhere", "unique_dim", "_unique2", "unique_consecutive", "masked_select")
def picked(call: Call) -> Spec:
    """Elements (or their positions) as many as there are: all of it is looked at."""
    first, *others = call.tensors()
    return Spec("axiswise", (first, *others), {"axes": list(range(call.rank(first)))})
