"""The ONNX frontend: files and models in, files and models out."""

from __future__ import annotations

from .loading import from_model, load

__all__ = ["from_model", "load"]
