"""The safetensors files of a folder: where each tensor lies, and reading one without holding the others."""

from __future__ import annotations

import json
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from graphprune.errors import InputError
from graphprune.ir.weights import RowReader

SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"

_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("float64"),
    "F32": np.dtype("float32"),
    "F16": np.dtype("float16"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    "I64": np.dtype("int64"),
    "I32": np.dtype("int32"),
    "I16": np.dtype("int16"),
    "I8": np.dtype("int8"),
    "U64": np.dtype("uint64"),
    "U32": np.dtype("uint32"),
    "U16": np.dtype("uint16"),
    "U8": np.dtype("uint8"),
    "BOOL": np.dtype("bool"),
    "C64": np.dtype("complex64"),
}

#: What the format calls each type.
TYPE_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True)
class Stored:
    """One tensor in a file: element type, sizes and the byte at which it begins."""

    file: Path
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    offset: int

    def read(self) -> np.ndarray:
        """The elements, mapped from the file: pages come in as they are looked at and go with the array."""
        return self._mapped(self.offset, self.shape)

    @property
    def read_rows(self) -> RowReader | None:
        """Maps some indices of the first axis without the others; None for vectors, which are small."""
        return self._between if len(self.shape) > 1 else None

    def _between(self, start: int, stop: int) -> np.ndarray:
        row = prod(self.shape[1:]) * self.dtype.itemsize
        return self._mapped(self.offset + start * row, (stop - start, *self.shape[1:]))

    def _mapped(self, offset: int, shape: tuple[int, ...]) -> np.ndarray:
        if prod(shape) == 0:
            return np.zeros(shape, self.dtype)
        size = prod(shape) * self.dtype.itemsize
        raw = np.memmap(self.file, np.uint8, mode="r", offset=offset, shape=(size,))
        return np.asarray(raw).view(self.dtype).reshape(shape)


def read_shards(folder: Path) -> dict[str, Stored]:
    """Every tensor of a folder by name. Raises InputError naming the file that is missing, broken or a pickle."""
    found: dict[str, Stored] = {}
    for file in shard_files(folder):
        found.update(_entries(file))
    return found


def shard_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, all checked to be there."""
    if (folder / SINGLE).is_file():
        return [folder / SINGLE]
    if not (folder / INDEX).is_file():
        pickles = sorted(p.name for p in folder.glob("pytorch_model*.bin"))
        hint = f"; '{pickles[0]}' is a pickle, which graphprune never loads" if pickles else ""
        raise InputError(f"'{folder}' has neither {SINGLE} nor {INDEX}{hint}")
    try:
        names = sorted(set(json.loads((folder / INDEX).read_text())["weight_map"].values()))
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise InputError(f"'{folder / INDEX}' is no index of safetensors files: {error}") from error
    for name in names:
        if not isinstance(name, str) or Path(name).name != name:
            raise InputError(f"'{folder / INDEX}' names '{name}', which is no file of this folder")
        if not (folder / name).is_file():
            raise InputError(f"'{folder / INDEX}' names '{name}', which is missing")
    return [folder / name for name in names]


def _entries(file: Path) -> dict[str, Stored]:
    try:
        with safe_open(file, framework="numpy"):  # checks the header against the file's length
            pass
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(length))
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"'{file}' is no valid safetensors file: {error}") from error
    header.pop("__metadata__", None)
    return {name: _stored(file, name, entry, 8 + length) for name, entry in header.items()}


def _stored(file: Path, name: str, entry: dict[str, Any], start: int) -> Stored:
    if entry["dtype"] not in _DTYPES:
        raise InputError(f"'{file}': the tensor '{name}' has the type {entry['dtype']}, which is not known here")
    return Stored(file, _DTYPES[entry["dtype"]], tuple(entry["shape"]), start + entry["data_offsets"][0])
