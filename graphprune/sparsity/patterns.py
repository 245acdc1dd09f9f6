"""Where zeros may lie: N:M, V:N:M, unstructured, blocks, rows and columns, kernels, four entries of a 3x3 kernel."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import combinations
from typing import ClassVar

import numpy as np

from graphprune.errors import InputError
from graphprune.ops.base import Array
from graphprune.registry import meant

from .layers import Layer

#: More entries than this to a group are ranked by sorting, fewer by comparing all pairs, which is far faster.
_MOST_COMPARED = 16


class Pattern(ABC):
    """Chooses which entries of a weight stay, given their scores."""

    #: What `parse` takes, for messages.
    form: ClassVar[str]

    @abstractmethod
    def keep(self, scores: Array, layer: Layer) -> Array:
        """The entries that stay (bool, of the weight's shape); `scores` (higher stays) has the weight's shape."""

    def unfit(self, layer: Layer) -> str:
        """Why the pattern cannot lie on a weight; empty where it can."""
        return ""

    @property
    @abstractmethod
    def text(self) -> str:
        """The pattern as `parse` reads it."""


@dataclass(frozen=True)
class NM(Pattern):
    """`n` of each `m` neighbours along the contracted axis stay: what sparse tensor cores read (2:4; Mishra et al.
    2021, "Accelerating Sparse Deep Neural Networks").
    """

    form: ClassVar[str] = "N:M"

    n: int
    m: int

    def __post_init__(self) -> None:
        if not 0 < self.n < self.m:
            raise InputError(f"pattern '{self.text}': N must be at least 1 and less than M")

    @property
    def text(self) -> str:
        """See `Pattern`."""
        return f"{self.n}:{self.m}"

    def unfit(self, layer: Layer) -> str:
        """The sums must be whole groups long."""
        return _undivided(layer, self.m)

    def keep(self, scores: Array, layer: Layer) -> Array:
        """Exactly `n` of each group, the first where several are equal."""
        return best_along(scores, layer.how.axis, self.n, self.m)


def _undivided(layer: Layer, m: int) -> str:
    return f"sums of {layer.length} products do not divide into groups of {m}" if layer.length % m else ""


def best_along(scores: Array, axis: int, n: int, m: int) -> Array:
    """The `n` best of each `m` neighbours along an axis (bool), the first of equals."""
    shape = scores.shape
    groups = scores.reshape(*shape[:axis], shape[axis] // m, m, *shape[axis + 1 :])
    if m > _MOST_COMPARED:
        order = np.argsort(-groups, axis=axis + 1, kind="stable")
        keep = np.zeros(groups.shape, bool)
        np.put_along_axis(keep, order.take(range(n), axis=axis + 1), True, axis=axis + 1)
        return keep.reshape(shape)
    entries = [groups[(slice(None),) * (axis + 1) + (i,)] for i in range(m)]
    beaten = np.zeros((m, *entries[0].shape), np.uint8)  # how many others of its group come before an entry
    for i, j in combinations(range(m), 2):
        later = entries[j] > entries[i]
        beaten[i] += later
        beaten[j] += ~later
    return np.moveaxis(beaten < n, 0, axis + 1).reshape(shape)


@dataclass(frozen=True)
class VNM(Pattern):
    """For each `v` rows and `m` columns four columns stay, and of them 2 of 4 entries in each row: sparser than 2:4 and
    still read by 2:4 hardware through gathered columns (Castro et al. 2023, "VENOM").
    """

    form: ClassVar[str] = "V:N:M"

    v: int
    n: int
    m: int

    def __post_init__(self) -> None:
        if self.n != 2 or self.m < 4 or self.v < 1:
            raise InputError(f"pattern '{self.text}': V:N:M needs V of at least 1, N of 2 and M of at least 4")

    @property
    def text(self) -> str:
        """See `Pattern`."""
        return f"{self.v}:{self.n}:{self.m}"

    def unfit(self, layer: Layer) -> str:
        """Rows and sums must divide."""
        if layer.rows % self.v:
            return f"{layer.rows} rows do not divide into groups of {self.v}"
        return _undivided(layer, self.m)

    def keep(self, scores: Array, layer: Layer) -> Array:
        """The four columns with the largest sums, then the two largest entries of each row in them."""
        matrices = layer.matrices(scores)
        batch, positions, rows, length = matrices.shape
        tiles = matrices.reshape(batch, positions, rows // self.v, self.v, length // self.m, self.m)
        columns = best_along(tiles.sum(3), 4, 4, self.m)[:, :, :, None] if self.m > 4 else np.ones((), bool)
        inside = np.where(columns, tiles, -np.inf)
        return layer.restore(best_along(inside, 5, 2, self.m).reshape(matrices.shape))


@dataclass(frozen=True)
class Unstructured(Pattern):
    """The smallest entries go, `sparsity` of each weight, or of all weights together (`everywhere`)."""

    form: ClassVar[str] = "unstructured:SPARSITY, global:SPARSITY"

    sparsity: float
    everywhere: bool = False

    @property
    def text(self) -> str:
        """See `Pattern`."""
        return f"{'global' if self.everywhere else 'unstructured'}:{self.sparsity:g}"

    def keep(self, scores: Array, layer: Layer) -> Array:
        """Exactly so many of the weight."""
        return most(scores, self.sparsity)

    def threshold(self, parts: Callable[[], Iterable[Array]]) -> float:
        """The score below which entries go, over all arrays that `parts` gives (each time it is called) one by one."""
        return quantile(parts, self.sparsity)


@dataclass(frozen=True)
class Blocks(Pattern):
    """Blocks of `height` rows by `width` columns of each matrix; the sum of scores decides. Zero: as far as it goes."""

    form: ClassVar[str] = "block:RxC:SPARSITY, row:SPARSITY, column:SPARSITY"

    height: int
    width: int
    sparsity: float

    @property
    def text(self) -> str:
        """See `Pattern`."""
        if not self.height or not self.width:
            return f"{'row' if self.height else 'column'}:{self.sparsity:g}"
        return f"block:{self.height}x{self.width}:{self.sparsity:g}"

    def unfit(self, layer: Layer) -> str:
        """Blocks must be whole."""
        height, width = self._size(layer)
        if layer.rows % height or layer.length % width:
            return f"{layer.rows} rows by {layer.length} columns do not divide into blocks of {height}x{width}"
        return ""

    def keep(self, scores: Array, layer: Layer) -> Array:
        """The blocks with the largest sums."""
        height, width = self._size(layer)
        matrices = layer.matrices(scores)
        batch, positions, rows, length = matrices.shape
        whole = not self.height or not self.width  # a whole row or column goes at all kernel positions
        tiles = matrices.reshape(batch, positions, rows // height, height, length // width, width)
        sums = tiles.sum((1, 3, 5) if whole else (3, 5), dtype=np.float64, keepdims=True)
        return layer.restore(np.broadcast_to(most(sums, self.sparsity), tiles.shape).reshape(matrices.shape))

    def _size(self, layer: Layer) -> tuple[int, int]:
        return self.height or layer.rows, self.width or layer.length


@dataclass(frozen=True)
class Kernels(Pattern):
    """Whole kernels: all positions of one input channel for one output channel."""

    form: ClassVar[str] = "kernel:SPARSITY"

    sparsity: float

    @property
    def text(self) -> str:
        """See `Pattern`."""
        return f"kernel:{self.sparsity:g}"

    def unfit(self, layer: Layer) -> str:
        """There must be a kernel."""
        return "" if layer.positions > 1 else "its kernel has one position"

    def keep(self, scores: Array, layer: Layer) -> Array:
        """The kernels with the largest sums."""
        matrices = layer.matrices(scores)
        sums = matrices.sum(1, dtype=np.float64, keepdims=True)
        return layer.restore(np.broadcast_to(most(sums, self.sparsity), matrices.shape))


@dataclass(frozen=True)
class FourOfNine(Pattern):
    """Four entries of each 3x3 kernel stay: the middle and three others, in one of the `shapes` arrangements that suit
    most kernels of the layer (Niu et al. 2020, "PatDNN").
    """

    form: ClassVar[str] = "4-of-9"

    shapes: int = 8

    @property
    def text(self) -> str:
        """See `Pattern`."""
        return "4-of-9"

    def unfit(self, layer: Layer) -> str:
        """Kernels of 3x3 only."""
        sizes = tuple(layer.value.sizes[axis] for axis in layer.how.kernel)
        return "" if sizes == (3, 3) else f"its kernel is {'x'.join(map(str, sizes)) or 'one position'}, not 3x3"

    def keep(self, scores: Array, layer: Layer) -> Array:
        """Each kernel gets the arrangement that keeps most of it."""
        matrices = layer.matrices(scores)
        kernels = np.moveaxis(matrices, 1, -1).reshape(-1, 9)
        known = _arrangements()
        kept = kernels @ known.T.astype(kernels.dtype)
        favourites = np.argsort(-np.bincount(kept.argmax(1), minlength=len(known)), kind="stable")[: self.shapes]
        chosen = known[favourites][kept[:, favourites].argmax(1)]
        batch, _, rows, length = matrices.shape
        return layer.restore(np.moveaxis(chosen.reshape(batch, rows, length, 9), -1, 1))


def _arrangements() -> Array:
    """All 56 ways to keep the middle of a 3x3 kernel and three others."""
    ring = [i for i in range(9) if i != 4]
    chosen = list(combinations(ring, 3))
    found = np.zeros((len(chosen), 9), bool)
    found[:, 4] = True
    for row, places in zip(found, chosen, strict=True):
        row[list(places)] = True
    return found


def most(scores: Array, sparsity: float) -> Array:
    """The best entries but for a share of them (bool, exactly so many: rounded, at least one stays)."""
    gone = min(round(scores.size * sparsity), scores.size - 1)
    flat = scores.reshape(-1)
    keep = np.ones(flat.size, bool)
    if gone > 0:
        keep[np.argpartition(flat, gone - 1)[:gone]] = False
    return keep.reshape(scores.shape)


def quantile(parts: Callable[[], Iterable[Array]], share: float) -> float:
    """The number below which a share of all non-negative entries lie; never more than one array in memory.

    Bits of non-negative float32 are ordered as the numbers are: their upper and lower halves are counted in turn.
    """
    upper = sum(_counts(part, None) for part in parts())
    total = int(np.sum(upper))
    wanted = round(total * share)
    high = int(np.searchsorted(np.cumsum(upper), wanted, side="right"))
    rest = wanted - int(np.sum(upper[:high]))  # type: ignore[index]
    lower = sum(_counts(part, high) for part in parts())
    low = int(np.searchsorted(np.cumsum(lower), rest, side="right"))
    return float(np.array([(min(high, 0x7F7F) << 16) | min(low, 0xFFFF)], np.uint32).view(np.float32)[0])


def _counts(part: Array, high: int | None) -> Array:
    bits = np.ascontiguousarray(part, np.float32).reshape(-1).view(np.uint32)
    if high is None:
        return np.bincount(bits >> 16, minlength=1 << 16)
    return np.bincount(bits[(bits >> 16) == high] & 0xFFFF, minlength=1 << 16)


_NM = re.compile(r"(\d+):(\d+)")
_VNM = re.compile(r"(\d+):(\d+):(\d+)")
_SHARE = re.compile(r"(unstructured|global|row|column|kernel):([\d.]+)")
_BLOCK = re.compile(r"block:(\d+)x(\d+):([\d.]+)")
FORMS = "N:M (2:4), V:N:M (64:2:8), unstructured:S, global:S, block:RxC:S, row:S, column:S, kernel:S or 4-of-9"


def parse(text: str) -> Pattern:
    """A pattern from its text: `2:4`, `64:2:8`, `unstructured:0.5`, `global:0.5`, `block:4x4:0.5`, `row:0.5`,
    `column:0.5`, `kernel:0.5` (the share that becomes zero) or `4-of-9`. Raises InputError.
    """
    text = str(text).strip().casefold()  # a number is a mistake to be named, too
    if found := _NM.fullmatch(text):
        return NM(int(found[1]), int(found[2]))
    if found := _VNM.fullmatch(text):
        return VNM(int(found[1]), int(found[2]), int(found[3]))
    if text == "4-of-9":
        return FourOfNine()
    if found := _SHARE.fullmatch(text):
        share = _share(text, found[2])
        made: dict[str, Callable[[], Pattern]] = {
            "unstructured": lambda: Unstructured(share),
            "global": lambda: Unstructured(share, everywhere=True),
            "row": lambda: Blocks(1, 0, share),
            "column": lambda: Blocks(0, 1, share),
            "kernel": lambda: Kernels(share),
        }
        return made[found[1]]()
    if found := _BLOCK.fullmatch(text):
        if "0" in (found[1], found[2]):
            raise InputError(f"pattern '{text}': a block has at least one row and one column")
        return Blocks(int(found[1]), int(found[2]), _share(text, found[3]))
    near = meant(text.partition(":")[0], ("unstructured", "global", "block", "row", "column", "kernel", "4-of-9"))
    raise InputError(f"unknown pattern '{text}'{near}; patterns are {FORMS}")


def _share(text: str, number: str) -> float:
    try:
        share = float(number)
    except ValueError:
        share = -1.0
    if not 0 < share < 1:
        raise InputError(f"pattern '{text}': the share that becomes zero must lie between 0 and 1")
    return share
