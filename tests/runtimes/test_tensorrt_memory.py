"""Memory on the GPU: cuda-python by a stand-in, torch on the CPU with stand-ins for its streams and events."""

from __future__ import annotations

import gc
import sys
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch

from graphprune.runtimes import tensorrt_memory as memory
from tests.runtimes import cuda_fake

ARRAY = np.arange(12, dtype=np.float32).reshape(3, 4)


class _Stream:
    cuda_stream = 5

    def synchronize(self) -> None: ...


class _Event:
    def __init__(self, enable_timing: bool) -> None:
        assert enable_timing

    def record(self, stream: _Stream) -> None: ...

    def synchronize(self) -> None: ...

    def elapsed_time(self, other: _Event) -> float:
        return 2.5


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """A torch that believes to have a GPU, and cuda-python's stand-in."""
    found: dict[str, Any] = {"Stream": _Stream, "Event": _Event, "stream": nullcontext, "is_available": lambda: True}
    found |= {"get_device_name": lambda: "NVIDIA Fake", "get_device_capability": lambda: (9, 0)}
    for name, stand_in in found.items():
        monkeypatch.setattr(torch.cuda, name, stand_in)
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    for name, made in cuda_fake.packages(cuda_fake.runtime()).items():
        monkeypatch.setitem(sys.modules, name, made)


@pytest.mark.parametrize("which", ["torch", "cuda-python"])
def test_arrays_go_there_and_come_back(gpu: None, which: str) -> None:
    held: memory.DeviceMemory = memory.TorchMemory("cpu") if which == "torch" else memory.CudaMemory()
    assert held.name == which
    assert held.stream == (5 if which == "torch" else 7)
    assert held.device() == memory.Device("NVIDIA Fake", "9.0", "13")
    for array in (ARRAY, ARRAY.T, ARRAY.astype(np.float16), ARRAY > 3, ARRAY[:0], np.float32(2)):
        block = held.empty(np.asarray(array).nbytes)
        assert block.address
        held.upload(np.asarray(array), block)
        np.testing.assert_array_equal(held.download(block, np.shape(array), np.asarray(array).dtype), array)
    done: list[int] = []
    assert held.seconds(lambda: done.append(1)) == pytest.approx(2.5e-3)
    assert done == [1]


def test_blocks_are_freed(gpu: None) -> None:
    held = memory.CudaMemory()
    addresses = sys.modules["cuda.bindings.runtime"].held
    block = held.empty(16)
    assert addresses
    del block
    gc.collect()
    assert not addresses


def test_torch_is_asked_first(gpu: None, monkeypatch: pytest.MonkeyPatch) -> None:
    assert memory.lacking("auto") is memory.lacking("torch") is memory.lacking("cuda-python") is None
    assert memory.open_memory("auto").name == "torch"
    assert memory.open_memory("cuda-python").name == "cuda-python"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert memory.open_memory("auto").name == "cuda-python"
    assert memory.lacking("torch") == f"an NVIDIA GPU with its driver, which torch {torch.__version__} does not find"


def test_what_is_missing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(memory, "find_spec", lambda name: name if name == "torch" else None)
    assert memory.lacking("cuda-python") == "pip install cuda-python, for memory on the GPU"
    assert "an NVIDIA GPU with its driver, which torch" in str(memory.lacking("auto"))
    monkeypatch.setattr(memory, "find_spec", lambda name: None)
    assert memory.lacking("torch") == "pip install torch (a CUDA build), for memory on the GPU"
    assert str(memory.lacking("auto")).startswith("pip install torch (a CUDA build) or pip install cuda-python")
