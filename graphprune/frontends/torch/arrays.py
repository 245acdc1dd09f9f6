"""Tensors and numpy arrays: the two ways across, without copying where memory can be shared."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import ml_dtypes
import numpy as np
import torch

from graphprune.errors import InputError

# Types that numpy itself lacks travel as integers of the same width and are relabelled on the other side.
_EXTENDED: dict[torch.dtype, tuple[torch.dtype, Any]] = {
    torch.bfloat16: (torch.int16, ml_dtypes.bfloat16),
    torch.float8_e4m3fn: (torch.uint8, ml_dtypes.float8_e4m3fn),
    torch.float8_e5m2: (torch.uint8, ml_dtypes.float8_e5m2),
}

_NUMPY: dict[torch.dtype, np.dtype[Any]] = {
    torch.float16: np.dtype("float16"),
    torch.float32: np.dtype("float32"),
    torch.float64: np.dtype("float64"),
    torch.int8: np.dtype("int8"),
    torch.int16: np.dtype("int16"),
    torch.int32: np.dtype("int32"),
    torch.int64: np.dtype("int64"),
    torch.uint8: np.dtype("uint8"),
    torch.uint16: np.dtype("uint16"),
    torch.uint32: np.dtype("uint32"),
    torch.uint64: np.dtype("uint64"),
    torch.bool: np.dtype("bool"),
    torch.complex64: np.dtype("complex64"),
    torch.complex128: np.dtype("complex128"),
}
_NUMPY.update({source: np.dtype(target) for source, (_, target) in _EXTENDED.items()})

_CARRIER = {np.dtype(target): (carrier, source) for source, (carrier, target) in _EXTENDED.items()}


def numpy_dtype(dtype: torch.dtype) -> np.dtype[Any]:
    """The numpy type of a torch type (bfloat16 and float8 as `ml_dtypes`); raw bytes for types without one."""
    return _NUMPY.get(dtype, np.dtype("V1"))


def to_numpy(tensor: torch.Tensor) -> np.ndarray:
    """The elements as an array; it shares memory with a CPU tensor."""
    if tensor.is_meta:
        raise InputError(
            "the model's tensors are on the meta device, without values: load its weights (or `to_empty`) first"
        )
    tensor = tensor.detach().resolve_conj().resolve_neg()
    if tensor.device.type != "cpu":
        tensor = tensor.cpu()
    if tensor.dtype in _EXTENDED:
        carrier, target = _EXTENDED[tensor.dtype]
        raw: np.ndarray = tensor.view(carrier).numpy()
        return raw.view(target)
    array: np.ndarray = tensor.numpy()
    return array


def to_torch(array: np.ndarray) -> torch.Tensor:
    """A new tensor with a copy of the elements."""
    return _across(array, torch.tensor)


def shared(array: np.ndarray) -> torch.Tensor:
    """A tensor on the array's own memory (a file's, perhaps), which must not be written to."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns of memory that must not be written to
        return _across(array, torch.from_numpy)


def _across(array: np.ndarray, make: Callable[[Any], torch.Tensor]) -> torch.Tensor:
    if array.dtype in _CARRIER:
        carrier, target = _CARRIER[array.dtype]
        raw = array.view(np.dtype(str(carrier).removeprefix("torch.")))
        return make(raw).view(target)
    return make(array)


_TORCH = {target: source for source, target in _NUMPY.items()}


def torch_dtype(dtype: np.dtype[Any]) -> torch.dtype:
    """The torch type of a numpy type; raises KeyError for types without one."""
    return _TORCH[dtype]
