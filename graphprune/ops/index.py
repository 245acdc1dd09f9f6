"""Operators that pick, join or move indices: concat, split, slice, gather, flip, roll, pad and their kin."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from graphprune.ir.graph import Node, Value

from .base import Array, Block, Kept, Labeller, operator
from .position import look_up
from .shape import carry


def _pieces(
    node: Node, axis: int, bounds: Sequence[tuple[int, int]], drop: bool, labeller: Labeller
) -> list[list[Block]]:
    """The blocks of each piece [start, stop) of input 0 along `axis`, which disappears if `drop`."""
    x = node.inputs[0]
    assert x is not None
    widths = {stop - start for start, stop in bounds}
    joint = next((b for b in labeller.blocks(x) if b.joint and axis in b.axes), None)
    if joint is not None and (axis != joint.axes[0] or len(widths) != 1 or x.sizes[axis] % next(iter(widths))):
        labeller.resolve(x)
        joint = None
    if joint is not None:
        labeller.balance(joint.labels.reshape(x.sizes[axis] // next(iter(widths)), -1))
    pieces = []
    for start, stop in bounds:
        found = []
        for block in labeller.blocks(x):
            if axis not in block.axes:
                found.append(_renamed(block, axis, drop))
            elif block.joint:
                found.extend(_joint_piece(block, start, stop, drop))
            elif not drop:
                found.append(Block(block.axes, block.labels[start:stop]))
        pieces.append(found)
    return pieces


def _joint_piece(block: Block, start: int, stop: int, drop: bool) -> list[Block]:
    labels, axes = block.labels[start:stop], block.axes
    if stop - start == 1:
        labels, axes = labels[0], axes[1:]
    return [_renamed(Block(axes, labels, block.origin), block.axes[0], drop)]


def _renamed(block: Block, axis: int, drop: bool) -> Block:
    if not drop:
        return block
    return Block(tuple(a - (a > axis) for a in block.axes), block.labels, block.origin)


def _rewrite_split(node: Node, kept: Kept) -> None:
    axis = node.attrs["axis"]
    sizes = [kept.size(output, axis) for output in node.outputs if not kept.gone(output)]
    if sizes != list(node.attrs["sizes"]):
        node.change(sizes=sizes)


@operator("split", rewrite=_rewrite_split, moves=True)
def split(node: Node, labeller: Labeller) -> None:
    """Each output takes its piece of the labels."""
    axis, ends = node.attrs["axis"], np.cumsum(node.attrs["sizes"]).tolist()
    bounds = list(zip([0, *ends[:-1]], ends, strict=True))
    pieces = _pieces(node, axis, bounds, False, labeller)
    for output, (start, stop), blocks in zip(node.outputs, bounds, pieces, strict=True):
        labeller.put_blocks(output, _picked(node, output, axis, blocks, labeller) if stop - start == 1 else blocks)


def _picked(node: Node, out: Value, axis: int, blocks: list[Block], labeller: Labeller) -> list[Block]:
    """The blocks of a piece one index wide. All of it goes with that index, if it is computed: a constant's piece has
    a label there.
    """
    x, own = node.inputs[0], next((b for b in blocks if b.axes == (axis,)), None)
    if own is None or x is None or x.weight is not None or not labeller.stands_alone(node):
        return blocks
    labeller.vanish(node, out, int(own.labels[0]))
    return [b for b in blocks if b is not own]


def _pick_all(node: Node, axis: int, picks: Sequence[int], labeller: Labeller) -> None:
    """Indices picked by position, one for each output, from an axis that is labeled on its own. All of an output goes
    with its index; a constant's axis must stay.
    """
    x = node.inputs[0]
    assert x is not None
    if not any(b.axes == (axis,) for b in labeller.blocks(x)):
        return
    labels = labeller.axis(x, axis)
    if labels is None or x.weight is not None or not labeller.stands_alone(node):
        labeller.freeze(labels, f"{node.op} picks single indices of this axis")
        return
    labeller.apart(labels)
    for output, index in zip(node.outputs, picks, strict=True):
        labeller.vanish(node, output, int(labels[index]), strict=True)


@operator("unbind", moves=True)
def unbind(node: Node, labeller: Labeller) -> None:
    """One output per index. An axis that is labeled on its own cannot lose an index here."""
    axis, count = node.attrs["axis"], len(node.outputs)
    pieces = _pieces(node, axis, [(i, i + 1) for i in range(count)], True, labeller)
    _pick_all(node, axis, range(count), labeller)
    for output, blocks in zip(node.outputs, pieces, strict=True):
        labeller.put_blocks(output, blocks)


def _rewrite_select(node: Node, kept: Kept) -> None:
    x = node.inputs[0]
    assert x is not None
    axis, index = node.attrs["axis"], node.attrs["index"]
    left = kept.indices(x, axis) if kept.alone(x, axis) else None
    if left is not None and (at := int(np.searchsorted(left, index))) != index:
        node.change(index=at)


@operator("select", rewrite=_rewrite_select, moves=True)
def select(node: Node, labeller: Labeller) -> None:
    """One index of an axis, which disappears."""
    axis, index = node.attrs["axis"], node.attrs["index"]
    pieces = _pieces(node, axis, [(index, index + 1)], True, labeller)
    _pick_all(node, axis, [index], labeller)
    labeller.put_blocks(node.outputs[0], pieces[0])


def positions(start: int, stop: int, step: int) -> Array:
    """The indices of a slice whose bounds are resolved (`stop` may be -1 for a negative step)."""
    return np.arange(start, stop, step)


def _takes_all(x: Value, axis: int, start: int, stop: int, step: int) -> bool:
    return step == 1 and start == 0 and stop >= x.sizes[axis]


def _rewrite_slice(node: Node, kept: Kept) -> None:
    x = node.inputs[0]
    assert x is not None
    slices, takes = [], []
    for axis, start, stop, step in node.attrs["slices"]:
        size = kept.size(x, axis)
        if _takes_all(x, axis, start, stop, step):  # an axis may even be labeled jointly with others then
            slices.append((axis, start, stop if size == x.sizes[axis] else size, step))
            continue
        indices = None if size == x.sizes[axis] else kept.indices(x, axis)
        if indices is None:
            slices.append((axis, start, stop, step))
            continue
        picked = positions(start, stop, step)
        alive = np.flatnonzero(np.isin(picked, indices))
        where = np.searchsorted(indices, picked[alive])
        steps = set(np.diff(where).tolist())
        if len(where) and steps <= {1}:
            slices.append((axis, int(where[0]), int(where[-1]) + 1, 1))
        elif len(where) > 1 and len(steps) == 1 and next(iter(steps)) > 0:
            slices.append((axis, int(where[0]), int(where[-1]) + 1, next(iter(steps))))
        else:
            takes.append((axis, where.astype(np.int64)))
    if slices != list(node.attrs["slices"]) or takes:
        node.change(slices=slices, take=takes)


@operator("slice", rewrite=_rewrite_slice, moves=True)
def slice_(node: Node, labeller: Labeller) -> None:
    """Labels are sliced with the data; the same array where everything is taken."""
    x, out = node.inputs[0], node.outputs[0]
    assert x is not None
    for axis, start, stop, step in node.attrs["slices"]:
        if _takes_all(x, axis, start, stop, step):
            continue
        if stop - start == 1 and step == 1 and len(node.attrs["slices"]) == 1:
            blocks = _pieces(node, axis, [(start, stop)], False, labeller)[0]
            labeller.put_blocks(out, _picked(node, out, axis, blocks, labeller))
            return
        if any(b.joint and axis in b.axes for b in labeller.blocks(x)):
            labeller.resolve(x)
    blocks = []
    taken = {axis: positions(start, stop, step) for axis, start, stop, step in node.attrs["slices"]}
    for block in labeller.blocks(x):
        pick = None if block.joint else taken.get(block.axes[0])
        whole = pick is None or (len(pick) == len(block.labels) and (pick[:1] == 0).all())
        blocks.append(block if whole else Block(block.axes, block.labels[pick]))
    labeller.put_blocks(out, blocks)


def _rewrite_gather(node: Node, kept: Kept) -> None:
    data, out, axis, indices = node.inputs[0], node.outputs[0], node.attrs["axis"], node.attrs["indices"]
    assert data is not None
    left = kept.indices(data, axis)
    if left is None or indices is None:
        return
    stored = kept.stored(np.asarray(indices), out, tuple(range(axis, axis + indices.ndim)))
    node.change(indices=np.searchsorted(left, stored).astype(np.int64))


@operator("gather", rewrite=_rewrite_gather, bears=True, moves=True)
def gather(node: Node, labeller: Labeller) -> None:
    """Constant indices rearrange labels; indices computed from the input freeze the axis they look into, unless they
    are positions along an axis with labels: then both go together.
    """
    data, out, axis, indices = node.inputs[0], node.outputs[0], node.attrs["axis"], node.attrs["indices"]
    assert data is not None
    if any(b.joint and axis in b.axes for b in labeller.blocks(data)):
        labeller.resolve(data, axis)
    labels = labeller.axis(data, axis)
    constant = indices is not None and np.ndim(indices) > 0
    ids = node.inputs[1] if len(node.inputs) > 1 else None
    if not constant:
        look_up(labels, ids, labeller)
    width = out.rank - data.rank
    blocks = [
        Block(tuple(a if a < axis else a + width for a in b.axes), b.labels, b.origin)
        for b in labeller.blocks(data)
        if axis not in b.axes
    ]
    if ids is not None and not constant:
        for block in labeller.blocks(ids):
            labeller.freeze(block.labels, "it is an index")
    if constant and labels is not None and indices.size > 1:
        blocks.append(carry(labels[indices], tuple(range(axis, axis + indices.ndim)), node.name))
    elif constant:
        labeller.freeze(None if labels is None else labels[indices].reshape(-1), "a single index of it is picked")
    labeller.put_blocks(out, blocks)


def _rewrite_slice_scatter(node: Node, kept: Kept) -> None:
    out, src, axis = node.outputs[0], node.inputs[1], node.attrs["axis"]
    assert src is not None
    indices = kept.indices(out, axis)  # the input's, which may be a constant that is another tensor at each use
    if indices is not None:
        start = int(np.searchsorted(indices, node.attrs["start"]))
        node.change(start=start, stop=start + kept.size(src, axis))


@operator("slice_scatter", rewrite=_rewrite_slice_scatter)
def slice_scatter(node: Node, labeller: Labeller) -> None:
    """The overwritten slice meets what is written."""
    x, src, axis = node.inputs[0], node.inputs[1], node.attrs["axis"]
    assert x is not None and src is not None
    labeller.resolve(x)
    labeller.resolve(src)
    picked = positions(node.attrs["start"], node.attrs["stop"], node.attrs["step"])
    for a in range(x.rank):
        mine, theirs = labeller.axis(x, a), labeller.axis(src, a)
        if a == axis and len(picked) != x.sizes[a]:
            if node.attrs["step"] != 1:
                labeller.freeze(mine, "a strided slice of it is overwritten")
            labeller.equal(None if mine is None else mine[picked], theirs)
        elif x.sizes[a] > 1:
            labeller.equal(mine, theirs)
    labeller.put_blocks(node.outputs[0], labeller.blocks(x))


@operator("flip", moves=True)
def flip(node: Node, labeller: Labeller) -> None:
    """Labels are reversed with the data."""
    x = node.inputs[0]
    assert x is not None
    _permute(node, {a: np.arange(x.sizes[a])[::-1] for a in node.attrs["axes"]}, labeller)


def _rewrite_roll(node: Node, kept: Kept) -> None:
    x = node.inputs[0]
    assert x is not None
    shifts = []
    for shift, axis in zip(node.attrs["shifts"], node.attrs["axes"], strict=True):
        indices, size = kept.indices(x, axis), x.sizes[axis]
        shifts.append(shift if indices is None else int((indices >= size - shift % size).sum()))
    if shifts != list(node.attrs["shifts"]):
        node.change(shifts=shifts)


@operator("roll", rewrite=_rewrite_roll, moves=True)
def roll(node: Node, labeller: Labeller) -> None:
    """Labels are rolled with the data; the shift becomes the number of kept indices that wrap around."""
    x = node.inputs[0]
    assert x is not None
    moves = zip(node.attrs["shifts"], node.attrs["axes"], strict=True)
    _permute(node, {a: np.roll(np.arange(x.sizes[a]), s) for s, a in moves}, labeller)


def _permute(node: Node, orders: dict[int, Array], labeller: Labeller) -> None:
    x = node.inputs[0]
    assert x is not None
    for axis in orders:
        if any(b.joint and axis in b.axes for b in labeller.blocks(x)):
            labeller.resolve(x)
    labeller.put_blocks(
        node.outputs[0],
        [
            Block(b.axes, b.labels[orders[b.axes[0]]]) if not b.joint and b.axes[0] in orders else b
            for b in labeller.blocks(x)
        ],
    )


def _rewrite_pad(node: Node, kept: Kept) -> None:
    x, out = node.inputs[0], node.outputs[0]
    assert x is not None
    pads = []
    for axis, before, after in node.attrs["pads"]:
        if before or after:
            left, right = kept.indices(x, axis), kept.indices(out, axis)
            before, after = _kept_pads(right, left, x.sizes[axis], out.sizes[axis], before)
        pads.append((axis, before, after))
    if pads != [tuple(pad) for pad in node.attrs["pads"]]:
        node.change(pads=pads)


def _kept_pads(out: Array | None, inside: Array | None, size: int, padded: int, before: int) -> tuple[int, int]:
    """Pad amounts after pruning; negative amounts crop what is left of the cropped part."""
    out = np.arange(padded) if out is None else out
    inside = np.arange(size) if inside is None else inside
    lead = int((out < before).sum()) if before >= 0 else -int((inside < -before).sum())
    after = padded - size - before
    trail = int((out >= padded - after).sum()) if after >= 0 else -int((inside >= size + after).sum())
    return lead, trail


@operator("pad", rewrite=_rewrite_pad)
def pad(node: Node, labeller: Labeller) -> None:
    """A constant pad adds new labels, which may go like any other; other modes copy indices and freeze the axis."""
    x, out = node.inputs[0], node.outputs[0]
    assert x is not None
    for axis, before, after in node.attrs["pads"]:
        if (before or after) and any(b.joint and axis in b.axes for b in labeller.blocks(x)):
            labeller.resolve(x, axis)
    blocks = {b.axes: b for b in labeller.blocks(x)}
    for axis, before, after in node.attrs["pads"]:
        block = blocks.get((axis,))
        if block is None or not (before or after):
            continue
        if node.attrs["mode"] != "constant":
            labeller.freeze(block.labels, f"padded by {node.attrs['mode']}")
            del blocks[(axis,)]
            continue
        middle = block.labels[max(-before, 0) : len(block.labels) - max(-after, 0)]
        ends = labeller.fresh(max(before, 0)), labeller.fresh(max(after, 0))
        blocks[(axis,)] = Block((axis,), np.concatenate([ends[0], middle, ends[1]]))
    labeller.put_blocks(out, list(blocks.values()))
