"""The operator table. Importing this package registers every entry."""

from __future__ import annotations

from . import control, conv, elementwise, index, linear, norm, position, recurrent, reduce, shape
from .base import Block, Columns, Cost, Kept, Labeller, Operator, Statistic, kinds, known, lookup

__all__ = [
    "Block",
    "Columns",
    "Cost",
    "Kept",
    "Labeller",
    "Operator",
    "Statistic",
    "control",
    "conv",
    "elementwise",
    "index",
    "kinds",
    "known",
    "linear",
    "lookup",
    "norm",
    "position",
    "recurrent",
    "reduce",
    "shape",
]
