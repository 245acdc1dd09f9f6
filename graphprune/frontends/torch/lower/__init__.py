"""From calls of ATen to canonical kinds. Importing this package fills the table of lowerings."""

from . import contract, elementwise, norm, quantised, random, reduce, shape

__all__ = ["contract", "elementwise", "norm", "quantised", "random", "reduce", "shape"]
