"""Backends that compile a model, run it and time it; each is imported only when it is asked for by name."""

from __future__ import annotations

from .base import Executable, Inputs, InputShapes, LayerChoice, Runtime, TensorSpec, get, names, takes
from .inputs import bind_shapes, random_inputs
from .timing import Comparison, Effort, Environment, Timing, compare, latency_table

__all__ = [
    "Comparison",
    "Effort",
    "Environment",
    "Executable",
    "InputShapes",
    "Inputs",
    "LayerChoice",
    "Runtime",
    "TensorSpec",
    "Timing",
    "bind_shapes",
    "compare",
    "get",
    "latency_table",
    "names",
    "random_inputs",
    "takes",
]
