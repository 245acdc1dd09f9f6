"""What a convolution's kernel meets: the windows of its data as rows, ordered as the kernel's entries are."""

from __future__ import annotations

from collections.abc import Mapping
from math import prod
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from graphprune.ops.base import Array


def windows(data: Array, kernel: tuple[int, ...], attrs: Mapping[str, Any], most: int) -> Array:
    """Data `[N, C, *spatial]` as `[samples, kernel positions, C]`; at most so many samples, evenly spread.

    `attrs` are those of a `conv` node. For a transposed convolution a sample is an output position as well: data are
    spread out by the strides, and the kernel lies over them back to front.
    """
    axes = tuple(range(2, data.ndim))
    strides, dilations = tuple(attrs["strides"]), tuple(attrs["dilations"])
    reach = tuple(d * (k - 1) + 1 for d, k in zip(dilations, kernel, strict=True))
    if attrs["transposed"]:
        data = _spread(data, strides)
        ends = zip(reach, attrs["pads"], attrs["output_pads"], strict=True)
        pads = tuple((r - 1 - before, r - 1 - after + more) for r, (before, after), more in ends)
        strides = (1,) * len(axes)
    else:
        pads = _pads(data.shape[2:], reach, strides, attrs["pads"])
    view = sliding_window_view(_padded(data, pads), reach, axis=axes)
    every = (slice(None), slice(None), *(slice(None, None, step) for step in (*strides, *dilations)))
    view = view[every]
    if attrs["transposed"]:
        view = np.flip(view, tuple(range(-len(axes), 0)))
    found = _picked(view, len(axes), most)
    return found.reshape(*found.shape[:2], prod(kernel)).transpose(0, 2, 1)


def _picked(view: Array, count: int, most: int) -> Array:
    """Of `[N, C, *places, *kernel]` some samples: `[samples, C, *kernel]`."""
    grid = (view.shape[0], *view.shape[2 : 2 + count])
    total = prod(grid)
    chosen = np.unravel_index(np.linspace(0, total - 1, min(most, total)).astype(np.int64), grid)
    places: tuple[Any, ...] = (chosen[0], slice(None), *chosen[1:])
    return view[places]


def _pads(
    sizes: tuple[int, ...], reach: tuple[int, ...], strides: tuple[int, ...], given: Any
) -> tuple[tuple[int, int], ...]:
    """Pads before and after; `same` ones depend on the sizes."""
    if not isinstance(given, str):
        return tuple((int(before), int(after)) for before, after in given)
    found = []
    for size, r, stride in zip(sizes, reach, strides, strict=True):
        total = max((-(-size // stride) - 1) * stride + r - size, 0)
        less, more = total // 2, total - total // 2
        found.append((less, more) if given == "same_upper" else (more, less))
    return tuple(found)


def _padded(data: Array, pads: tuple[tuple[int, int], ...]) -> Array:
    """Zeros around, or (negative pads) less of it."""
    data = np.pad(data, ((0, 0), (0, 0), *((max(b, 0), max(a, 0)) for b, a in pads)))
    cut = [slice(max(-before, 0), n - max(-after, 0)) for n, (before, after) in zip(data.shape[2:], pads, strict=True)]
    return data[(slice(None), slice(None), *cut)]


def _spread(data: Array, strides: tuple[int, ...]) -> Array:
    if set(strides) <= {1}:
        return data
    sizes = tuple((n - 1) * s + 1 for n, s in zip(data.shape[2:], strides, strict=True))
    wide = np.zeros((*data.shape[:2], *sizes), data.dtype)
    wide[(slice(None), slice(None), *(slice(None, None, s) for s in strides))] = data
    return wide
