"""Memory, streams and events on an NVIDIA GPU, through torch or cuda-python, whichever is there."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, Protocol

import numpy as np

from graphprune.errors import BackendError

_NO_GPU = "an NVIDIA GPU with its driver, which {} does not find"
_INSTALL = "pip install torch (a CUDA build) or pip install cuda-python, for memory on the GPU"


@dataclass(frozen=True)
class Device:
    """What an engine is built for."""

    name: str
    capability: str
    cuda: str


@dataclass(frozen=True, eq=False)
class Block:
    """Bytes on the device, freed with this object."""

    address: int
    size: int
    owner: Any = None


class DeviceMemory(Protocol):
    """One library's view of the GPU: one device, one stream."""

    name: str

    @property
    def stream(self) -> int:
        """The handle of the stream that all work goes to."""

    def device(self) -> Device:
        """The GPU in use."""

    def empty(self, size: int) -> Block:
        """So many bytes, at least one: TensorRT takes no null address."""

    def upload(self, array: np.ndarray, block: Block) -> None:
        """Copy an array to a block that is large enough."""

    def download(self, block: Block, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """An array of what a block holds, once the stream's work is done."""

    def seconds(self, work: Callable[[], None]) -> float:
        """Put work on the stream, wait for it, and return how long the device took, by its own events."""


class TorchMemory:
    """Through torch; `where` is "cuda", or another device in tests."""

    name = "torch"

    def __init__(self, where: str = "cuda") -> None:
        import torch

        self._where = where
        self._stream: Any = torch.cuda.Stream()  # type: ignore[no-untyped-call]

    @property
    def stream(self) -> int:
        """The handle of the stream that all work goes to."""
        return int(self._stream.cuda_stream)

    def device(self) -> Device:
        """The GPU in use."""
        import torch

        major, minor = torch.cuda.get_device_capability()
        return Device(torch.cuda.get_device_name(), f"{major}.{minor}", str(torch.version.cuda).partition(".")[0])

    def empty(self, size: int) -> Block:
        """So many bytes, at least one."""
        import torch

        tensor = torch.empty(max(size, 1), dtype=torch.uint8, device=self._where)
        return Block(tensor.data_ptr(), size, tensor)

    def upload(self, array: np.ndarray, block: Block) -> None:
        """Copy an array to a block that is large enough."""
        import torch

        source = torch.from_numpy(_bytes(array).copy())
        with torch.cuda.stream(self._stream):
            block.owner[: len(source)].copy_(source)

    def download(self, block: Block, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """An array of what a block holds, once the stream's work is done."""
        self._stream.synchronize()
        found: np.ndarray = block.owner[: _size(shape, dtype)].cpu().numpy().view(dtype).reshape(shape)
        return found

    def seconds(self, work: Callable[[], None]) -> float:
        """Put work on the stream, wait for it, and return how long the device took."""
        import torch

        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        start.record(self._stream)
        work()
        end.record(self._stream)
        end.synchronize()
        return float(start.elapsed_time(end)) / 1e3


class CudaMemory:
    """Through cuda-python (`cuda.bindings.runtime`), whose functions return an error code before their results."""

    name = "cuda-python"

    def __init__(self) -> None:
        from cuda.bindings import runtime as cudart

        self._cuda = cudart
        self._stream = self._call(cudart.cudaStreamCreate())
        self._events = [self._call(cudart.cudaEventCreate()) for _ in range(2)]

    @property
    def stream(self) -> int:
        """The handle of the stream that all work goes to."""
        return int(self._stream)

    def device(self) -> Device:
        """The GPU in use."""
        properties = self._call(self._cuda.cudaGetDeviceProperties(self._call(self._cuda.cudaGetDevice())))
        major = self._call(self._cuda.cudaRuntimeGetVersion()) // 1000
        return Device(properties.name.decode().strip("\0"), f"{properties.major}.{properties.minor}", str(major))

    def empty(self, size: int) -> Block:
        """So many bytes, at least one."""
        address = int(self._call(self._cuda.cudaMalloc(max(size, 1))))
        block = Block(address, size)
        weakref.finalize(block, self._cuda.cudaFree, address)
        return block

    def upload(self, array: np.ndarray, block: Block) -> None:
        """Copy an array to a block that is large enough."""
        source = _bytes(array)
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._call(self._cuda.cudaMemcpyAsync(block.address, source.ctypes.data, source.nbytes, kind, self._stream))
        self._call(self._cuda.cudaStreamSynchronize(self._stream))  # before `source` goes

    def download(self, block: Block, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """An array of what a block holds, once the stream's work is done."""
        found = np.empty(_size(shape, dtype), np.uint8)
        kind = self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._call(self._cuda.cudaMemcpyAsync(found.ctypes.data, block.address, found.nbytes, kind, self._stream))
        self._call(self._cuda.cudaStreamSynchronize(self._stream))
        return found.view(dtype).reshape(shape)

    def seconds(self, work: Callable[[], None]) -> float:
        """Put work on the stream, wait for it, and return how long the device took."""
        start, end = self._events
        self._call(self._cuda.cudaEventRecord(start, self._stream))
        work()
        self._call(self._cuda.cudaEventRecord(end, self._stream))
        self._call(self._cuda.cudaEventSynchronize(end))
        return float(self._call(self._cuda.cudaEventElapsedTime(start, end))) / 1e3

    def _call(self, result: tuple[Any, ...]) -> Any:
        """The value of a call; raises `BackendError` where it failed."""
        error, *values = result
        if int(error) != 0:
            _, why = self._cuda.cudaGetErrorString(error)
            raise BackendError(f"CUDA failed: {why.decode()} (error {int(error)})")
        return values[0] if values else None


def open_memory(choice: str) -> DeviceMemory:
    """The memory of a choice ("auto", "torch", "cuda-python"); `lacking` must have found nothing."""
    use_torch = choice == "torch" or (choice == "auto" and _torch_lacks() is None)
    return TorchMemory() if use_torch else CudaMemory()


def lacking(choice: str) -> str | None:
    """What is missing for a choice of memory, as the end of a sentence; None where it is there."""
    if choice == "torch":
        return _torch_lacks()
    if choice == "cuda-python":
        return _cuda_lacks()
    found = [_torch_lacks(), _cuda_lacks()]
    if None in found:
        return None
    return next((lack for lack in found if lack is not None and "GPU with" in lack), _INSTALL)


def _torch_lacks() -> str | None:
    if find_spec("torch") is None:
        return "pip install torch (a CUDA build), for memory on the GPU"
    import torch

    return None if torch.cuda.is_available() else _NO_GPU.format(f"torch {torch.__version__}")


def _cuda_lacks() -> str | None:
    if find_spec("cuda") is None or find_spec("cuda.bindings") is None:
        return "pip install cuda-python, for memory on the GPU"
    from cuda.bindings import runtime as cudart

    error, count = cudart.cudaGetDeviceCount()
    return None if int(error) == 0 and count else _NO_GPU.format("cuda-python")


def _bytes(array: np.ndarray) -> np.ndarray:
    """The array's bytes, in C order."""
    return np.ascontiguousarray(array).reshape(-1).view(np.uint8)


def _size(shape: tuple[int, ...], dtype: np.dtype[Any]) -> int:
    return int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
