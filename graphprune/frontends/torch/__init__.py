"""The PyTorch frontend: modules and `.pt2` files in, the caller's own class or a graph module out."""

from __future__ import annotations

from .capture.submodules import placed, shared_outside
from .capture.tracing import capture
from .capture.training_capture import capture_training
from .capture.unused import unused_parameters
from .files import load, save
from .module.emission import Emitted, emit, rehearsed
from .module.training import hold_zero, set_weights, zero_entries
from .run.drawing import is_random
from .run.execute import change_inputs, flatten_outputs, instrument, random_inputs, run, run_all
from .run.inner import run_inner
from .run.spans import as_array, named_inputs, spans
from .write.graph_module import PrunedModule, to_graph_module

__all__ = [
    "unused_parameters",
    "as_array",
    "Emitted",
    "PrunedModule",
    "capture",
    "capture_training",
    "change_inputs",
    "emit",
    "flatten_outputs",
    "hold_zero",
    "instrument",
    "is_random",
    "load",
    "named_inputs",
    "placed",
    "random_inputs",
    "rehearsed",
    "run",
    "run_all",
    "run_inner",
    "save",
    "set_weights",
    "shared_outside",
    "spans",
    "to_graph_module",
    "zero_entries",
]
