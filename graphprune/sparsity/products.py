"""A layer as plain matrix products, and the data that each of its matrices meets.

Matrix `k` is `[rows, columns]`: kernel positions and input channels are one axis, positions first, so that neighbours
along input channels stay neighbours. Groups of a convolution are matrices of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import numpy as np

from graphprune.ir.graph import Node, Value
from graphprune.ops.base import Array

from .layers import Layer, Read
from .windows import windows

#: Rows of data that a statistic takes in: so many for each column, but at least so many. More change nothing.
_MOST_FOR_EACH, _MOST = 32, 32768


def to_matrices(layer: Layer, array: Array) -> Array:
    """An array of the weight's shape as `[matrices, rows, columns]`."""
    found = layer.matrices(array)
    batch, positions, rows, length = found.shape
    by_row, by_column = _split(layer)
    found = found.reshape(batch, positions, by_row, rows // by_row, by_column, length // by_column)
    return found.transpose(0, 2, 4, 3, 1, 5).reshape(
        batch * by_row * by_column, rows // by_row, positions * (length // by_column)
    )


def from_matrices(layer: Layer, matrices: Array) -> Array:
    """The inverse of `to_matrices`."""
    by_row, by_column = _split(layer)
    positions, rows, length = layer.positions, layer.rows // by_row, layer.length // by_column
    found = matrices.reshape(-1, by_row, by_column, rows, positions, length).transpose(0, 4, 1, 3, 2, 5)
    return layer.restore(found.reshape(-1, positions, layer.rows, layer.length))


def run_of(layer: Layer) -> int:
    """How many neighbouring columns of a matrix are neighbours along the contracted axis."""
    return layer.length // _split(layer)[1]


def _split(layer: Layer) -> tuple[int, int]:
    """Into how many groups the rows and the sums of a layer's matrices fall."""
    groups = layer.how.groups
    if groups == 1:
        return 1, 1
    return (1, groups) if layer.reads[0].step.attrs.get("transposed") else (groups, 1)


@dataclass(frozen=True)
class Meeting:
    """What some matrices of a layer meet: `value`, seen as `kernel` windows of `node` or along axis `along`.

    `each` are the axes of the data along which every matrix has its own. Layers with equal meetings share a statistic.
    """

    value: Value
    along: int
    each: tuple[int, ...] = ()
    kernel: tuple[int, ...] = ()
    groups: int = 1
    node: Node | None = None

    @property
    def key(self) -> tuple[object, ...]:
        """Equal for meetings with the same columns."""
        attrs = () if self.node is None else tuple(str(self.node.attrs.get(n)) for n in _PLACES)
        return (self.value.name, self.along, self.each, self.kernel, self.groups, attrs)

    @property
    def columns(self) -> int:
        """Columns of a matrix."""
        return prod(self.kernel) * self.value.sizes[self.along] // self.groups

    @property
    def matrices(self) -> int:
        """How many matrices meet data of their own."""
        return self.groups * prod(self.value.sizes[axis] for axis in self.each)

    def rows(self, data: Array, batches: int) -> Array:
        """The data of one of so many batches as `[matrices (or 1 for all), rows, columns]`, in float32 or float64."""
        if self.node is not None:
            found = windows(data, self.kernel, self.node.attrs, -(-most_rows(self.columns) // batches))
            count, positions, channels = found.shape
            found = found.reshape(count, positions, self.groups, channels // self.groups).transpose(2, 0, 1, 3)
            return _wide(found.reshape(self.groups, count, -1))
        others = [a for a in range(data.ndim) if a not in self.each and a != self.along]
        found = data.transpose([*self.each, *others, self.along])
        found = found.reshape(prod(data.shape[a] for a in self.each), -1, data.shape[self.along])
        limit = -(-most_rows(self.columns) // batches)
        if found.shape[1] > limit:
            found = found[:, np.linspace(0, found.shape[1] - 1, limit).astype(np.int64)]
        return _wide(found)


_PLACES = ("strides", "dilations", "pads", "output_pads", "transposed")


def most_rows(columns: int) -> int:
    """How many rows of data a statistic over so many columns takes in."""
    return max(_MOST_FOR_EACH * columns, _MOST)


def _wide(found: Array) -> Array:
    return np.ascontiguousarray(found, found.dtype if found.dtype == np.float64 else np.float32)


def meeting(layer: Layer, read: Read) -> Meeting | str:
    """What a layer meets where it is read, or why that cannot be seen."""
    value, how = read.data, read.how
    if value is None:
        return f"what {read.node.op} multiplies it with is no operand"
    if value.shape is None or (read.step is not read.node and value not in read.node.inputs):
        return f"what it is multiplied with lies inside {read.node.op}"
    if how.kernel and all(name in read.step.attrs for name in _PLACES[:3]):
        kernel = tuple(layer.value.sizes[axis] for axis in how.kernel)
        return Meeting(value, 1, (), kernel, how.groups, read.step)
    if how.kernel and value.sizes[how.along] != layer.positions * layer.length:  # axes summed over as one
        return f"where {read.node.op} lays its kernel is not known"
    sizes = layer.value.sizes
    pairs = [(own, other) for own, other in sorted(how.each) if sizes[own] == value.sizes[other] > 1]
    batch = [a for a in range(len(sizes)) if a not in (*how.kernel, *how.rows, how.axis) and sizes[a] > 1]
    if pairs and [own for own, _ in pairs] != batch:
        return f"{read.node.op} shares data between some of its matrices only"
    return Meeting(value, how.along, tuple(other for _, other in pairs))
