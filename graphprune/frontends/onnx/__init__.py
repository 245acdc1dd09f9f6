"""The ONNX frontend: files and models in, files and models out."""

from __future__ import annotations

from .lower.loading import from_model, load
from .origin import custom_operators, original, original_bytes, other_sizes
from .run.chance import is_random, scripted
from .run.inner import tapped
from .run.instrument import instrument
from .run.precision import computes_in, sums
from .run.spans import named_inputs, spans
from .run.unrounded import unrounded
from .run.widen import widened
from .write.emit import emit
from .write.saving import save, written_bytes

__all__ = [
    "computes_in",
    "custom_operators",
    "emit",
    "from_model",
    "instrument",
    "is_random",
    "load",
    "named_inputs",
    "original",
    "original_bytes",
    "other_sizes",
    "save",
    "scripted",
    "spans",
    "sums",
    "tapped",
    "unrounded",
    "widened",
    "written_bytes",
]
