"""What a backend offers, and the register of backends by name."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, Protocol, Self, runtime_checkable

import numpy as np

from graphprune.errors import BackendError, InputError
from graphprune.options import fill
from graphprune.registry import pick

Inputs = Mapping[str, np.ndarray] | Sequence[np.ndarray]
"""Arrays to feed: by input name, or in the order of the model's inputs."""


InputShapes = Mapping[str, Sequence[int]] | Sequence[Sequence[int]]
"""Shapes by input name, or in the order of the model's inputs."""

Progress = Callable[[str], None]
"""Told what is being done."""


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


@runtime_checkable
class Specializing(Protocol):
    """A backend that compiles for particular input shapes, which may take minutes."""

    def specialized(self, input_shapes: InputShapes | None, progress: Progress | None) -> Self:
        """The backend for models that will be fed these shapes, which tells `progress` what it is doing."""


@runtime_checkable
class Clocked(Protocol):
    """A compiled model on a device, which `device` names, that times itself there; a text `clock` may say how."""

    device: str

    def stopwatch(self, inputs: Inputs) -> Callable[[], float]:
        """A call that runs the model on `inputs`, already on the device, and returns the seconds that it took there."""


@dataclass(frozen=True)
class LayerChoice:
    """What a backend made of one layer. `eligible`: its weights have the pattern that sparse kernels want.

    `nodes` are the operators of the model that went into it, `seconds` what it takes and `share` its part of the whole
    run; what a backend does not tell is None or empty.
    """

    name: str
    kind: str = ""
    kernel: str = ""
    precision: str = ""
    sparse: bool = False
    eligible: bool | None = None
    nodes: tuple[str, ...] = ()
    seconds: float | None = None
    share: float | None = None


@runtime_checkable
class Layered(Protocol):
    """A compiled model that can say what became of its layers."""

    def layers(self) -> tuple[LayerChoice, ...]:
        """The layers as they run, in order."""


@dataclass(frozen=True)
class _Entry:
    """Where a backend is, with what it is made, and `takes`: the kind of model it runs, "onnx" or "torch".

    `settings` is the name of the dataclass of its options, which are given in braces: `tensorrt{sparse=false}`.
    """

    module: str
    factory: str
    options: dict[str, Any] = field(default_factory=dict)
    takes: str = "onnx"
    settings: str | None = None


_RUNTIMES = {
    "onnxruntime": _Entry("onnxruntime", "OnnxRuntime"),
    "onnxruntime-unoptimized": _Entry("onnxruntime", "OnnxRuntime", {"optimize": False}),
    "onnxruntime-cuda": _Entry("onnxruntime", "OnnxRuntime", settings="CudaOptions"),
    "onnxruntime-tensorrt": _Entry("onnxruntime", "OnnxRuntime", settings="TensorRTProviderOptions"),
    "tensorrt": _Entry("tensorrt", "TensorRT", settings="TensorRTOptions"),
    "reference": _Entry("reference", "OnnxReference"),
    "pytorch": _Entry("pytorch", "PyTorch", takes="torch", settings="PyTorchOptions"),
    "pytorch-compiled": _Entry("pytorch", "PyTorch", {"compiled": True}, takes="torch", settings="PyTorchOptions"),
}
_NAMED = re.compile(r"\s*([\w-]+)\s*(?:\{([^{}]*)\})?\s*")


def names() -> list[str]:
    """The names `get` knows, available on this machine or not."""
    return list(_RUNTIMES)


def takes(name: str) -> str:
    """The kind of model that a backend runs: "onnx" or "torch". Raises `InputError` for an unknown name."""
    return _entry(name)[1].takes


def get(name: str) -> Runtime:
    """The backend called `name`, ready to use; its options may follow in braces, as in `tensorrt{sparse=false}`.

    Raises `InputError` for an unknown name and `BackendError`, saying what to install, for one that is missing here.
    """
    plain, entry, text = _entry(name)
    module = import_module(f"{__package__}.{entry.module}")
    options = dict(entry.options)
    if entry.settings is not None:
        options["options"] = fill(f"runtime '{plain}'", getattr(module, entry.settings), text)
        plain = name.strip()
    elif text.strip():
        raise InputError(f"the runtime '{plain}' has no options, but '{text.strip()}' was given")
    runtime: Runtime = getattr(module, entry.factory)(name=plain, **options)
    if not runtime.is_available():
        raise BackendError(f"the runtime '{plain}' is not available on this machine: {runtime.missing()}")
    return runtime


def _entry(name: str) -> tuple[str, _Entry, str]:
    """The name by itself, its entry, and the text of its options."""
    parts = _NAMED.fullmatch(name)
    plain = parts[1] if parts else name
    plain = pick("runtime", plain, _RUNTIMES)
    return plain, _RUNTIMES[plain], (parts[2] if parts else "") or ""


def cache_folder(given: str, name: str) -> Path | None:
    """The folder that a backend keeps things in: the one given, the user's own ("") or none ("off")."""
    if given == "off":
        return None
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return Path(given) if given else root / "graphprune" / name
