"""An ONNX model in whatever form a caller holds it, as the path or the bytes that a session loads.

A proto is used by its fields alone, so that nothing here imports `onnx`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

from graphprune.errors import InputError

PROTO_LIMIT = 2**31 - 1
"""Bytes past which protobuf refuses a message, so that weights must lie in a file beside it."""

_EXTERNAL = 1  # TensorProto.EXTERNAL
_SPILL_FROM = 1024
_PAGE = 4096


@contextmanager
def loadable(model: Any) -> Iterator[str | bytes]:
    """What `InferenceSession` takes; a temporary file where the model is too large for bytes."""
    if isinstance(model, bytes):
        yield model
        return
    data = None if isinstance(model, str | Path) else _serialized(model)
    if data is not None:
        yield data
        return
    with as_file(model) as path:
        yield str(path)


@contextmanager
def as_file(model: Any) -> Iterator[Path]:
    """The model as a file, written to a temporary folder unless it is one already."""
    if isinstance(model, str | Path):
        if not Path(model).is_file():
            raise InputError(f"there is no file '{model}'")
        yield Path(model)
        return
    with TemporaryDirectory(prefix="graphprune-") as folder:
        path = Path(folder, "model.onnx")
        data = model if isinstance(model, bytes) else _serialized(model)
        if data is None:
            data = _spilled(model, Path(folder, "weights.bin"))
        path.write_bytes(data)
        yield path


def _serialized(model: Any) -> bytes | None:
    """The proto's bytes, or None where they are too many."""
    if not hasattr(model, "SerializeToString"):
        raise InputError(f"onnxruntime runs ONNX models, not a {type(model).__name__}; export it to ONNX first")
    try:
        data: bytes = model.SerializeToString()
    except Exception:  # protobuf's class for "too large" differs between its versions
        return None
    return data if len(data) <= PROTO_LIMIT else None


def _spilled(model: Any, weights: Path) -> bytes:
    """Bytes of a copy of the proto whose large initializers lie in `weights`."""
    twin = type(model)()
    twin.CopyFrom(model)
    with weights.open("wb") as file:
        for tensor in twin.graph.initializer:
            if len(tensor.raw_data) >= _SPILL_FROM:
                _spill(tensor, file, weights.name)
    data: bytes = twin.SerializeToString()
    return data


def _spill(tensor: Any, file: BinaryIO, name: str) -> None:
    file.write(bytes(-file.tell() % _PAGE))
    place = {"location": name, "offset": str(file.tell()), "length": str(len(tensor.raw_data))}
    file.write(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = _EXTERNAL
    for key, value in place.items():
        tensor.external_data.add(key=key, value=value)
