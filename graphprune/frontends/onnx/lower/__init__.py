"""From nodes of ONNX to canonical kinds. Importing this package fills the table of lowerings."""

from . import attention, axes, experts, fused, math, norm, quantized, shape

__all__ = ["attention", "axes", "experts", "fused", "math", "norm", "quantized", "shape"]
