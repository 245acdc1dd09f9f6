"""A stand-in for cuda-python's runtime module: device memory is the host's, and every call returns its error first."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

ELAPSED_MS = 2.5


def runtime(count: int = 1, failing: str = "") -> ModuleType:
    """The module, on a machine with so many GPUs; `failing` names a function that fails."""
    made = ModuleType("cuda.bindings.runtime")
    held: dict[int, Any] = {}

    def malloc(size: int) -> int:
        buffer = ctypes.create_string_buffer(size)
        held[ctypes.addressof(buffer)] = buffer
        return ctypes.addressof(buffer)

    def free(address: int) -> None:
        del held[address]

    def copy(target: int, source: int, size: int, kind: int, stream: int) -> None:
        ctypes.memmove(target, source, size)

    properties = type("cudaDeviceProp", (), {"name": b"NVIDIA Fake\0\0", "major": 9, "minor": 0})
    functions: dict[str, Callable[..., Any]] = {
        "cudaGetDeviceCount": lambda: count,
        "cudaGetDevice": lambda: 0,
        "cudaGetDeviceProperties": lambda device: properties,
        "cudaRuntimeGetVersion": lambda: 13050,
        "cudaStreamCreate": lambda: 7,
        "cudaStreamSynchronize": lambda stream: None,
        "cudaEventCreate": object,
        "cudaEventRecord": lambda event, stream: None,
        "cudaEventSynchronize": lambda event: None,
        "cudaEventElapsedTime": lambda start, end: ELAPSED_MS,
        "cudaMalloc": malloc,
        "cudaFree": free,
        "cudaMemcpyAsync": copy,
        "cudaGetErrorString": lambda error: b"no CUDA-capable device is detected",
    }
    for name, function in functions.items():
        setattr(made, name, _wrapped(function, name == failing))
    kinds = {"cudaMemcpyHostToDevice": 1, "cudaMemcpyDeviceToHost": 2}
    made.cudaMemcpyKind = type("cudaMemcpyKind", (), kinds)  # type: ignore[attr-defined]
    made.held = held  # type: ignore[attr-defined]
    return made


def _wrapped(function: Callable[..., Any], fails: bool) -> Callable[..., Any]:
    def call(*arguments: Any) -> tuple[Any, ...]:
        if fails:
            return 100, None
        found = function(*arguments)
        return (0,) if found is None else (0, found)

    return call


def packages(made: ModuleType) -> dict[str, ModuleType]:
    """The module and the packages it lies in, as `sys.modules` has them."""
    found = {"cuda": ModuleType("cuda"), "cuda.bindings": ModuleType("cuda.bindings"), made.__name__: made}
    for name, module in found.items():
        module.__spec__ = ModuleSpec(name, None, is_package=module is not made)
    found["cuda.bindings"].runtime = made  # type: ignore[attr-defined]
    return found
