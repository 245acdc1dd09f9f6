"""How labels meet under numpy broadcasting: shared by elementwise operators, stack, concat and batched matmul."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from graphprune.ir.graph import Value

from .base import Array, Block, Labeller


@dataclass(frozen=True)
class Operand:
    """A value and, for each axis of the result, its own axis there (None: absent)."""

    value: Value
    axes: tuple[int | None, ...]

    def spans(self, axis: int) -> bool:
        """Whether the operand has more than one index along a result axis."""
        own = self.axes[axis]
        return own is not None and self.value.sizes[own] > 1

    def covered(self, labeller: Labeller) -> list[Block]:
        """The operand's blocks, on the result's axes; blocks on axes the result does not share are left out."""
        back = {own: axis for axis, own in enumerate(self.axes) if own is not None}
        return [
            Block(tuple(back[a] for a in block.axes), block.labels, block.origin)
            for block in labeller.blocks(self.value)
            if all(a in back for a in block.axes)
        ]


def aligned(value: Value, rank: int) -> Operand:
    """The operand aligned from the right, as numpy does."""
    missing = rank - value.rank
    return Operand(value, tuple(None if a < missing else a - missing for a in range(rank)))


def meet(operands: Sequence[Operand], rank: int, labeller: Labeller) -> list[Block]:
    """Equate labels of operands that share result axes; return the blocks of the result."""
    _settle_joints(operands, rank, labeller)
    covers = [operand.covered(labeller) for operand in operands]
    merged: list[Block] = []
    for axes in _clusters([block.axes for blocks in covers for block in blocks]):
        block = _meet_cluster(axes, operands, covers, labeller)
        if block is not None:
            merged.append(block)
    return merged


def _settle_joints(operands: Sequence[Operand], rank: int, labeller: Labeller) -> None:
    """Resolve joint blocks wherever another operand labels or fixes some, but not all, of their axes."""
    for _ in range(len(operands) * 2):
        if not any(_settle_one(o, operands, rank, labeller) for o in operands):
            return


def _settle_one(operand: Operand, operands: Sequence[Operand], rank: int, labeller: Labeller) -> bool:
    own = {axis: a for axis, a in enumerate(operand.axes) if a is not None}
    for block in operand.covered(labeller):
        if not block.joint:
            continue
        for other in operands:
            if other is operand:
                continue
            spanned = [a for a in block.axes if other.spans(a)]
            if not spanned:
                continue
            theirs = {b.axes for b in other.covered(labeller) if set(b.axes) & set(block.axes)}
            if theirs == {block.axes}:
                continue
            covered = {a for axes in theirs for a in axes}
            free = [a for a in block.axes if a not in spanned or a in covered]
            outer_only = len(theirs) == 1 and theirs == {(block.axes[0],)} and spanned == [block.axes[0]]
            if outer_only:
                continue  # a factor per outer index: broadcasting ties what it must
            labeller.resolve(operand.value, own[free[0]] if free and block.axes[0] not in free else None)
            return True
    return False


def _clusters(blocks: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Sets of result axes that are labelled together, in the order of the largest block."""
    clusters: list[tuple[int, ...]] = []
    for axes in sorted(set(blocks), key=len, reverse=True):
        if not any(set(axes) <= set(cluster) for cluster in clusters):
            overlap = [c for c in clusters if set(axes) & set(c)]
            for c in overlap:
                clusters.remove(c)
            clusters.append(tuple(dict.fromkeys([a for c in [*overlap, axes] for a in c])))
    return clusters


def _meet_cluster(
    axes: tuple[int, ...], operands: Sequence[Operand], covers: Sequence[list[Block]], labeller: Labeller
) -> Block | None:
    first: Block | None = None
    fixed = False
    for operand, blocks in zip(operands, covers, strict=True):
        spanned = [a for a in axes if operand.spans(a)]
        if not spanned:
            continue
        mine = [b for b in blocks if set(b.axes) <= set(axes)]
        if not mine:
            fixed = True
        for block in mine:
            if first is None:
                first = block
            elif block.axes == first.axes:
                labeller.equal(first.labels, block.labels)
            else:
                first = _broadcast_equal(first, block, labeller)
    if first is not None and fixed:
        labeller.equal(first.labels, None)
        return None  # no choice further on should fall on what stays anyway
    return first


def _broadcast_equal(a: Block, b: Block, labeller: Labeller) -> Block:
    """Equate blocks of which one covers a subset of the other's axes; return the wider."""
    wide, narrow = (a, b) if len(a.axes) >= len(b.axes) else (b, a)
    if wide.joint and narrow.origin == rows_of(wide):
        labeller.balance(np.ascontiguousarray(wide.labels.reshape(len(wide.labels), -1)))
        return wide
    labeller.equal(wide.labels, spread(narrow, wide.axes, wide.labels.shape))
    return wide


def rows_of(block: Block) -> str:
    """The origin of a block with an index for each row of this joint one, all of which stay, as the mean of each group
    in a group norm has: rows that meet it again need equal numbers, not the same ones.
    """
    return f"rows of {block.origin}"


def spread(block: Block, axes: tuple[int, ...], shape: tuple[int, ...]) -> Array:
    """Broadcast a block's labels to more axes, in their order."""
    order = [block.axes.index(a) for a in axes if a in block.axes]
    labels = block.labels.transpose(order)
    view = labels.reshape([shape[i] if a in block.axes else 1 for i, a in enumerate(axes)])
    return np.broadcast_to(view, shape)
