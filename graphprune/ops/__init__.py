"""The operator table. Importing this package registers every entry."""

from __future__ import annotations

from . import control, conv, elementwise, fused, index, joining, linear, norm, position, recurrent, reduce, shape
from .base import Block, Columns, Contraction, Cost, Kept, Labeller, Operator, Statistic, kinds, known, lookup
from .fused import inner, reader

__all__ = [
    "Block",
    "Columns",
    "Contraction",
    "Cost",
    "Kept",
    "Labeller",
    "Operator",
    "Statistic",
    "control",
    "conv",
    "elementwise",
    "fused",
    "index",
    "inner",
    "joining",
    "kinds",
    "known",
    "linear",
    "lookup",
    "norm",
    "position",
    "reader",
    "recurrent",
    "reduce",
    "shape",
]
