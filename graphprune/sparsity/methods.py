"""How entries are judged: a method scores a weight (and may change what stays), a pattern picks.

Methods that look at data are made from calibration (`calibrated.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Protocol

import numpy as np

from graphprune.ops.base import Array

from .layers import Layer
from .patterns import Pattern, Unstructured


class Method(Protocol):
    """Makes a weight sparse."""

    def scores(self, layer: Layer, array: Array) -> Array:
        """Non-negative numbers of the weight's shape: what is larger stays."""

    def sparsify(self, layer: Layer, array: Array, pattern: Pattern) -> tuple[Array, Array]:
        """The mask (bool, True where an entry stays) and the new elements."""


class Scored:
    """A method that only scores: what stays keeps its value."""

    def __init__(self, scores: Callable[[Layer, Array], Array]) -> None:
        self.scores = scores

    def sparsify(self, layer: Layer, array: Array, pattern: Pattern) -> tuple[Array, Array]:
        """See `Method`."""
        return self._masked(array, pattern.keep(self.scores(layer, array), layer))

    def below(self, threshold: float) -> Method:
        """The same, with one threshold for all weights."""
        return _Threshold(self.scores, threshold)

    @staticmethod
    def _masked(array: Array, mask: Array) -> tuple[Array, Array]:
        return mask, zeroed(array, mask)


class _Threshold(Scored):
    def __init__(self, scores: Callable[[Layer, Array], Array], threshold: float) -> None:
        super().__init__(scores)
        self._threshold = threshold

    def sparsify(self, layer: Layer, array: Array, pattern: Pattern) -> tuple[Array, Array]:
        """See `Method`."""
        return self._masked(array, self.scores(layer, array) >= self._threshold)


def zeroed(array: Array, mask: Array) -> Array:
    """The array with zeros where the mask (of its shape) is False.

    Products of bits: numpy's `where` takes ten times as long, as no processor foresees which entries stay.
    """
    if array.dtype.itemsize > 8 or array.dtype.hasobject:
        return np.where(mask, array, np.zeros((), array.dtype))
    return np.multiply(array.view(f"u{array.dtype.itemsize}"), mask).view(array.dtype)


def magnitude(layer: Layer, array: Array) -> Array:
    """Absolute values (Han et al. 2015)."""
    return np.abs(array if array.dtype in (np.float32, np.float64) else array.astype(np.float32))


#: Methods that need no data, by name.
METHODS: dict[str, Callable[[], Scored]] = {"magnitude": lambda: Scored(magnitude)}


def settled(method: Scored, pattern: Pattern, layers: Sequence[Layer]) -> Method:
    """The method with what it must know of all weights together: the threshold of a global pattern."""
    if not (isinstance(pattern, Unstructured) and pattern.everywhere):
        return method

    def scores() -> Iterator[Array]:
        for layer in layers:
            assert layer.value.weight is not None
            yield method.scores(layer, layer.value.weight.array())

    return method.below(pattern.threshold(scores))
