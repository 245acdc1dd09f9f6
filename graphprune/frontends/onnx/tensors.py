"""ONNX tensors as numpy arrays: inline bytes, typed fields, and memory-mapped external files."""

from __future__ import annotations

import os
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from onnx import TensorProto, external_data_helper, helper, numpy_helper

from graphprune.errors import InputError

#: Element types that are not numpy's own; the rest comes from the onnx package.
_EXTRA: dict[int, np.dtype[Any]] = {TensorProto.BFLOAT16: np.dtype(ml_dtypes.bfloat16)}
_PACKED = {"INT4", "UINT4", "FLOAT4E2M1", "INT2", "UINT2"}
_FLOATS = {np.dtype(t) for t in (np.float16, np.float32, np.float64, ml_dtypes.bfloat16)}


def numpy_dtype(elem_type: int) -> np.dtype[Any]:
    """The numpy type of an ONNX element type; `object` for what has none."""
    if elem_type in _EXTRA:
        return _EXTRA[elem_type]
    try:
        return np.dtype(helper.tensor_dtype_to_np_dtype(elem_type))
    except (KeyError, TypeError):
        return np.dtype(object)


def onnx_dtype(dtype: np.dtype[Any]) -> int:
    """The ONNX element type of a numpy type."""
    for elem_type, extra in _EXTRA.items():
        if extra == dtype:
            return elem_type
    return int(helper.np_dtype_to_tensor_dtype(dtype))


def is_float(dtype: np.dtype[Any]) -> bool:
    """Whether a type holds real numbers (numpy counts bfloat16 as a void)."""
    return dtype in _FLOATS


def is_data(dtype: np.dtype[Any]) -> bool:
    """Whether a type holds what a network computes with: real numbers, or integers of few bits that stand for them.

    Sizes and indices are wider.
    """
    return is_float(dtype) or (dtype.itemsize == 1 and dtype.kind in "iuV")


def plain(tensor: TensorProto) -> bool:
    """Whether the raw bytes are simply the little-endian elements."""
    if tensor.data_type not in TensorProto.DataType.values():
        raise InputError(f"the tensor '{tensor.name}' has the element type {tensor.data_type}, which does not exist")
    return TensorProto.DataType.Name(tensor.data_type) not in {*_PACKED, "STRING", "UNDEFINED"}


def inline_array(tensor: TensorProto) -> np.ndarray:
    """The elements of a tensor that carries its own data."""
    if tensor.HasField("raw_data") and plain(tensor):
        dtype, raw = numpy_dtype(tensor.data_type), tensor.raw_data
        if len(raw) != prod(tensor.dims) * dtype.itemsize:
            raise InputError(
                f"the tensor '{tensor.name}' holds {len(raw)} bytes but its shape {list(tensor.dims)} needs "
                f"{prod(tensor.dims) * dtype.itemsize}"
            )
        return np.frombuffer(raw, dtype.newbyteorder("<") if dtype.kind in "iufcb" else dtype).reshape(tensor.dims)
    try:
        array: np.ndarray = numpy_helper.to_array(tensor)
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"the tensor '{tensor.name}' cannot be read: {error}") from error
    return array.view(numpy_dtype(tensor.data_type)) if tensor.data_type in _EXTRA else array


def is_external(tensor: TensorProto) -> bool:
    """Whether the elements lie in another file."""
    return bool(external_data_helper.uses_external_data(tensor))


def external_file(tensor: TensorProto, folder: Path | None, model: str) -> tuple[Path, int]:
    """The file and byte offset of an external tensor; raises InputError unless it lies whole in the model's folder."""
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = str(entries.get("location", ""))
    where = f"the tensor '{tensor.name}' of {model} refers to the external file '{location}'"
    if folder is None:
        raise InputError(f"{where}, but the model was given without a folder: pass base_dir, or load it from its path")
    if "\0" in location:
        raise InputError(f"{where}, which is no name of a file")
    root = Path(os.path.realpath(folder))
    path = Path(os.path.realpath(root / location))
    if not location or Path(location).is_absolute() or not path.is_relative_to(root):
        raise InputError(f"{where}, which is outside the model's folder")
    if not path.is_file():
        raise InputError(f"{where}, which does not exist")
    if any(n < 0 for n in tensor.dims):
        raise InputError(f"the tensor '{tensor.name}' of {model} has the impossible shape {list(tensor.dims)}")
    offset, need = _offset(entries, where), _byte_count(tensor)
    size = path.stat().st_size
    if offset + need > size:
        raise InputError(f"{where}, which is too short: it has {size} bytes and {offset + need} are needed")
    return path, offset


def _offset(entries: dict[str, str], where: str) -> int:
    text = entries.get("offset", "0") or "0"
    if not text.isdecimal():
        raise InputError(f"{where} at the offset '{text}', which is no number of bytes")
    return int(text)


def _byte_count(tensor: TensorProto) -> int:
    if not plain(tensor):
        raise InputError(f"the tensor '{tensor.name}' has an element type that cannot be read from an external file")
    return prod(tensor.dims) * numpy_dtype(tensor.data_type).itemsize


def external_reader(tensor: TensorProto, folder: Path | None, model: str) -> Callable[[], np.ndarray]:
    """A function that maps the tensor's part of its file into memory; the file is checked now."""
    path, offset = external_file(tensor, folder, model)
    shape, dtype = tuple(tensor.dims), numpy_dtype(tensor.data_type)

    def read() -> np.ndarray:
        if prod(shape) == 0:
            return np.zeros(shape, dtype)
        raw = np.memmap(path, np.uint8, mode="r", offset=offset, shape=(prod(shape) * dtype.itemsize,))
        return np.asarray(raw).view(dtype).reshape(shape)

    return read


def to_tensor(array: np.ndarray, name: str) -> TensorProto:
    """An ONNX tensor with inline data."""
    tensor = TensorProto(name=name, dims=array.shape)
    put_elements(tensor, array)
    return tensor


def put_elements(tensor: TensorProto, array: np.ndarray) -> None:
    """Give a tensor without data, but of the array's sizes, its elements inline."""
    tensor.data_type = onnx_dtype(array.dtype)
    if plain(tensor):
        tensor.raw_data = np.ascontiguousarray(array).tobytes()
    else:
        tensor.MergeFrom(numpy_helper.from_array(array.reshape(-1)))
        tensor.dims[:] = array.shape
