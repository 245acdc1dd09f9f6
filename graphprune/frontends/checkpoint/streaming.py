"""Writing safetensors files piece by piece: sizes come first, elements as they are made. No tensor need be whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import IO, Any

import numpy as np

from graphprune.errors import GraphPruneError, InputError

from .shards import INDEX, SINGLE, TYPE_NAMES

#: What is known of a tensor before its elements are: type and sizes.
Sizes = tuple[np.dtype[Any], tuple[int, ...]]
#: The header of a file is as long as a multiple of this, so that what follows is aligned.
_ALIGNMENT = 8


@dataclass(frozen=True)
class Batch:
    """Tensors that are made together, and what makes them: names with consecutive pieces of their elements."""

    tensors: Mapping[str, Sizes]
    pieces: Callable[[], Iterable[tuple[str, np.ndarray]]]


def write_shards(batches: Sequence[Batch], folder: Path, limit: int) -> None:
    """As many files of at most `limit` bytes (or one tensor) as it takes, and an index where there are several."""
    sizes = {name: own for batch in batches for name, own in batch.tensors.items()}
    parts = _parts(sizes, limit)
    count = len(parts)
    files = [SINGLE] if count == 1 else [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    shards = [_Shard(folder / file, {n: sizes[n] for n in part}) for file, part in zip(files, parts, strict=True)]
    shard_of = {name: shard for shard, part in zip(shards, parts, strict=True) for name in part}
    with ExitStack() as stack:
        for shard in shards:
            stack.callback(shard.close)
        for batch in batches:
            for name, piece in batch.pieces():
                shard_of[name].append(name, piece)
        for shard in shards:
            shard.finish()
    if count > 1:
        places = {name: file for file, part in zip(files, parts, strict=True) for name in part}
        index = {"metadata": {"total_size": sum(map(_bytes, sizes.values()))}, "weight_map": places}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _parts(sizes: Mapping[str, Sizes], limit: int) -> list[list[str]]:
    parts: list[list[str]] = [[]]
    room = limit
    for name, own in sizes.items():
        if parts[-1] and _bytes(own) > room:
            parts.append([])
            room = limit
        parts[-1].append(name)
        room -= _bytes(own)
    return parts


def _bytes(sizes: Sizes) -> int:
    return sizes[0].itemsize * prod(sizes[1])


class _Shard:
    """One file. It is open from its first piece to its last."""

    def __init__(self, path: Path, tensors: dict[str, Sizes]) -> None:
        self._path = path
        # wide types first, as safetensors itself writes them: every tensor then begins where its type may
        order = sorted(tensors, key=lambda name: (-tensors[name][0].itemsize, name))
        header, self._next, self._end = _header({name: tensors[name] for name in order})
        self._left = sum(map(_bytes, tensors.values()))
        self._stream: IO[bytes] | None = path.open("wb")
        self._stream.write(header)
        if self._left:
            self.close()

    def append(self, name: str, piece: np.ndarray) -> None:
        """Write the next elements of a tensor."""
        data = np.ascontiguousarray(piece).reshape(-1).view(np.uint8).data
        if self._next[name] + len(data) > self._end[name]:
            raise GraphPruneError(f"'{name}' has more elements than were announced")
        if self._stream is None:
            self._stream = self._path.open("r+b")
        self._stream.seek(self._next[name])
        self._stream.write(data)
        self._next[name] += len(data)
        self._left -= len(data)
        if not self._left:
            self.close()

    def finish(self) -> None:
        """Raises GraphPruneError where elements lack."""
        if self._left:
            lacking = next(name for name, at in self._next.items() if at < self._end[name])
            raise GraphPruneError(f"'{lacking}' has fewer elements than were announced")

    def close(self) -> None:
        """Close the file, if it is open."""
        if self._stream is not None:
            self._stream.close()
            self._stream = None


def _header(tensors: Mapping[str, Sizes]) -> tuple[bytes, dict[str, int], dict[str, int]]:
    """The beginning of a file, and at which byte of it each tensor begins and ends."""
    entries: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    ends: dict[str, int] = {}
    at = 0
    for name, (dtype, shape) in tensors.items():
        if dtype not in TYPE_NAMES:
            raise InputError(f"'{name}' has the type {dtype}, which a safetensors file cannot hold")
        ends[name] = at + _bytes((dtype, shape))
        entries[name] = {"dtype": TYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [at, ends[name]]}
        at = ends[name]
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    start = 8 + len(text)
    begins = {name: start + entries[name]["data_offsets"][0] for name in tensors}
    return len(text).to_bytes(8, "little") + text, begins, {name: start + end for name, end in ends.items()}
