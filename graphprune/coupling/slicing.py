"""What a mask over components means for every axis of every value: kept indices, sizes, and the order they lie in."""

from __future__ import annotations

from math import prod

import numpy as np

from graphprune.errors import GraphPruneError
from graphprune.ir.graph import Node, Value
from graphprune.ops import Block
from graphprune.ops.base import Array
from graphprune.ops.shape import joined_groups, reshape_groups

from . import Coupling, Table, Use, there


def layout(mask: Array) -> tuple[tuple[int, ...], bool]:
    """How the kept elements of a joint block are stored: (sizes, whether they form a grid).

    A grid drops empty outer indices and asks that what is left of each keeps the same sizes, at whatever positions.
    What is no grid is stored in one line along the outermost axis.
    """
    sizes = _grid(mask)
    if sizes is None:
        return (int(mask.sum()), *([1] * (mask.ndim - 1))), False
    return sizes, True


def _grid(mask: Array) -> tuple[int, ...] | None:
    if mask.ndim == 1:
        return (int(mask.sum()),)
    flat = mask.reshape(len(mask), -1)
    alive = mask[flat.any(1)]
    if not len(alive):
        return None
    if (alive == alive[0]).all():
        inner = _grid(alive[0])
    else:
        found = {_grid(row) for row in alive}
        inner = found.pop() if len(found) == 1 else None
    return None if inner is None else (len(alive), *inner)


def along_one_axis(order: Array) -> tuple[int, Array] | None:
    """A rearrangement of a whole grid (flat indices, in the grid's shape) as a gather along one axis, if it is one."""
    flat = np.arange(order.size).reshape(order.shape)
    for axis in range(order.ndim):
        first = order[tuple(slice(None) if a == axis else 0 for a in range(order.ndim))]
        indices = np.unravel_index(first, order.shape)[axis]
        if np.array_equal(flat.take(indices, axis=axis), order):
            return axis, indices.astype(np.int64)
    return None


def kept_rows(coupling: Coupling, keep: Array) -> list[tuple[Table, Array]]:
    """Which rows of tables whose rows may go stay: row `i` of the pruned table is row `ids[i]` of the original."""
    alive = keep[coupling.component]
    found = []
    for table in coupling.tables:
        block = next(b for b in coupling.blocks[table.weight] if b.axes == (table.axis,))
        found.append((table, np.flatnonzero(alive[block.labels])))
    return found


class Survivors:
    """The `Kept` of rewrite rules, for one mask over the components of a coupling."""

    def __init__(self, coupling: Coupling, keep: Array) -> None:
        self._coupling = coupling
        self._label_keep = keep[coupling.component]
        self._cache: dict[int, Array | None] = {}

    def mask(self, labels: Array) -> Array:
        """Which labels stay."""
        return self._label_keep[labels]

    def blocks(self, value: Value) -> tuple[Block, ...]:
        """The blocks of a computed value."""
        return self._coupling.blocks.get(value, ())

    def ascending(self, labels: Array) -> Array | None:
        """Kept positions of a label array, None if all stay."""
        key = id(labels)
        if key not in self._cache:
            mask = self.mask(labels)
            self._cache[key] = None if mask.all() else np.flatnonzero(mask)
        return self._cache[key]

    def indices(self, value: Value, axis: int) -> Array | None:
        """See `Kept`; a joint block has no indices of one axis."""
        for block in self.blocks(value):
            if block.axes == (axis,):
                return self.ascending(block.labels)
            if axis in block.axes and not self.mask(block.labels).all():
                raise GraphPruneError(f"axis {axis} of '{value.name}' is labeled jointly with others")
        return None

    def alone(self, value: Value, axis: int) -> bool:
        """See `Kept`."""
        return any(block.axes == (axis,) for block in self.blocks(value))

    def gone(self, value: Value) -> bool:
        """See `Kept`."""
        presence = self._coupling.presences.values.get(value)
        return presence is not None and not there(presence, self._label_keep)

    def left_out(self, node: Node, slot: int) -> bool:
        """Whether a node (of the original graph) does without the operand in this slot."""
        presence = self._coupling.presences.parts.get((node, slot))
        return presence is not None and not there(presence, self._label_keep)

    def size(self, value: Value, axis: int) -> int:
        """See `Kept`."""
        return self.shape(value)[axis]

    def shape(self, value: Value) -> tuple[int, ...]:
        """See `Kept`."""
        sizes = list(value.sizes)
        for block in self.blocks(value):
            if block.joint:
                mask = self.mask(block.labels)
                if not mask.all():
                    for axis, size in zip(block.axes, layout(mask)[0], strict=True):
                        sizes[axis] = size
            else:
                indices = self.ascending(block.labels)
                if indices is not None:
                    sizes[block.axes[0]] = len(indices)
        return tuple(sizes)

    def reorder(self, source: Value, target: Value) -> list[tuple[int, Array]]:
        """See `Kept`: where a merge brings kept elements out of order, the gather that mends it."""
        takes = []
        groups = joined_groups(reshape_groups(source.sizes, target.sizes), self.blocks(source), 0)
        for ins, outs in joined_groups(groups, self.blocks(target), 1):
            if len(ins) < 2 and not self._joint(source, ins):
                continue
            have, want = self._sequence(source, ins), self._sequence(target, outs)
            if have is None or want is None or np.array_equal(have, want):
                continue
            take = None
            if len(have) == len(want):
                order = np.argsort(have, kind="stable")
                found = order[np.searchsorted(have[order], want)].astype(np.int64)
                take = along_one_axis(found.reshape([self.size(target, a) for a in outs]))
            if take is None:
                raise GraphPruneError(f"the kept elements of '{source.name}' cannot be rearranged into '{target.name}'")
            takes.append((outs[take[0]], take[1]))
        return takes

    def _joint(self, value: Value, axes: tuple[int, ...]) -> bool:
        return any(b.joint and set(b.axes) & set(axes) for b in self.blocks(value))

    def _sequence(self, value: Value, axes: tuple[int, ...]) -> Array | None:
        """Original flat indices within `axes`, in the order in which the kept elements are stored."""
        blocks = [b for b in self.blocks(value) if set(b.axes) & set(axes)]
        if any(not set(b.axes) <= set(axes) for b in blocks):
            return None  # rows of a block that runs beyond this group stay in order
        if all(self.mask(b.labels).all() for b in blocks):
            return np.arange(prod(value.sizes[a] for a in axes)) if blocks else None
        full = tuple(value.sizes[a] for a in axes)
        return self.stored(np.arange(prod(full)).reshape(full), value, axes).reshape(-1)

    def stored(self, array: Array, value: Value, axes: tuple[int, ...]) -> Array:
        """See `Kept`."""
        for block in self.blocks(value):
            if set(block.axes) <= set(axes):
                array = self._store(array, [axes.index(a) for a in block.axes], block)
        return array

    def _store(self, origin: Array, at: list[int], block: Block) -> Array:
        """Replace the block's axes by their stored form."""
        mask = self.mask(block.labels)
        if not block.joint:
            return origin.compress(mask, axis=at[0])
        sizes, _ = layout(mask)
        front = np.moveaxis(origin, at, range(len(at)))
        kept = front[mask].reshape(*sizes, *front.shape[len(at) :])
        return np.moveaxis(kept, range(len(at)), at)

    def slice_weight(self, use: Use, array: Array) -> Array:
        """The kept part of a weight as this use needs it; `array` may have size 1 where it does not vary."""
        columns = use.columns
        for block in use.blocks:
            if block.joint:
                raise GraphPruneError(f"weight '{use.value.name}' is labeled jointly")
            if columns is not None and block.axes[0] == columns.by:
                continue
            indices = self.ascending(block.labels)
            if indices is not None and array.shape[block.axes[0]] > 1:
                array = np.take(array, indices, axis=block.axes[0])
        if use.positions is not None and (kept := self.ascending(use.positions)) is not None:
            array = np.searchsorted(kept, array).astype(array.dtype)
        return array if columns is None else self._slice_columns(use, array)

    def weight_shape(self, use: Use, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The sizes that `slice_weight` gives."""
        sizes = list(shape)
        for block in use.blocks:
            sizes[block.axes[0]] = int(self.mask(block.labels).sum())
        if use.columns is not None:
            kept = self.mask(use.columns.labels).sum(1)
            sizes[use.columns.axis] = int(kept.max())
        return tuple(sizes)

    def _slice_columns(self, use: Use, array: Array) -> Array:
        """Rows group by group, each with its own columns."""
        columns = use.columns
        assert columns is not None
        row_block = next((b for b in use.blocks if b.axes[0] == columns.by), None)
        rows = self.mask(row_block.labels) if row_block is not None else np.ones(array.shape[columns.by], bool)
        kept_columns = self.mask(columns.labels)
        groups, same = len(columns.labels), array.shape[columns.axis] == 1
        parts = []
        for group, (mine, wanted) in enumerate(zip(rows.reshape(groups, -1), kept_columns, strict=True)):
            if mine.any() and wanted.any():
                start = group * mine.size
                part = np.take(array, start + np.flatnonzero(mine), axis=columns.by)
                parts.append(part if same else np.take(part, np.flatnonzero(wanted), axis=columns.axis))
        return np.concatenate(parts, axis=columns.by)

    def key(self, use: Use) -> tuple[bytes, ...]:
        """Equal for uses that need the same slice of the same weight."""
        masks = [(b.axes, self.mask(b.labels)) for b in use.blocks]
        if use.columns is not None:
            masks.append(((use.columns.axis, use.columns.by), self.mask(use.columns.labels)))
        if use.positions is not None:
            masks.append(((-1,), self.mask(use.positions)))
        return tuple(
            repr(axes).encode() + np.packbits(m).tobytes()
            for axes, m in sorted(masks, key=lambda p: p[0])
            if not m.all()
        )
