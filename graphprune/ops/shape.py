"""Operators that change how indices are arranged: reshape, transpose, expand, tile, repeat."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

import numpy as np

from graphprune.ir.graph import Node, Value

from .base import Array, Block, Kept, Labeller, operator
from .broadcast import spread

#: A reshape that would need more labels than this freezes what it touches (it never happens for channel axes).
_MOST_LABELS = 1 << 24

#: Stands for size 0: a prime beyond the size of any axis.
_NONE = (1 << 61) - 1


def reshape_groups(before: tuple[int, ...], after: tuple[int, ...]) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Pair the smallest runs of input axes with runs of output axes of the same size; axes of size 1 are left out."""
    groups: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    i = j = 0
    while i < len(before) or j < len(after):
        left, right = 1, 1
        a: list[int] = []
        b: list[int] = []
        while True:
            while i < len(before) and before[i] == 1:
                i += 1
            while j < len(after) and after[j] == 1:
                j += 1
            if left == right and a:
                break
            if left <= right and i < len(before):
                left, a, i = left * before[i], [*a, i], i + 1
            elif j < len(after):
                right, b, j = right * after[j], [*b, j], j + 1
            else:
                break
        if a or b:
            groups.append((tuple(a), tuple(b)))
    return groups


def _rewrite_reshape(node: Node, kept: Kept) -> None:
    x, out = node.inputs[0], node.outputs[0]
    assert x is not None
    shape, takes = kept.shape(out), kept.reorder(x, out)
    if shape != tuple(out.sizes) or takes:
        node.change(shape=shape, take=takes)


@operator("reshape", rewrite=_rewrite_reshape, moves=True)
def reshape(node: Node, labeller: Labeller) -> None:
    """Labels are reshaped with the data: a split axis becomes a joint block, a merge broadcasts and flattens."""
    x, out = node.inputs[0], node.outputs[0]
    assert x is not None
    before, after = _filled(x.sizes), _filled(out.sizes)
    groups = reshape_groups(before, after) if prod(before) == prod(after) else None
    joined = joined_groups(groups or [], labeller.blocks(x), 0)
    if groups is None or any(_mixes_nothing(x, out, *group) for group in joined):
        for block in labeller.blocks(x):
            labeller.freeze(block.labels, "the reshape's sizes are not known")
        labeller.put(out, {})
        return
    found: list[Block] = []
    for ins, outs in joined:
        found.extend(_reshape_group(node, ins, outs, labeller))
    labeller.put_blocks(out, found)


def _filled(sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Sizes with a number that divides no other in place of 0: no rows, as a mask selects that nothing meets, must not
    hide how the other axes hang together.
    """
    return tuple(size or _NONE for size in sizes)


def _mixes_nothing(x: Value, out: Value, ins: tuple[int, ...], outs: tuple[int, ...]) -> bool:
    """Whether an axis of size 0 is split or merged, where labels of its partners would be lost."""
    before, after = [x.sizes[axis] for axis in ins], [out.sizes[axis] for axis in outs]
    return 0 in before and before != after


def joined_groups(
    groups: list[tuple[tuple[int, ...], tuple[int, ...]]], blocks: Iterable[Block], side: int
) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Reshape groups, joined where a joint block of the input (`side` 0) or of the output (1) runs across several."""
    for block in blocks:
        touched = [g for g in groups if set(g[side]) & set(block.axes)]
        if len(touched) > 1:
            at = groups.index(touched[0])
            joined = tuple(a for g in touched for a in g[0]), tuple(a for g in touched for a in g[1])
            groups = [g for g in groups if g not in touched]
            groups.insert(at, joined)
    return groups


def _reshape_group(node: Node, ins: tuple[int, ...], outs: tuple[int, ...], labeller: Labeller) -> list[Block]:
    x, out = node.inputs[0], node.outputs[0]
    assert x is not None
    blocks = [b for b in labeller.blocks(x) if set(b.axes) <= set(ins)]
    if not blocks:
        return []
    before, after = tuple(x.sizes[a] for a in ins), tuple(out.sizes[a] for a in outs)
    if before == after:
        rename = dict(zip(ins, outs, strict=True))
        return [Block(tuple(rename[a] for a in b.axes), b.labels, b.origin) for b in blocks]
    if len(ins) == 1:
        return [carry(blocks[0].labels.reshape(after), outs, node.name)] if len(outs) > 1 else blocks
    if len(outs) > 1 and _turned(blocks, x):
        labeller.resolve(x)
        blocks = [b for b in labeller.blocks(x) if set(b.axes) <= set(ins)]
    block = _active(blocks, node, labeller)
    if prod(before) > _MOST_LABELS:
        labeller.freeze(block.labels, "the reshape is too large to label")
        return []
    return [carry(spread(block, ins, before).reshape(after), outs, block.origin or node.name)]


def _turned(blocks: list[Block], x: Value) -> bool:
    """Whether the axes of a joint block do not lie in the order in which it is stored: what a ragged plan keeps could
    then not be brought into the order of several output axes, each row needing a rearrangement of its own.
    """
    stored = [[axis for axis in block.axes if x.sizes[axis] > 1] for block in blocks]
    return any(axes != sorted(axes) for axes in stored)


def _active(blocks: list[Block], node: Node, labeller: Labeller) -> Block:
    """Of several labeled factors that merge, one stays active."""
    if len(blocks) == 1:
        return blocks[0]
    active = blocks[labeller.choose(f"{node.name} merges", [b.labels for b in blocks])]
    for block in blocks:
        if block is not active:
            labeller.freeze(block.labels, "it is merged into an axis whose other factor is active")
    return active


def carry(labels: Array, outs: tuple[int, ...], origin: str) -> Block:
    """Labels of several axes as one block, without the axes along which they do not change."""
    keep = [i for i in range(len(outs)) if (labels != labels.take([0], axis=i)).any()]
    if not keep:
        keep = [int(np.argmax(labels.shape))]
    index = tuple(slice(None) if i in keep else 0 for i in range(len(outs)))
    return Block(tuple(outs[i] for i in keep), np.ascontiguousarray(labels[index]), origin if len(keep) > 1 else "")


@operator("transpose", moves=True)
def transpose(node: Node, labeller: Labeller) -> None:
    """Axes are renamed."""
    x = node.inputs[0]
    assert x is not None
    where = {axis: i for i, axis in enumerate(node.attrs["perm"])}
    labeller.put_blocks(
        node.outputs[0],
        [Block(tuple(where[a] for a in b.axes), b.labels, b.origin) for b in labeller.blocks(x)],
    )


def _rewrite_expand(node: Node, kept: Kept) -> None:
    out = node.outputs[0]
    shape = kept.shape(out)
    if shape != tuple(out.sizes):
        node.change(shape=shape)


@operator("expand", rewrite=_rewrite_expand, moves=True)
def expand(node: Node, labeller: Labeller) -> None:
    """Axes made by broadcasting get labels of their own."""
    x, out = node.inputs[0], node.outputs[0]
    assert x is not None
    missing = out.rank - x.rank
    labels: dict[int, Array | None] = {}
    for axis in range(out.rank):
        if out.sizes[axis] > 1 and (axis < missing or x.sizes[axis - missing] == 1) and axis not in out.dynamic:
            labels[axis] = labeller.fresh(out.sizes[axis])
    spread = {a for a in range(x.rank) if out.sizes[a + missing] != x.sizes[a]}
    blocks = [_without(block, spread, labeller) for block in labeller.blocks(x)]
    labeller.put_blocks(out, [Block(tuple(a + missing for a in b.axes), b.labels, b.origin) for b in blocks if b])
    labeller.put(out, labels)


@operator("noise", rewrite=_rewrite_expand)
def noise(node: Node, labeller: Labeller) -> None:
    """Random numbers of a size that is written down: each axis has labels of its own."""
    out = node.outputs[0]
    wide = [axis for axis, size in enumerate(out.sizes) if size > 1 and axis not in out.dynamic]
    labeller.put(out, {axis: labeller.fresh(out.sizes[axis]) for axis in wide})


def _without(block: Block, spread: set[int], labeller: Labeller) -> Block | None:
    """A block less the axes (of one index each) that are spread; what has no other axis must stay."""
    left = tuple(a for a in block.axes if a not in spread)
    if len(left) == len(block.axes):
        return block
    if not left:
        labeller.freeze(block.labels, "its one index is repeated")
        return None
    return Block(left, block.labels.squeeze(tuple(i for i, a in enumerate(block.axes) if a in spread)), block.origin)


def _made(node: Node) -> list[int]:
    """Axes of the output of a `tile` that one index is repeated along, as in `expand`."""
    x, out = node.inputs[0], node.outputs[0]
    assert x is not None
    missing = out.rank - x.rank
    single = [a for a in range(out.rank) if a < missing or x.sizes[a - missing] == 1]
    return [a for a in single if out.sizes[a] > 1 and a not in out.dynamic]


def _rewrite_tile(node: Node, kept: Kept) -> None:
    repeats = list(node.attrs["repeats"])
    for axis in _made(node):
        repeats[axis] = kept.size(node.outputs[0], axis)
    if repeats != list(node.attrs["repeats"]):
        node.change(repeats=repeats)


@operator("tile", rewrite=_rewrite_tile, moves=True)
def tile(node: Node, labeller: Labeller) -> None:
    """Labels repeat with the data; where one index is repeated, the copies get labels of their own."""
    x, out, repeats = node.inputs[0], node.outputs[0], node.attrs["repeats"]
    assert x is not None
    missing = out.rank - x.rank
    for axis in range(x.rank):
        if repeats[axis + missing] > 1 and any(b.joint and axis in b.axes for b in labeller.blocks(x)):
            labeller.resolve(x)
    blocks = []
    for b in labeller.blocks(x):
        count = 1 if b.joint else repeats[b.axes[0] + missing]
        blocks.append(
            Block(tuple(a + missing for a in b.axes), np.tile(b.labels, count) if count > 1 else b.labels, b.origin)
        )
    labeller.put_blocks(out, blocks)
    labeller.put(out, {a: labeller.fresh(out.sizes[a]) for a in _made(node)})


def _rewrite_repeat_interleave(node: Node, kept: Kept) -> None:
    x, out, axis = node.inputs[0], node.outputs[0], node.attrs["axis"]
    assert x is not None
    if x.sizes[axis] == 1 and kept.size(out, axis) != out.sizes[axis]:
        node.change(repeats=kept.size(out, axis))


@operator("repeat_interleave", rewrite=_rewrite_repeat_interleave, moves=True)
def repeat_interleave(node: Node, labeller: Labeller) -> None:
    """Each index becomes several that go together; where there is just one, its copies get labels of their own."""
    x, out, axis, count = node.inputs[0], node.outputs[0], node.attrs["axis"], node.attrs["repeats"]
    assert x is not None
    if any(b.joint and axis in b.axes for b in labeller.blocks(x)):
        labeller.resolve(x)
    labeller.put_blocks(
        out,
        [
            Block(b.axes, np.repeat(b.labels, count) if b.axes == (axis,) else b.labels, b.origin)
            for b in labeller.blocks(x)
        ],
    )
    if x.sizes[axis] == 1 and out.sizes[axis] > 1 and axis not in out.dynamic:
        labeller.put(out, {axis: labeller.fresh(out.sizes[axis])})
