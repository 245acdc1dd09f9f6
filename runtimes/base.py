"""What a backend offers, and the register of backends by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Protocol, runtime_checkable

import numpy as np

from graphprune.errors import BackendError, InputError

Inputs = Mapping[str, np.ndarray] | Sequence[np.ndarray]
"""Arrays to feed: by input name, or in the order of the model's inputs."""


@dataclass(frozen=True)
class TensorSpec:
    """An input as the model declares it; a size that the caller chooses is None."""

    name: str
    shape: tuple[int | None, ...]
    dtype: np.dtype[Any]


class Executable(Protocol):
    """A compiled model. `inputs` is empty where the backend cannot know them (an `nn.Module`)."""

    @property
    def inputs(self) -> tuple[TensorSpec, ...]:
        """The inputs in order."""

    def run(self, inputs: Inputs) -> list[np.ndarray]:
        """All outputs in order; raises `InputError` or `BackendError` when the model cannot run on `inputs`."""


@runtime_checkable
class Runtime(Protocol):
    """One backend. Constructing it is cheap and works even where its library is missing."""

    name: str

    @property
    def version(self) -> str:
        """The library's version."""

    def is_available(self) -> bool:
        """Whether this machine can use it."""

    def missing(self) -> str:
        """What to install to have it, as the end of a sentence: "pip install ..."."""

    def compile(self, model: Any, *, threads: int | None = None) -> Executable:
        """Make `model` ready to run on `threads` threads (None: the library's own choice)."""

    def peak_memory(self, model: Any, inputs: Inputs, *, threads: int | None = None) -> int | None:
        """Bytes by which one load and run raise a fresh process's peak; None where that cannot be measured."""


@dataclass(frozen=True)
class _Entry:
    module: str
    factory: str
    options: dict[str, Any]


_RUNTIMES = {
    "onnxruntime": _Entry("onnxruntime", "OnnxRuntime", {}),
    "onnxruntime-unoptimized": _Entry("onnxruntime", "OnnxRuntime", {"optimize": False}),
    "onnxruntime-cuda": _Entry("onnxruntime", "OnnxRuntime", {"provider": "CUDAExecutionProvider"}),
    "onnxruntime-tensorrt": _Entry("onnxruntime", "OnnxRuntime", {"provider": "TensorrtExecutionProvider"}),
    "reference": _Entry("reference", "OnnxReference", {}),
    "pytorch": _Entry("pytorch", "PyTorch", {}),
    "pytorch-compiled": _Entry("pytorch", "PyTorch", {"compiled": True}),
}


def names() -> list[str]:
    """The names `get` knows, available on this machine or not."""
    return list(_RUNTIMES)


def get(name: str) -> Runtime:
    """The backend called `name`, ready to use.

    Raises `InputError` for an unknown name and `BackendError`, saying what to install, for one that is missing here.
    """
    entry = _RUNTIMES.get(name)
    if entry is None:
        raise InputError(f"there is no runtime '{name}'; the runtimes are {', '.join(_RUNTIMES)}")
    module = import_module(f"{__package__}.{entry.module}")
    runtime: Runtime = getattr(module, entry.factory)(name=name, **entry.options)
    if not runtime.is_available():
        raise BackendError(f"the runtime '{name}' is not available on this machine: {runtime.missing()}")
    return runtime
