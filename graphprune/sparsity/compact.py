"""Sparse weights in little space: one safetensors file, N:M weights as values and indices, all else as it is."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from graphprune.atomic import whole
from graphprune.errors import GraphPruneError, InputError
from graphprune.ir.graph import Graph, Value, Weight
from graphprune.ops.base import Array

from .. import frontends
from .layers import find_layers
from .packing import Packed, pack, unpack
from .patterns import NM, parse

_FORMAT = "graphprune-compact/1"
_DTYPES: dict[str, np.dtype[Any]] = {
    "F64": np.dtype("float64"),
    "F32": np.dtype("float32"),
    "F16": np.dtype("float16"),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
    **{f"I{bits}": np.dtype(f"int{bits}") for bits in (8, 16, 32, 64)},
    **{f"U{bits}": np.dtype(f"uint{bits}") for bits in (8, 16, 32, 64)},
    "BOOL": np.dtype("bool"),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}
#: Bytes that a tensor's entries in the header take at most, its name apart; the header is written last.
_ENTRY, _NAMES = 900, 8


class Compact(Mapping[str, Array]):
    """The tensors of a file that `save_compact` wrote, read one by one as they are asked for.

    `pattern` is the sparse weights' pattern, `sparse` their names, `constants` the names of tensors that are no
    parameters.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        try:
            with safe_open(str(path), "numpy") as file:  # checks the header against the file's length
                known = file.metadata() or {}
            with self.path.open("rb") as stream:
                length = int.from_bytes(stream.read(8), "little")
                header = json.loads(stream.read(length))
        except (SafetensorError, OSError, ValueError) as error:
            raise InputError(f"'{path}' cannot be read as compact weights: {error}") from error
        if known.get("format") != _FORMAT:
            raise InputError(f"'{path}' holds no compact weights of graphprune")
        header.pop("__metadata__", None)
        self._header, self._start = header, 8 + length
        self._read_metadata(known)

    def _read_metadata(self, known: Mapping[str, str]) -> None:
        try:
            self.pattern = known["pattern"]
            self._tensors: dict[str, dict[str, Any]] = json.loads(known["tensors"])
            for entry in self._tensors.values():
                entry["parts"], entry["shape"] = list(entry["parts"]), tuple(int(n) for n in entry["shape"])
            self.sparse = tuple(name for name, entry in self._tensors.items() if "axis" in entry)
            self.constants = frozenset(name for name, entry in self._tensors.items() if entry.get("constant"))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise InputError(f"'{self.path}' has broken metadata: {type(error).__name__}: {error}") from error

    def __getitem__(self, name: str) -> Array:
        entry = self._tensors[name]
        try:
            parts = [self._stored(part) for part in entry["parts"]]
            array = self._unpacked(entry, parts) if "axis" in entry else parts[0]
            if array.shape != entry["shape"]:
                raise InputError(f"its shape is {list(array.shape)}, not {list(entry['shape'])}")
        except (InputError, KeyError, TypeError, ValueError, IndexError, OSError) as error:
            text = str(error) if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
            raise InputError(f"'{self.path}': the weight '{name}' is broken: {text}") from error
        return array

    def form(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and element type of a tensor, without reading it."""
        try:
            return self._tensors[name]["shape"], _DTYPES[self._header[self._tensors[name]["parts"][0]]["dtype"]]
        except (KeyError, IndexError, TypeError) as error:
            raise InputError(f"'{self.path}': the weight '{name}' is broken: its type is not known") from error

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    @staticmethod
    def _unpacked(entry: Mapping[str, Any], parts: list[Array]) -> Array:
        shape, axis, n, m = entry["shape"], int(entry["axis"]), int(entry["n"]), int(entry["m"])
        NM(n, m)
        values = tuple(size // m * n if a == axis else size for a, size in enumerate(shape))
        if not 0 <= axis < len(shape) or shape[axis] % m or m > 256 or parts[0].shape != values:
            raise InputError(f"{n}:{m} along axis {axis} of {list(shape)} does not leave {list(parts[0].shape)}")
        if any(part.dtype != np.uint8 or part.ndim != 1 for part in parts[1:]):
            raise InputError("its indices are not bytes")
        return unpack(Packed(*parts), shape, axis, n, m)

    def _stored(self, part: str) -> Array:
        entry = self._header[part]
        if entry["dtype"] not in _DTYPES:
            raise InputError(f"the type {entry['dtype']} is not known here")
        start, end = entry["data_offsets"]
        with self.path.open("rb") as file:
            file.seek(self._start + start)
            raw = bytearray(file.read(end - start))
        return np.frombuffer(raw, _DTYPES[entry["dtype"]]).reshape(entry["shape"])


def load_compact(path: str | Path) -> Compact:
    """The dense arrays of a file by name, bit for bit as they were, each unpacked when it is asked for.

    Raises InputError for any other file, and where one is broken (the header now, a tensor when it is read).
    """
    return Compact(path)


def save_compact(model: Any, path: str | Path, pattern: str = "") -> None:
    """Write all weights of a `Graph`, or of what `sparsify` returned, as one `.safetensors` file, whole or not at all.

    Weights that have the N:M `pattern` (2:4 unless the model says another) along the axis they are contracted over are
    stored as values and indices: 2:4 in fp16 takes 9/16 of the space. One tensor is in memory at a time. Raises
    InputError for a pattern that is not N:M, quantised weights, and where the file cannot be written.
    """
    graph: Graph = getattr(model, "graph", model)
    wanted = parse(pattern or getattr(getattr(model, "masks", None), "pattern", "") or "2:4")
    if not isinstance(wanted, NM):
        raise InputError(f"compact weights need an N:M pattern, not '{wanted.text}'")
    weights = _storable(graph)
    axes = {layer.value.name: layer.how.axis for layer in find_layers(graph)[0]}
    with whole(path) as draft, draft.open("w+b") as file:
        _Writer(file, weights).run(wanted, axes)


def _storable(graph: Graph) -> dict[str, Weight]:
    """The weights to store; texts and integers of few bits, which nothing changes, stay with the model."""
    found = {}
    for name, value in graph.weights().items():
        weight = value.weight
        assert weight is not None
        if not weight.plain:
            raise InputError(f"compact weights are floating-point, but '{value.shown}' is quantised")
        if name == "__metadata__":
            raise InputError(f"a weight named '{name}' cannot lie in a safetensors file")
        if weight.dtype in _CODES:
            found[name] = weight
    return found


class _Writer:
    """Writes tensors after room for the header, then the header."""

    def __init__(self, file: BinaryIO, weights: Mapping[str, Weight]) -> None:
        self._file, self._weights = file, weights
        self._header: dict[str, Any] = {}
        self._position = 0

    def run(self, pattern: NM, axes: Mapping[str, int]) -> None:
        """Write the whole file."""
        room = 1024 + sum(
            _ENTRY + 64 * len(weight.shape) + _NAMES * len(json.dumps(json.dumps(name)))
            for name, weight in self._weights.items()
        )
        self._file.seek(8 + room)
        tensors = {}
        for name, weight in self._weights.items():
            tensors[name] = self._tensor(name, weight, pattern, axes.get(name))
            if not weight.trainable:
                tensors[name]["constant"] = True
        known = {"format": _FORMAT, "pattern": pattern.text, "tensors": json.dumps(tensors)}
        text = json.dumps({"__metadata__": known, **self._header}).encode()
        if len(text) > room:
            raise GraphPruneError(f"the header of the compact weights needs {len(text)} bytes, not {room}")
        self._file.seek(0)
        self._file.write(room.to_bytes(8, "little") + text.ljust(room))
        self._file.flush()
        os.fsync(self._file.fileno())

    def _tensor(self, name: str, weight: Weight, pattern: NM, axis: int | None) -> dict[str, Any]:
        array = np.ascontiguousarray(weight.array()).reshape(weight.shape)
        packed = None if axis is None else pack(array, axis, pattern.n, pattern.m)
        if packed is None or axis is None:
            return {"shape": list(weight.shape), "parts": [self._part(name, array)]}
        parts = [self._part(name, packed.values), self._part(self._free(f"{name}::indices"), packed.indices)]
        if packed.negative is not None:
            parts.append(self._part(self._free(f"{name}::negative"), packed.negative))
        return {"shape": list(weight.shape), "parts": parts, "axis": axis, "n": pattern.n, "m": pattern.m}

    def _free(self, name: str) -> str:
        while name in self._header or name in self._weights:
            name += "_"
        return name

    def _part(self, name: str, array: Array) -> str:
        end = self._position + array.nbytes
        places = [self._position, end]
        self._header[name] = {"dtype": _CODES[array.dtype], "shape": list(array.shape), "data_offsets": places}
        self._file.write(array.reshape(-1).view(np.uint8).data)
        self._position = end
        return name


def restore_compact(model: Any, path: str | Path, input_shapes: Any = None) -> Any:
    """Put the weights of a file that `save_compact` wrote into a model.

    An `nn.Module` gets them in place and is returned. Of a `Graph`, or anything `gp.load` takes (an ONNX file, a
    transformers folder), a new `Graph` with these weights is returned, which reads each when it is written. Raises
    InputError where names, shapes or types differ.
    """
    stored = path if isinstance(path, Compact) else Compact(path)
    if isinstance(model, str | Path):
        model = frontends.load(model, input_shapes)
    if isinstance(model, Graph):
        return _refilled(model, stored)
    frontends.frontend("torch").set_weights(model, stored, stored.constants)
    return model


def _refilled(graph: Graph, stored: Compact) -> Graph:
    made = graph.copy()
    values = made.weights()
    missing = [name for name in stored if name not in values and name not in stored.constants]
    if missing:
        raise InputError(f"'{stored.path}' holds '{missing[0]}', which '{graph.name}' has not")
    for name in stored:
        if name in values:
            _refill(values[name], stored, name)
    return made


def _refill(value: Value, stored: Compact, name: str) -> None:
    old = value.weight
    assert old is not None
    shape, dtype = stored.form(name)
    if (shape, dtype) != (old.shape, old.dtype):
        found = f"{dtype} {list(shape)}, in the model {old.dtype} {list(old.shape)}"
        raise InputError(f"'{name}' is {found}: '{stored.path}' is of another model")
    value.weight = Weight(shape, dtype, lambda: stored[name], trainable=old.trainable, tied=old.tied, lazy=True)
