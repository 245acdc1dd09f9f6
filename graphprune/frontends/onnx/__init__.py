"""The ONNX frontend: files and models in, files and models out."""

from __future__ import annotations

from .chance import is_random, scripted
from .emit import emit
from .inner import tapped
from .instrument import instrument
from .loading import from_model, load
from .origin import custom_operators, original, original_bytes, other_sizes
from .precision import computes_in, sums
from .saving import save, written_bytes
from .spans import named_inputs, spans
from .unrounded import unrounded
from .widen import widened

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
