"""ONNX models on onnxruntime: CPU by default, CUDA and TensorRT through their execution providers."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ml_dtypes
import numpy as np

from graphprune.errors import BackendError, InputError, UnsupportedError

from .base import Inputs, TensorSpec
from .inputs import ordered
from .memory import peak_growth
from .modelfile import as_file, loadable

if TYPE_CHECKING:
    import onnxruntime as ort

_INSTALL = {
    "CPUExecutionProvider": "pip install onnxruntime",
    "CUDAExecutionProvider": "pip install onnxruntime-gpu (and an NVIDIA GPU with its driver)",
    "TensorrtExecutionProvider": "pip install onnxruntime-gpu tensorrt (and an NVIDIA GPU with its driver)",
}
_DTYPES: dict[str, np.dtype[Any]] = {
    "tensor(float)": np.dtype(np.float32),
    "tensor(double)": np.dtype(np.float64),
    "tensor(float16)": np.dtype(np.float16),
    "tensor(bfloat16)": np.dtype(ml_dtypes.bfloat16),
    "tensor(bool)": np.dtype(np.bool_),
    **{f"tensor({kind}{bits})": np.dtype(f"{kind}{bits}") for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}
_ONNX_BFLOAT16 = 16  # TensorProto.BFLOAT16, for inputs numpy has no type of its own for
_LOG_FATAL = 4  # errors reach the user as exceptions, once


class OnnxRuntime:
    """Runs a model given as a path, as bytes, or as an object with `SerializeToString` (an `onnx.ModelProto`)."""

    def __init__(
        self, name: str = "onnxruntime", provider: str = "CPUExecutionProvider", *, optimize: bool = True
    ) -> None:
        self.name = name
        self.provider = provider
        self.optimize = optimize

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
        return _INSTALL.get(self.provider, f"it needs an onnxruntime built with {self.provider}")

    def compile(self, model: Any, *, threads: int | None = None, folder: Path | None = None) -> OnnxExecutable:
        """Build a session; `BackendError` quotes onnxruntime where it refuses.

        `folder` holds the external data of a model that is not given as a path.
        """
        import onnxruntime as ort

        with loadable(model) as source:
            try:
                session = ort.InferenceSession(source, self._options(threads, folder), self._providers())
            except Exception as error:
                kind = UnsupportedError if type(error).__name__ == "NotImplemented" else BackendError
                raise kind(f"onnxruntime cannot load {_label(model)}: {_first_line(error)}") from error
        return OnnxExecutable(session)

    def peak_memory(self, model: Any, inputs: Inputs, *, threads: int | None = None) -> int | None:
        """Peak growth of a fresh process that loads and runs the model once; measured on Linux and CPU only."""
        if self.provider != "CPUExecutionProvider":
            return None
        with as_file(model) as path:
            named = inputs if isinstance(inputs, dict) else self.compile(path).named(inputs)
            return peak_growth(path, dict(named), threads)

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
        if folder is not None:
            options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
        return options

    def _providers(self) -> list[str]:
        return list(dict.fromkeys([self.provider, "CPUExecutionProvider"]))


class OnnxExecutable:
    """One onnxruntime session."""

    def __init__(self, session: ort.InferenceSession) -> None:
        self.session = session
        self.inputs = tuple(_spec(arg) for arg in session.get_inputs())
        self.outputs = tuple(arg.name for arg in session.get_outputs())

    def named(self, inputs: Inputs) -> dict[str, np.ndarray]:
        """`inputs` by input name."""
        return ordered(self.inputs, inputs)

    def run(self, inputs: Inputs) -> list[np.ndarray]:
        """All outputs in order."""
        feed = self.named(inputs)
        try:
            if any(array.dtype == ml_dtypes.bfloat16 for array in feed.values()):
                return self._run_bfloat16(feed)
            return list(self.session.run(None, feed))
        except Exception as error:
            raise UnsupportedError(f"onnxruntime cannot run the model: {_first_line(error)}") from error

    def _run_bfloat16(self, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
        """Feed bfloat16 arrays as their bits, the one way onnxruntime takes them from numpy."""
        import onnxruntime as ort

        def wrap(array: np.ndarray) -> ort.OrtValue:
            if array.dtype != ml_dtypes.bfloat16:
                return ort.OrtValue.ortvalue_from_numpy(array)
            return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(array.view(np.uint16), _ONNX_BFLOAT16)

        values = self.session.run_with_ort_values(None, {name: wrap(array) for name, array in feed.items()})
        return [value.numpy() for value in values]


def _spec(arg: Any) -> TensorSpec:
    dtype = _DTYPES.get(arg.type)
    if dtype is None:
        raise InputError(f"the input '{arg.name}' is a {arg.type}, which graphprune cannot feed")
    shape = tuple(n if isinstance(n, int) and n > 0 else None for n in arg.shape)
    return TensorSpec(arg.name, shape, dtype)


def _label(model: Any) -> str:
    return f"'{model}'" if isinstance(model, str | Path) else "the model"


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
