"""N:M weights as values and indices of few bits, exactly: negative zeros, NaN and all.

Of each group of M neighbours along an axis, N entries are stored with their places in it. Entries are zero when all
their bits are; a group that has more zeros than the pattern asks for stores the first of them too.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np

from graphprune.errors import InputError
from graphprune.ops.base import Array

from .patterns import best_along


@dataclass(frozen=True)
class Packed:
    """What is stored of an array.

    `values` are shaped as the array but for the axis, where N of each M are left. `indices` are bytes that hold the
    places of the values in their groups, in the order of `values`, with as few bits each as M needs, lowest first.
    `negative` has a bit for each entry of the array that is a negative zero, where one lies outside the values.
    """

    values: Array
    indices: Array
    negative: Array | None = None


def pack(array: Array, axis: int, n: int, m: int) -> Packed | None:
    """The array as values and indices; None where some group has more than `n` entries that are not zero."""
    if array.shape[axis] % m or not 1 < m <= 256:
        return None
    if (np.count_nonzero(_groups(array, axis, m), axis=axis + 1) > n).any():
        return None
    # Numbers before negative zeros before zeros.
    keep = best_along((array != 0).astype(np.int8) + (bits_of(array) != 0), axis, n, m)
    return Packed(_taken(array, keep, axis), _places(keep, axis, m), _negative_zeros(array, keep))


def unpack(packed: Packed, shape: tuple[int, ...], axis: int, n: int, m: int) -> Array:
    """The array again; raises InputError where the indices say what they cannot."""
    count = packed.values.size
    if packed.indices.size != ceil(count * width(m) / 8):
        raise InputError(f"{packed.indices.size} bytes of indices do not fit {count} values")
    places = _from_bits(packed.indices, count, width(m)).reshape(packed.values.shape)
    groups = np.moveaxis(_groups(places, axis, n), axis + 1, -1)
    if groups.size and (int(groups.max()) >= m or (groups[..., 1:] <= groups[..., :-1]).any()):
        raise InputError(f"the places in a group are not {n} rising numbers below {m}")
    array = np.zeros(shape, packed.values.dtype)
    into = _groups(array, axis, m)  # a view
    np.put_along_axis(into, _groups(places, axis, n), _groups(packed.values, axis, n), axis + 1)
    if packed.negative is not None:
        _set_signs(array, packed.negative)
    return array


def width(m: int) -> int:
    """Bits of a place in a group of `m`."""
    return (m - 1).bit_length()


def bits_of(array: Array) -> Array:
    """The elements as unsigned integers of the same size."""
    return array.view(np.dtype(f"uint{8 * array.dtype.itemsize}"))


def _groups(array: Array, axis: int, m: int) -> Array:
    """The array with its axis cut into groups of `m`."""
    return array.reshape(*array.shape[:axis], array.shape[axis] // m, m, *array.shape[axis + 1 :])


def _taken(array: Array, keep: Array, axis: int) -> Array:
    """The entries that stay; as many of each line along the axis."""
    last, chosen = np.moveaxis(array, axis, -1), np.moveaxis(keep, axis, -1)
    return np.ascontiguousarray(np.moveaxis(last[chosen].reshape(*last.shape[:-1], -1), -1, axis))


def _places(keep: Array, axis: int, m: int) -> Array:
    line = np.arange(keep.shape[axis]) % m
    places = line.astype(np.uint8).reshape([-1 if a == axis else 1 for a in range(keep.ndim)])
    return _to_bits(_taken(np.broadcast_to(places, keep.shape), keep, axis).reshape(-1), width(m))


def _to_bits(numbers: Array, bits: int) -> Array:
    """Numbers below `2 ** bits` side by side in bytes, lowest bits first."""
    if 8 % bits:
        flat = (numbers[:, None] >> np.arange(bits, dtype=np.uint8)) & 1
        return np.packbits(flat.reshape(-1), bitorder="little")
    per = 8 // bits
    filled = np.zeros(-(-numbers.size // per) * per, np.uint8)
    filled[: numbers.size] = numbers
    made = np.zeros(filled.size // per, np.uint8)
    for place in range(per):
        made |= filled[place::per] << np.uint8(bits * place)
    return made


def _from_bits(stored: Array, count: int, bits: int) -> Array:
    """The inverse of `_to_bits`."""
    if 8 % bits:
        flat = np.unpackbits(stored, count=count * bits, bitorder="little").reshape(count, bits)
        return (flat << np.arange(bits, dtype=np.uint8)).sum(1, dtype=np.uint8)
    per = 8 // bits
    made = np.empty(stored.size * per, np.uint8)
    for place in range(per):
        made[place::per] = (stored >> np.uint8(bits * place)) & np.uint8((1 << bits) - 1)
    return made[:count]


def _negative_zeros(array: Array, keep: Array) -> Array | None:
    """Where negative zeros lie, as bits, if a value does not say it. Training with masks by products leaves such."""
    outside = (array == 0) & (bits_of(array) != 0) & ~keep
    return np.packbits(outside.reshape(-1)) if outside.any() else None


def _set_signs(array: Array, negative: Array) -> None:
    if negative.size != ceil(array.size / 8):
        raise InputError(f"{negative.size} bytes of signs do not fit {array.size} elements")
    where = np.unpackbits(negative, count=array.size).astype(bool).reshape(array.shape)
    bits_of(array)[where] = 1 << (8 * array.dtype.itemsize - 1)
