"""The arrays in what a model returns, however it nests them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any
from zlib import crc32

import numpy as np

from graphprune.ops.base import Array

#: The arrays of one run, by what they are called: "output 0", "output 1[2]", "output 2['boxes']".
Leaves = dict[str, Array]


def leaves(outputs: Sequence[Any]) -> Leaves:
    """Every array in the outputs of a run: sequences and mappings are walked, what is left out (None) is kept track of,
    text becomes numbers, and complex numbers two.
    """
    return {name: array for at, item in enumerate(outputs) for name, array in _walk(f"output {at}", item)}


def output_of(name: str) -> int:
    """The number of the output that an array belongs to."""
    return int(name.removeprefix("output ").split("[")[0].split(" ")[0])


def inner_name(name: str) -> str:
    """What a value inside the model is called."""
    return f"the inner value '{name}'"


def _walk(name: str, item: Any) -> Iterator[tuple[str, Array]]:
    if isinstance(item, Mapping):
        for key, part in item.items():
            yield from _walk(f"{name}[{key!r}]", part)
    elif isinstance(item, list | tuple):
        yield f"{name} (length)", np.asarray(len(item))
        for at, part in enumerate(item):
            yield from _walk(f"{name}[{at}]", part)
    elif item is None:
        yield f"{name} (nothing)", np.zeros((), bool)
    else:
        yield name, _numbers(np.asarray(item))


def _numbers(array: Array) -> Array:
    if array.dtype.kind == "c":
        return np.stack([array.real, array.imag], axis=-1)
    if array.dtype.kind in "OSU":
        flat = [crc32(str(entry).encode()) for entry in array.reshape(-1)]
        return np.asarray(flat, np.int64).reshape(array.shape)
    return array
