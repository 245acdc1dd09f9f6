"""Weights that are stored as integers with scales and zero points: what they stand for, how they are sliced, masked and
written back. To everything outside this frontend such a weight is the float tensor that it stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from math import prod

import ml_dtypes
import numpy as np
from onnx import NodeProto

from graphprune.errors import GraphPruneError
from graphprune.ir.graph import Weight

Array = np.ndarray
Shape = tuple[int, ...]
Cut = Callable[[Array], Array]


def picks(cut: Cut, shape: Shape, axis: int) -> Array:
    """The indices of an axis that a cut leaves."""
    along = np.arange(shape[axis]).reshape([n if a == axis else 1 for a, n in enumerate(shape)])
    return cut(along).reshape(-1)


class Layout:
    """How a stored tensor lies over the axes of the weight; here: element by element."""

    def spread(self, array: Array, shape: Shape) -> Array:
        """The stored tensor, broadcastable to the weight's shape."""
        return array

    def take(self, array: Array, cut: Cut, shape: Shape) -> Array:
        """What is stored after a cut of the weight."""
        return cut(array)

    def store(self, spread: Array, like: Array) -> Array:
        """The inverse of `spread`, in the form of `like`."""
        return spread.astype(like.dtype)

    def units(self) -> dict[int, int]:
        """Indices stored together, by axis."""
        return {}


class Swapped(Layout):
    """Element by element, with the last two axes exchanged."""

    def spread(self, array: Array, shape: Shape) -> Array:
        """See `Layout`."""
        return array.swapaxes(-1, -2)

    def take(self, array: Array, cut: Cut, shape: Shape) -> Array:
        """See `Layout`."""
        return cut(array.swapaxes(-1, -2)).swapaxes(-1, -2)

    def store(self, spread: Array, like: Array) -> Array:
        """See `Layout`."""
        return np.ascontiguousarray(spread.swapaxes(-1, -2)).astype(like.dtype)


class Single(Layout):
    """One number for all."""

    def spread(self, array: Array, shape: Shape) -> Array:
        """See `Layout`."""
        return array.reshape(())

    def take(self, array: Array, cut: Cut, shape: Shape) -> Array:
        """See `Layout`."""
        return array


@dataclass(frozen=True)
class Along(Layout):
    """One number for each index of an axis."""

    axis: int

    def spread(self, array: Array, shape: Shape) -> Array:
        """See `Layout`."""
        return array.reshape([n if a == self.axis else 1 for a, n in enumerate(shape)])

    def take(self, array: Array, cut: Cut, shape: Shape) -> Array:
        """See `Layout`."""
        return array.reshape(-1)[picks(cut, shape, self.axis)]


@dataclass(frozen=True)
class Blocked(Layout):
    """One number for each `block` neighbouring indices of `axis`, and for each index of the others."""

    axis: int
    block: int

    def spread(self, array: Array, shape: Shape) -> Array:
        """See `Layout`."""
        grid = array.reshape(self._grid(shape))
        return np.repeat(grid, self.block, axis=self.axis).take(range(shape[self.axis]), axis=self.axis)

    def take(self, array: Array, cut: Cut, shape: Shape) -> Array:
        """See `Layout`."""
        found = array.reshape(self._grid(shape))
        for axis in range(len(shape)):
            found = found.take(self._kept(cut, shape, axis), axis=axis)
        return found if array.ndim == len(shape) else found.reshape(-1)

    def units(self) -> dict[int, int]:
        """See `Layout`."""
        return {self.axis: self.block}

    def _kept(self, cut: Cut, shape: Shape, axis: int) -> Array:
        kept = picks(cut, shape, axis)
        if axis != self.axis:
            return kept
        blocks = kept // self.block
        return blocks[np.sort(np.unique(blocks, return_index=True)[1])]  # in the order in which they are kept

    def _grid(self, shape: Shape) -> Shape:
        return tuple(-(-n // self.block) if a == self.axis else n for a, n in enumerate(shape))


@dataclass(frozen=True)
class Nibbles(Blocked):
    """Numbers of `bits` bits in bytes, lowest first: those of a block side by side (MatMulNBits' weight,
    `[rows, blocks, bytes]`), or with `each` false one for each block (its zero points, rows filled up to whole bytes).
    """

    bits: int = 4
    each: bool = True

    def spread(self, array: Array, shape: Shape) -> Array:
        """See `Layout`."""
        grid = self._grid(shape)
        if self.each:
            return unpack(array.reshape(*grid, -1), self.bits).reshape(grid[0], -1)[:, : shape[1]]
        return super().spread(self._unpacked(array, grid), shape)

    def take(self, array: Array, cut: Cut, shape: Shape) -> Array:
        """See `Layout`."""
        grid = self._grid(shape)
        rows, blocks = (self._kept(cut, shape, axis) for axis in (0, 1))
        if self.each:
            return array.reshape(*grid, -1)[rows][:, blocks]
        packed = pack(self._unpacked(array, grid)[rows][:, blocks], self.bits)
        return packed if array.ndim > 1 else packed.reshape(-1)

    def _unpacked(self, array: Array, grid: Shape) -> Array:
        return unpack(array.reshape(grid[0], -1), self.bits)[:, : grid[1]]


@dataclass(frozen=True)
class PackedRows(Blocked):
    """Numbers of `bits` bits in bytes, lowest first, row by row (the tables of GatherBlockQuantized)."""

    bits: int = 4

    def spread(self, array: Array, shape: Shape) -> Array:
        """See `Layout`."""
        return unpack(array, self.bits)[:, : shape[1]]

    def take(self, array: Array, cut: Cut, shape: Shape) -> Array:
        """See `Layout`."""
        width = self.block * self.bits // 8
        places = self._kept(cut, shape, 1)[:, None] * width + np.arange(width)
        return array[self._kept(cut, shape, 0)][:, places[places < array.shape[1]]]

    def store(self, spread: Array, like: Array) -> Array:
        """See `Layout`."""
        return pack(spread.astype(np.uint8), self.bits)


def unpack(array: Array, bits: int) -> Array:
    """The numbers in the bytes of the last axis, lowest bits first."""
    bit = np.unpackbits(array, axis=-1, bitorder="little").reshape(*array.shape[:-1], -1, bits)
    return (bit << np.arange(bits, dtype=np.uint8)).sum(-1).astype(np.uint8)


def pack(array: Array, bits: int) -> Array:
    """The inverse, the last byte filled up with zeros."""
    bit = (array[..., None] >> np.arange(bits, dtype=np.uint8)) & 1
    return np.packbits(bit.reshape(*array.shape[:-1], -1), axis=-1, bitorder="little")


@dataclass(frozen=True)
class Part:
    """One stored tensor. `slot` is where the operator reads it; None where it only helps to decode another."""

    name: str
    weight: Weight
    layout: Layout
    slot: int | None = None


#: The elements of a weight from those of its parts, each broadcastable to its shape; absent parts are None.
Decode = Callable[..., Array]


@dataclass(frozen=True)
class Affine:
    """`(integers - zero) * scale`; without a scale, or with the zero that holds where none is given."""

    default: float = 0.0

    def __call__(self, integers: Array, scale: Array | None = None, zero: Array | None = None) -> Array:
        """The elements."""
        found = integers.astype(np.float32) - self.zero(zero)
        return found if scale is None else found * scale.astype(np.float32)

    def zero(self, zero: Array | None) -> Array:
        """What stands for zero."""
        return np.asarray(self.default, np.float32) if zero is None else zero.astype(np.float32)


affine = Affine()


def in_both_units(integers: Array, scale: Array, other: Array) -> Array:
    """A bias in units of the scale of the data times that of the weight."""
    return affine(integers, scale.astype(np.float32) * other.astype(np.float32))


class Encoded(Weight):
    """A weight in parts. `node` is the operator that decodes it, where it is not its reader itself."""

    plain = False

    def __init__(
        self,
        shape: Shape,
        dtype: np.dtype[np.generic],
        parts: Sequence[Part | None],
        decode: Decode,
        node: NodeProto | None = None,
    ) -> None:
        wide = sum(1 for n in shape if n > 1)
        super().__init__(shape, dtype, self._decoded, trainable=prod(shape) > 1, tied=wide >= 2)
        self.parts = tuple(parts)
        self.decode = decode
        self.node = node
        for part in parts:
            self.units.update(part.layout.units() if part is not None else {})

    @property
    def written(self) -> list[Part]:
        """The parts that are written."""
        return [p for p in self.parts if p is not None and p.slot is not None]

    @property
    def stored_bytes(self) -> int:
        """What the parts take."""
        return sum(part.weight.stored_bytes for part in self.written)

    def _spread(self) -> list[Array | None]:
        return [None if p is None else p.layout.spread(p.weight.array(), self.shape) for p in self.parts]

    def _decoded(self) -> Array:
        return np.broadcast_to(self.decode(*self._spread()), self.shape).astype(self.dtype)

    def _with(self, shape: Shape, parts: Sequence[Part | None]) -> Encoded:
        return Encoded(shape, self.dtype, parts, self.decode, self.node)

    def sliced(self, cut: Cut, shape: Shape, *, alone: bool = False) -> Weight:
        """Each part by its layout."""
        return self._with(shape, [None if p is None else self._cut(p, cut, shape) for p in self.parts])

    def _cut(self, part: Part, cut: Cut, shape: Shape) -> Part:
        if type(part.layout) is Layout:
            return replace(part, weight=part.weight.sliced(cut, shape))
        array = part.weight.array()
        left = part.layout.take(array, cut, self.shape)
        if left is array:
            return part
        return replace(part, weight=Weight.of(np.ascontiguousarray(left), trainable=False, tied=False))

    @property
    def packed(self) -> bool:  # type: ignore[override]
        """See `Weight`."""
        return self.parts[0] is not None and isinstance(self.parts[0].layout, Nibbles)

    def masked(self, masks: Iterable[Array]) -> Weight:
        """Integers are masked at their zero point."""
        first = self.parts[0]
        assert first is not None
        if self.packed:
            raise GraphPruneError(f"the weight '{first.name}' is packed and cannot be masked")
        if not first.weight.plain:
            return self._with(self.shape, [replace(first, weight=first.weight.masked(masks)), *self.parts[1:]])
        stored, zero = first.weight.array(), (*self._spread(), None, None)[2]
        array = first.layout.spread(stored, self.shape)
        fill = self.decode.zero(zero) if isinstance(self.decode, Affine) else np.zeros(())
        for mask in masks:
            array = np.where(mask, array, fill)
        masked = Weight.of(first.layout.store(array, stored), trainable=False)
        return self._with(self.shape, [replace(first, weight=masked), *self.parts[1:]])


def scale_layout(scale: Shape, shape: Shape, axis: int, block: int = 0) -> Layout | None:
    """How scales lie over a tensor; None where they do not fit."""
    if prod(scale) == 1 and len(scale) <= 1:
        return Single()
    if not -len(shape) <= axis < len(shape) or block < 0:
        return None
    axis %= len(shape)
    if block:
        fits = tuple(-(-n // block) if a == axis else n for a, n in enumerate(shape)) == scale
        return Blocked(axis, block) if fits else None
    return Along(axis) if scale == (shape[axis],) else None


def _rounded(x: Array, scale: Array, zero: Array | None, dtype: np.dtype[np.generic]) -> Array:
    found = np.rint(x / scale) + (0 if zero is None else zero.astype(np.float32))
    if dtype.name.startswith("float"):
        return found.astype(dtype)
    limits = ml_dtypes.iinfo(dtype)  # type: ignore[no-untyped-call]
    return np.clip(found, int(limits.min), int(limits.max)).astype(dtype)


def quantizing(dtype: np.dtype[np.generic]) -> Decode:
    """What QuantizeLinear makes of a float tensor."""
    return lambda x, scale, zero=None: _rounded(x, scale, zero, dtype)
