"""ONNX models on onnxruntime: CPU by default, CUDA and TensorRT through their execution providers."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from graphprune.errors import BackendError, UnsupportedError

from .base import Inputs, LayerChoice, TensorSpec
from .inputs import ordered, random_inputs
from .memory import peak_growth
from .modelfile import as_file, loadable
from .onnxruntime_device import RECORD, bound, find_libraries, placement, value
from .onnxruntime_options import CPU, CUDA, TENSORRT, CpuOptions, CudaOptions, ProviderOptions, TensorRTProviderOptions
from .onnxruntime_profile import profiled
from .tensorrt_cache import model_hash

if TYPE_CHECKING:
    import onnxruntime as ort

__all__ = ["CudaOptions", "OnnxExecutable", "OnnxRuntime", "TensorRTProviderOptions"]

_INSTALL = {
    CPU: "pip install onnxruntime",
    CUDA: "pip install onnxruntime-gpu (and an NVIDIA GPU with its driver)",
    TENSORRT: "pip install onnxruntime-gpu tensorrt (and an NVIDIA GPU with its driver)",
}
_DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(double)": np.dtype(np.float64),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(bfloat16)": np.dtype(ml_dtypes.bfloat16),
    "tensor(bool)": np.dtype(np.bool_),
    **{f"tensor({kind}{bits})": np.dtype(f"{kind}{bits}") for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}
_KEPT_BYTES = 2**28
_LOG_FATAL = 4  # errors reach the user as exceptions, once


class OnnxRuntime:
    """Runs a model given as a path, as bytes, or as an object with `SerializeToString` (an `onnx.ModelProto`)."""

    def __init__(
        self, name: str = "onnxruntime", options: ProviderOptions | None = None, *, optimize: bool = True
    ) -> None:
        self.name = name
        self.options = options or CpuOptions()
        self.optimize = optimize

    @property
    def provider(self) -> str:
        """The execution provider that is to run the model."""
        return self.options.provider

    @property
    def version(self) -> str:
        """Version of the installed onnxruntime package, whichever build it is."""
        for package in ("onnxruntime", "onnxruntime-gpu"):
            try:
                return version(package)
            except PackageNotFoundError:
                continue
        return "unknown"

    def is_available(self) -> bool:
        """Whether onnxruntime is installed with the wanted execution provider."""
        if find_spec("onnxruntime") is None:
            return False
        import onnxruntime as ort

        return self.provider in ort.get_available_providers()

    def missing(self) -> str:
        """The package that brings the provider."""
        install = _INSTALL[self.provider]
        if find_spec("onnxruntime") is None:
            return install
        import onnxruntime as ort

        return f"{install}; the onnxruntime that is there has {', '.join(ort.get_available_providers())}"

    def compile(self, model: Any, *, threads: int | None = None, folder: Path | None = None) -> OnnxExecutable:
        """Build a session; `BackendError` quotes onnxruntime where it refuses.

        `folder` holds the external data of a model that is not given as a path.
        """
        session = self._session(model, threads, folder)
        notes = placement(session, self.name, self.options)
        again = partial(self._profiling, _kept(model), threads, folder)
        if self.provider == CPU:
            return OnnxExecutable(session, again)
        session.disable_fallback()
        return DeviceExecutable(session, again, notes, "cuda", self.options.device)

    def peak_memory(self, model: Any, inputs: Inputs, *, threads: int | None = None) -> int | None:
        """Peak growth of a fresh process that loads and runs the model once; measured on Linux and CPU only."""
        if self.provider != CPU:
            return None
        with as_file(model) as path:
            named = inputs if isinstance(inputs, dict) else self.compile(path).named(inputs)
            return peak_growth(path, dict(named), threads)

    def _session(self, model: Any, threads: int | None, folder: Path | None, profile: str = "") -> ort.InferenceSession:
        """A session, which writes a profile to a file of that prefix where one is given."""
        import onnxruntime as ort

        options = self._options(threads, folder)
        if profile:
            options.enable_profiling = True
            options.profile_file_prefix = profile
        if self.provider != CPU:
            find_libraries()
        with loadable(model) as source:
            try:
                return ort.InferenceSession(source, options, self._providers(model), enable_fallback=0)
            except Exception as error:
                kind = UnsupportedError if type(error).__name__ == "NotImplemented" else BackendError
                raise kind(f"onnxruntime cannot load {_label(model)}: {_first_line(error)}") from error

    def _profiling(self, model: Any, threads: int | None, folder: Path | None, profile: str) -> ort.InferenceSession:
        """Another session for the same model, as profiling slows the one that is timed."""
        if model is None:
            raise BackendError("the model is too large to be kept for the profiler: give it as a file")
        return self._session(model, threads, folder, profile)

    def _options(self, threads: int | None, folder: Path | None) -> ort.SessionOptions:
        import onnxruntime as ort

        options = ort.SessionOptions()
        level = ort.GraphOptimizationLevel
        options.graph_optimization_level = level.ORT_ENABLE_ALL if self.optimize else level.ORT_DISABLE_ALL
        options.log_severity_level = _LOG_FATAL
        options.inter_op_num_threads = 1
        options.intra_op_num_threads = threads or 0
        # Idle threads of one session must not spin on the cores that the next one, measured in turn, needs.
        options.add_session_config_entry("session.force_spinning_stop", "1")
        if self.provider != CPU:
            options.add_session_config_entry(RECORD, "1")
        if folder is not None:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
        return options

    def _providers(self, model: Any) -> list[Any]:
        if self.provider != TENSORRT:
            return list(self.options.providers(""))
        with as_file(model) as path:
            return list(self.options.providers(model_hash(path)[:16]))


class OnnxExecutable:
    """One onnxruntime session; `again` makes another that writes a profile."""

    def __init__(self, session: ort.InferenceSession, again: Callable[[str], ort.InferenceSession]) -> None:
        self.session = session
        self.inputs = tuple(_spec(arg) for arg in session.get_inputs())
        self.outputs = tuple(arg.name for arg in session.get_outputs())
        self._again = again
        self._fed: dict[str, np.ndarray] | None = None

    def named(self, inputs: Inputs) -> dict[str, np.ndarray]:
        """`inputs` by input name."""
        return ordered(self.inputs, inputs)

    def run(self, inputs: Inputs) -> list[np.ndarray]:
        """All outputs in order."""
        self._fed = self.named(inputs)
        try:
            return _run(self.session, self._fed)
        except Exception as error:
            raise UnsupportedError(f"onnxruntime cannot run the model: {_first_line(error)}") from error

    def layers(self) -> tuple[LayerChoice, ...]:
        """The nodes as onnxruntime runs them, with the time that each takes on the inputs last given."""
        feed = self._fed if self._fed is not None else self.named(random_inputs(self.inputs))
        return profiled(self._again, lambda session: _run(session, feed))


class DeviceExecutable(OnnxExecutable):
    """A session on a device, timed on data that lie there; `notes` say which nodes run elsewhere."""

    clock = "the processor's clock, inputs and outputs in place"

    def __init__(
        self,
        session: ort.InferenceSession,
        again: Callable[[str], ort.InferenceSession],
        notes: tuple[str, ...],
        kind: str,
        index: int,
    ) -> None:
        super().__init__(session, again)
        self.notes = notes
        self.kind = kind
        self.index = index

    @property
    def device(self) -> str:
        """Where it runs, in words."""
        return f"{self.kind}:{self.index} ({self.session.get_providers()[0]})"

    def stopwatch(self, inputs: Inputs) -> Callable[[], float]:
        """A call that runs on `inputs`, which lie on the device already, and returns the seconds until it is done."""
        self._fed = self.named(inputs)
        try:
            binding = bound(self.session, self._fed, self.outputs, self.kind, self.index)
        except Exception as error:
            raise UnsupportedError(f"onnxruntime cannot take the inputs: {_first_line(error)}") from error

        def once() -> float:
            start = perf_counter()
            try:
                self.session.run_with_iobinding(binding)
            except Exception as error:
                raise UnsupportedError(f"onnxruntime cannot run the model: {_first_line(error)}") from error
            binding.synchronize_outputs()
            return perf_counter() - start

        return once


def _run(session: ort.InferenceSession, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    """All outputs; bfloat16 arrays go in as their bits, the one way onnxruntime takes them from numpy."""
    if any(array.dtype == ml_dtypes.bfloat16 for array in feed.values()):
        values = session.run_with_ort_values(None, {name: value(array) for name, array in feed.items()})
        return [found.numpy() for found in values]
    return list(session.run(None, feed))


def _kept(model: Any) -> Any:
    """The model for later, None where that would keep a large one alive."""
    if isinstance(model, str | Path):
        return model
    try:
        size = len(model) if isinstance(model, bytes) else model.ByteSize()
    except Exception:  # protobuf's class for "too large" differs between its versions
        return None
    return model if size <= _KEPT_BYTES else None


def _spec(arg: Any) -> TensorSpec:
    dtype = _DTYPES.get(arg.type)
    if dtype is None:
        raise BackendError(f"the input '{arg.name}' is a {arg.type}, which graphprune cannot feed")
    shape = tuple(n if isinstance(n, int) and n > 0 else None for n in arg.shape)
    return TensorSpec(arg.name, shape, dtype)


def _label(model: Any) -> str:
    return f"'{model}'" if isinstance(model, str | Path) else "the model"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
