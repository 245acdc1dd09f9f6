"""ONNX models on the onnx package's own reference evaluator: slow, in numpy, and true to the specification.

For what onnxruntime refuses although the operator allows it. Operators of other domains it does not know.
"""

from __future__ import annotations

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np

from graphprune.errors import BackendError

from .base import Inputs, TensorSpec
from .inputs import ordered


class OnnxReference:
    """Runs a model given as a path, as bytes, or as an `onnx.ModelProto`."""

    def __init__(self, name: str = "reference") -> None:
        self.name = name

    @property
    def version(self) -> str:
        """Version of the installed onnx package."""
        return version("onnx")

    def is_available(self) -> bool:
        """Whether onnx is installed."""
        return find_spec("onnx") is not None

    def missing(self) -> str:
        """The package to install."""
        return "pip install onnx"

    def compile(self, model: Any, *, threads: int | None = None) -> ReferenceExecutable:
        """Look up an implementation for every operator; `BackendError` names one that there is none for."""
        import onnx
        from onnx.reference import ReferenceEvaluator

        try:
            proto = onnx.load(model) if isinstance(model, str | Path) else model
            proto = onnx.ModelProto.FromString(proto) if isinstance(proto, bytes) else proto
            return ReferenceExecutable(ReferenceEvaluator(proto), tuple(map(_spec, proto.graph.input)))
        except Exception as error:
            raise BackendError(f"onnx's reference evaluator cannot load the model: {_short(error)}") from error

    def peak_memory(self, model: Any, inputs: Inputs, *, threads: int | None = None) -> int | None:
        """Not measured: it says nothing about any deployment."""
        return None


class ReferenceExecutable:
    """A model with an implementation for each of its operators."""

    def __init__(self, evaluator: Any, inputs: tuple[TensorSpec, ...]) -> None:
        self.evaluator = evaluator
        self.inputs = inputs

    def run(self, inputs: Inputs) -> list[np.ndarray]:
        """All outputs in order."""
        feed = ordered(self.inputs, inputs)
        try:
            return [np.asarray(found) for found in self.evaluator.run(None, feed)]
        except Exception as error:
            raise BackendError(f"onnx's reference evaluator cannot run the model: {_short(error)}") from error


def _spec(value: Any) -> TensorSpec:
    from onnx.helper import tensor_dtype_to_np_dtype

    tensor = value.type.tensor_type
    shape = tuple(dim.dim_value if dim.dim_value > 0 else None for dim in tensor.shape.dim)
    return TensorSpec(value.name, shape, tensor_dtype_to_np_dtype(tensor.elem_type))


def _short(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}" + (f": {lines[0][:300]}" if lines else "")
