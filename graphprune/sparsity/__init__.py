"""Weight sparsity: which weights are contracted (`layers`), where zeros may lie (`patterns`), what is judged how
(`methods`, with data `calibrated`), and what came out (`masks`).
"""

from __future__ import annotations

from .calibrated import Calibrated, Told
from .choosing import NAMES, make_method
from .compact import Compact, load_compact, restore_compact, save_compact
from .layers import Layer, Left, Read, find_layers
from .making import Made, Outcome, choose, make_sparse
from .masks import Masks
from .methods import METHODS, Method, Scored
from .patterns import FORMS, NM, Pattern, parse
from .weighed import weighed

__all__ = [
    "FORMS",
    "METHODS",
    "NAMES",
    "NM",
    "Compact",
    "Calibrated",
    "Layer",
    "Left",
    "Made",
    "Masks",
    "Method",
    "Outcome",
    "Pattern",
    "Read",
    "Scored",
    "Told",
    "choose",
    "find_layers",
    "load_compact",
    "make_method",
    "make_sparse",
    "parse",
    "restore_compact",
    "save_compact",
    "weighed",
]
