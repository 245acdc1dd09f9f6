"""Lowerings: operators that move, select or repeat elements."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import zip_longest
from math import prod

import numpy as np

from .registry import Lowered, UnlowerableError, View, lowers

_PAD_MODES = {"constant": "constant", "reflect": "reflect", "edge": "replicate", "wrap": "circular"}


@lowers("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(view: View) -> Lowered:
    """All of them by the sizes they make."""
    return Lowered("reshape", (0,), {"shape": view.out_shape()})


@lowers("Transpose")
def transpose(view: View) -> Lowered:
    """A permutation; without `perm`, the axes reversed."""
    rank = view.rank()
    return Lowered("transpose", (0,), {"perm": tuple(int(a) for a in view.attr("perm", range(rank)[::-1]))})


@lowers("Expand")
def expand(view: View) -> Lowered:
    """Broadcasting to a shape."""
    return Lowered("expand", (0,), {"shape": view.out_shape()})


@lowers("Tile")
def tile(view: View) -> Lowered | None:
    """Repetition, one count per axis (opset 1's single-axis form has none)."""
    repeats = view.ints("repeats")
    if repeats is None or len(repeats) != view.rank():
        return None
    if any(view.follows("repeats")):
        return Lowered("axiswise", (0,), {"axes": tuple(a for a, f in enumerate(view.follows("repeats")) if f)})
    return Lowered("tile", (0,), {"repeats": tuple(repeats)})


@lowers("Concat")
def concat(view: View) -> Lowered:
    """Concatenation along one axis."""
    return Lowered("concat", view.slots, {"axis": view.axis(int(view.attr("axis", 1)))})


@lowers("Split")
def split(view: View) -> Lowered:
    """Pieces along one axis; their sizes are those of the outputs."""
    axis = view.axis(int(view.attr("axis", 0)))
    count = len(view.proto.output)
    sizes = view.ints("split")
    if sizes is None:
        whole = view.shape()[axis]
        each = -(-whole // int(view.attr("num_outputs", count)))
        sizes = [min(each, whole - i * each) for i in range(count)]
    return Lowered("split", (0,), {"axis": axis, "sizes": sizes}, outputs=count)


@lowers("Slice")
def slice_(view: View) -> Lowered | None:
    """Slices with their bounds resolved against the sizes of the input.

    Where a fixed axis is cut at a size the user chooses (a positional table), all its indices may be needed.
    """
    starts, ends = view.ints("starts"), view.ints("ends")
    if starts is None or ends is None:
        return None
    axes = view.ints("axes") or list(range(len(starts)))
    steps = view.ints("steps") or [1] * len(starts)
    slices: list[tuple[int, int, int, int]] = []
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        own = view.axis(axis)
        first, last, _ = slice(start, end, step).indices(view.shape()[own])
        slices.append((own, first, max(first, last) if step > 0 else last, step))
    open_ended = [a or b for a, b in zip_longest(view.follows("starts"), view.follows("ends"), fillvalue=False)]
    fact = view.fact(0)
    dynamic = fact.dynamic if fact is not None else frozenset()
    if any(free and own not in dynamic for free, (own, *_) in zip(open_ended, slices, strict=False)):
        return Lowered("axiswise", (0,), {"axes": tuple(sorted({own for own, *_ in slices}))})
    return Lowered("slice", (0,), {"slices": slices})


@lowers("Gather")
def gather(view: View) -> Lowered:
    """A scalar constant index selects; anything else looks up rows."""
    axis = view.axis(int(view.attr("axis", 0)))
    fact = view.fact(1)
    if fact is None or fact.small is None or not fact.small.static:
        large = fact.weight.array() if fact is not None and fact.weight is not None else None
        return Lowered("gather", (0, 1), {"axis": axis, "indices": _positive(large, view.shape()[axis])})
    indices = _positive(fact.small.value, view.shape()[axis])
    assert indices is not None
    if indices.ndim == 0:
        return Lowered("select", (0,), {"axis": axis, "index": int(indices)})
    return Lowered("gather", (0, 1), {"axis": axis, "indices": indices})


@lowers("GatherElements")
def take_along(view: View) -> Lowered:
    """A position along one axis for each place of the result; a Gather where constants are the same for all places."""
    axis = view.axis(int(view.attr("axis", 0)))
    fact = view.fact(1)
    known = None if fact is None or fact.small is None or not fact.small.static else fact.small.value
    if known is not None and known.size and _alike(view.shape(), known.shape, axis):
        rows = np.moveaxis(known, axis, 0).reshape(known.shape[axis], -1)
        if (rows == rows[:, :1]).all():
            return Lowered("gather", (0,), {"axis": axis, "indices": _positive(rows[:, 0], view.shape()[axis])})
    return Lowered("take_along", (0, 1), {"axis": view.axis(int(view.attr("axis", 0)))})


@lowers("ScatterElements")
def scatter_along(view: View) -> Lowered:
    """Values written to positions along one axis."""
    return Lowered("scatter_along", (0, 1, 2), {"axis": view.axis(int(view.attr("axis", 0)))})


@lowers("GatherND")
def gather_nd(view: View) -> Lowered | None:
    """Index tuples of length one look up rows of the first axis, like Gather; longer ones look into several axes."""
    shape = view.shape(1)
    if int(view.attr("batch_dims", 0)) or not shape:
        return None
    tuples = constant_tuples(view, 1)
    if shape[-1] == 1:
        return Lowered("gather", (0, 1), {"axis": 0, "indices": None if tuples is None else tuples[..., 0]})
    return Lowered("lookup", (0, 1), {"axes": list(range(shape[-1])), "indices": tuples})


def constant_tuples(view: View, slot: int) -> np.ndarray | None:
    """Constant tuples of indices into the first axes of the first input, none of them negative."""
    fact = view.fact(slot)
    if fact is not None and fact.small is not None:
        tuples = fact.small.value if fact.small.static else None
    else:
        tuples = fact.weight.array() if fact is not None and fact.weight is not None else None
    if tuples is None or not tuples.ndim:
        return None
    columns = [_positive(tuples[..., i], view.shape()[i]) for i in range(tuples.shape[-1])]
    return np.stack([c for c in columns if c is not None], axis=-1)


def _alike(one: Sequence[int], other: Sequence[int], axis: int) -> bool:
    """Whether two shapes differ on one axis only."""
    return len(one) == len(other) and all(a == b for i, (a, b) in enumerate(zip(one, other, strict=True)) if i != axis)


def _positive(indices: np.ndarray | None, size: int) -> np.ndarray | None:
    if indices is None:
        return None
    if indices.dtype.kind not in "iu" or (
        indices.size and not -size <= int(indices.min()) <= int(indices.max()) < size
    ):
        raise UnlowerableError
    return np.where(indices < 0, indices + size, indices).astype(np.int64)


@lowers("Pad")
def pad(view: View) -> Lowered | None:
    """Padding, on the listed axes (opset 18) or on all."""
    pads, mode = view.ints("pads"), _PAD_MODES.get(view.attr("mode", "constant"))
    if pads is None or mode is None:
        return None
    axes = [view.axis(a) for a in view.ints("axes") or range(view.rank())]
    half = len(pads) // 2
    open_ended = [axes[i % half] for i, free in enumerate(view.follows("pads")) if free]
    if open_ended:
        padded = {a for i, a in enumerate(axes) if pads[i] or pads[half + i]}
        return Lowered("axiswise", (0,), {"axes": tuple(sorted(padded | set(open_ended)))})
    triples = zip(axes, pads[:half], pads[half:], strict=True)
    return Lowered("pad", (0,), {"pads": [(a, b, e) for a, b, e in triples if b or e], "mode": mode})


@lowers("Col2Im")
def col2im(view: View) -> Lowered | None:
    """Sliding windows added up into an image."""
    block = view.ints("block_shape")
    return None if block is None or view.rank() != 3 else Lowered("fold", (0,), {"kernel": prod(block)})
