"""Raisings of operators that carry sizes, bounds or indices."""

from __future__ import annotations

from math import gcd, prod

import numpy as np

from graphprune.errors import GraphPruneError

from ..protos import attributes
from .raising import Draft, raises, sizes_changed
from .writer import Entry


def _carried(draft: Draft, own: int, axis: int) -> bool:
    """Whether output axis `axis` has the size of input axis `own` whatever the user feeds."""
    x, out = draft.x_fact, draft.out_fact
    if None in (x.shape, x.other_shape, out.shape, out.other_shape) or not 0 <= own < draft.x.rank:
        return False
    pairs = ((x.shape, out.shape), (x.other_shape, out.other_shape))
    if own != axis and x.other_shape is not None and x.other_shape[own] < 0:
        return False  # it may be any size
    return all(a is not None and b is not None and a[own] == b[axis] for a, b in pairs)


def _computed(draft: Draft, original: list[int | Entry] | None, axis: int) -> Entry | None:
    """The computed entry of the original target shape for an axis; None if it had none."""
    before = draft.out_fact.shape
    entry = original[axis] if original is not None and before is not None and len(original) == len(before) else None
    return entry if isinstance(entry, Entry) else None


def _scaled(draft: Draft, original: list[int | Entry] | None, axis: int, size: int) -> int | Entry:
    """The computed entry of a target shape, scaled where pruning changed a factor of it."""
    entry, before = _computed(draft, original, axis), draft.out_fact.shape
    if entry is None or before is None:
        raise GraphPruneError(f"the size of axis {axis} of '{draft.out.name}' cannot be computed for any input")
    common = gcd(size, before[axis])
    return Entry(entry.name, entry.index, size // common, before[axis] // common)


@raises("Reshape", "Flatten", "Squeeze", "Unsqueeze")
def reshape(draft: Draft) -> None:
    """A constant target; one axis that follows the input becomes -1, more are copied (0) or computed."""
    shape = tuple(int(n) for n in draft.attrs["shape"])
    if draft.op != "Reshape":
        if _natural(draft) == shape:
            return
        _become_reshape(draft)
    dynamic = [axis for axis in sorted(draft.out.dynamic) if axis < len(shape)]
    entries: list[int | Entry] = list(shape)
    if len(dynamic) > 1:
        for axis in dynamic:
            if _carried(draft, axis, axis) and draft.x.sizes[axis] == shape[axis]:
                entries[axis] = 0
        dynamic = [axis for axis in dynamic if entries[axis] != 0]
    raw = draft.raw("shape")
    computed = [] if len(dynamic) == 1 else [axis for axis in dynamic if _computed(draft, raw, axis) is not None]
    if len(dynamic) > len(computed) + 1:
        raise GraphPruneError(f"several sizes of '{draft.out.name}' cannot be computed for any input")
    for axis in dynamic:
        entries[axis] = _scaled(draft, raw, axis, shape[axis]) if axis in computed else -1
    if any(e == 0 for e in entries) and 0 not in shape:
        draft.set("allowzero", None)
    draft.set_slot(1, draft.writer.vector(entries, f"{draft.out.name}_shape"))


def _natural(draft: Draft) -> tuple[int, ...] | None:
    """The sizes a Flatten, Squeeze or Unsqueeze makes of its present input."""
    sizes, attrs = draft.x.sizes, attributes(draft.original)
    if draft.op == "Flatten":
        axis = attrs.get("axis", 1) % (len(sizes) + 1) if attrs.get("axis", 1) >= 0 else attrs["axis"] + len(sizes)
        return prod(sizes[:axis]), prod(sizes[axis:])
    axes = draft.raw("axes")
    if axes is not None and any(isinstance(a, Entry) for a in axes):
        return None
    if draft.op == "Squeeze":
        if axes is None:
            return tuple(n for n in sizes if n != 1)
        gone = {a % len(sizes) for a in axes if isinstance(a, int)}
        return tuple(n for a, n in enumerate(sizes) if a not in gone)
    rank = len(sizes) + len(axes or [])
    new, rest = {a % rank for a in axes or [] if isinstance(a, int)}, iter(sizes)
    return tuple(1 if a in new else next(rest) for a in range(rank))


def _become_reshape(draft: Draft) -> None:
    draft.proto.op_type = "Reshape"
    del draft.proto.attribute[:]
    del draft.proto.input[1:]


@raises("Expand")
def expand(draft: Draft) -> None:
    """A target of constants; axes that follow the input are 1 where the operand has them already."""
    shape = draft.attrs["shape"]
    missing = len(shape) - draft.x.rank
    raw = draft.raw("shape")
    if raw is not None and draft.out_fact.shape is not None:
        raw = [*[1] * (len(draft.out_fact.shape) - len(raw)), *raw]
    entries: list[int | Entry] = []
    for axis, size in enumerate(shape):
        if axis not in draft.out.dynamic:
            entries.append(int(size))
        else:
            entries.append(1 if _carried(draft, axis - missing, axis) else _scaled(draft, raw, axis, int(size)))
    draft.set_slot(1, draft.writer.vector(entries, f"{draft.out.name}_shape"))


@raises("RandomNormal", "RandomUniform")
def noise(draft: Draft) -> None:
    """Sizes, which these operators have written down."""
    draft.set("shape", [int(n) for n in draft.attrs["shape"]])


@raises("ConstantOfShape")
def constant_of_shape(draft: Draft) -> None:
    """A target of constants and computed sizes."""
    raw = draft.raw("input")
    entries = [
        _scaled(draft, raw, axis, int(size)) if axis in draft.out.dynamic else int(size)
        for axis, size in enumerate(draft.attrs["shape"])
    ]
    draft.set_slot(0, draft.writer.vector(entries, f"{draft.out.name}_shape"))


@raises("Slice")
def slice_(draft: Draft) -> None:
    """Bounds of fixed axes are written out; those of axes that follow the input stay as they came."""
    raw = {name: draft.raw(name) for name in ("starts", "ends", "axes", "steps")}
    count = len(raw["starts"] or [])
    rank = draft.x.rank
    axes = [a % rank for a in raw["axes"] or range(count) if isinstance(a, int)]
    rows: list[tuple[int, int | Entry, int | Entry, int]] = []
    for axis, start, stop, step in draft.attrs["slices"]:
        at = axes.index(axis) if axis in axes else -1
        if axis in draft.x.dynamic and at >= 0:
            rows.append((axis, (raw["starts"] or [])[at], (raw["ends"] or [])[at], step))
        else:
            rows.append((axis, start, -draft.x.sizes[axis] - 1 if step < 0 and stop < 0 else stop, step))
    if not rows:
        rows = [(0, 0, (1 << 31) - 1, 1)]
    for name, column in zip(("axes", "starts", "ends", "steps"), zip(*rows, strict=True), strict=True):
        if name == "steps" and draft.writer.has_attribute("Slice", "starts"):
            continue
        draft.set_parameter(name, list(column))


@raises("Split")
def split(draft: Draft) -> None:
    """Explicit sizes."""
    draft.set("num_outputs", None)
    draft.set("axis", int(draft.attrs["axis"]))
    draft.set_parameter("split", [int(n) for n in draft.attrs["sizes"]])


@raises("Gather")
def gather(draft: Draft) -> None:
    """New constant indices; a scalar for `select`."""
    if draft.node.kind == "select":
        indices = np.asarray(draft.attrs["index"], np.int64)
    elif draft.attrs["indices"] is not None:
        indices = np.asarray(draft.attrs["indices"], np.int64)
    else:
        return
    draft.set("axis", int(draft.attrs["axis"]))
    draft.set_slot(1, draft.writer.constant(indices, f"{draft.out.name}_indices"))


@raises("GatherND")
def gather_nd(draft: Draft) -> None:
    """New constant index tuples."""
    if draft.node.kind == "lookup":
        draft.set_slot(1, draft.writer.constant(np.asarray(draft.attrs["indices"]), f"{draft.out.name}_indices"))
    elif draft.attrs["indices"] is not None:
        indices = np.asarray(draft.attrs["indices"], np.int64)[..., None]
        draft.set_slot(1, draft.writer.constant(indices, f"{draft.out.name}_indices"))


@raises("ScatterND")
def scatter_nd(draft: Draft) -> None:
    """New constant index tuples."""
    draft.set_slot(1, draft.writer.constant(np.asarray(draft.attrs["indices"]), f"{draft.out.name}_indices"))


@raises("GatherElements", always=True)
def gather_elements(draft: Draft) -> None:
    """Constants that are the same everywhere are those of a Gather, which asks for no sizes of other axes."""
    if draft.node.kind != "gather" or not (draft.node.changed or sizes_changed(draft.x, draft.x_fact)):
        return
    draft.proto.op_type = "Gather"
    draft.set("axis", int(draft.attrs["axis"]))
    indices = np.asarray(draft.attrs["indices"], np.int64)
    draft.set_slot(1, draft.writer.constant(indices, f"{draft.out.name}_indices"))


@raises("Pad")
def pad(draft: Draft) -> None:
    """Amounts for every axis."""
    rank = draft.x.rank
    amounts: list[int | Entry] = [0] * (2 * rank)
    for axis, before, after in draft.attrs["pads"]:
        amounts[axis], amounts[rank + axis] = int(before), int(after)
    if draft.raw("axes") is not None:
        draft.set_slot(PAD_AXES, "")
    draft.set_parameter("pads", amounts)


#: The slot of Pad's axes.
PAD_AXES = 3


@raises("Tile")
def tile(draft: Draft) -> None:
    """Repeats of every axis."""
    draft.set_parameter("repeats", [int(n) for n in draft.attrs["repeats"]])


@raises("OneHot")
def one_hot(draft: Draft) -> None:
    """The number of classes."""
    draft.set_parameter("depth", [int(draft.attrs["classes"])])


@raises("Gemm")
def gemm(draft: Draft) -> None:
    """Transposition flags."""
    draft.set("transA", int(bool(draft.attrs["trans_a"])))
    draft.set("transB", int(bool(draft.attrs["trans_b"])))


@raises("Resize", always=True)
def resize(draft: Draft) -> None:
    """Where the target is given as sizes, those of batch and channel follow the input."""
    raw = draft.raw("sizes") if draft.node.kind == "spatial" else None
    if not raw or not sizes_changed(draft.x, draft.x_fact):
        return
    axes = attributes(draft.original).get("axes") or list(range(draft.x.rank))
    entries = [
        draft.x.sizes[a] if a % draft.x.rank < 2 and a % draft.x.rank not in draft.x.dynamic else e
        for a, e in zip(axes, raw, strict=True)
    ]
    draft.set_slot(3, draft.writer.vector(entries, f"{draft.out.name}_sizes"))


@raises("Shape", "Size", always=True)
def measure(draft: Draft) -> None:
    """Shape arithmetic goes on with the sizes the model had, except on axes that follow the input.

    What depends on it is written from its own attributes; computing with pruned sizes as well would count them twice.
    """
    fact = draft.x_fact
    if not sizes_changed(draft.x, fact) or fact.shape is None or len(fact.shape) != draft.x.rank:
        return
    writer, output = draft.writer, draft.proto.output[0]
    measured = writer.fresh(f"{output}_pruned")
    draft.proto.output[0] = measured
    if draft.op == "Size":
        before, after = prod(fact.shape), prod(draft.x.sizes)
        scaled = writer.node("Mul", [measured, _scalar(draft, before)], writer.fresh(measured))
        writer.node("Div", [scaled, _scalar(draft, after)], output)
        return
    attrs = attributes(draft.original)
    part = slice(attrs.get("start", 0), attrs.get("end"))
    follows = np.array([axis in fact.dynamic for axis in range(len(fact.shape))])[part]
    original = writer.ints(fact.shape[part], f"{output}_sizes")
    writer.node("Where", [writer.constant(follows, f"{output}_follows"), measured, original], output)


def _scalar(draft: Draft, number: int) -> str:
    return draft.writer.constant(np.asarray(number, np.int64), f"{draft.out.name}_factor")
