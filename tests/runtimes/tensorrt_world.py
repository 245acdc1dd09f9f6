"""What the stand-in for TensorRT is to find, to answer and to fail at, and what it was asked."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from graphprune.runtimes.tensorrt import TensorRT
from graphprune.runtimes.tensorrt_options import TensorRTOptions

PLAN = b"a serialised engine"
LAYER = {"Name": "Conv_1", "LayerType": "CaskConvolution", "HasSparseWeights": 1}


@dataclass
class Tensor:
    """An input or output of the network: -1 is an open size."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "FLOAT"


@dataclass
class World:
    """What TensorRT is to find and to answer, and what it was asked."""

    inputs: Sequence[Tensor] = (Tensor("x", (-1, 8)),)
    outputs: Sequence[Tensor] = (Tensor("y", (-1, 4)),)
    compute: Callable[..., list[np.ndarray]] = lambda x: [x[:, :4] + 1]
    layers: Sequence[str] = ("FLOAT",)
    parser_errors: Sequence[dict[str, Any]] = ()
    messages: Sequence[tuple[str, str]] = ()
    steps: int = 2
    plan: bytes | None = PLAN
    loads: bool = True
    context: bool = True
    runs: bool = True
    takes_profile: bool = True
    takes_timings: bool = True
    takes_memory: bool = True
    shape_tensor: bool = False
    insufficient: Sequence[str] = ()
    inspected: str = json.dumps({"Layers": [LAYER]})
    refuses: str = ""
    calls: list[tuple[str, Any]] = field(default_factory=list)
    profile: dict[str, tuple[Any, Any, Any]] = field(default_factory=dict)
    flags: set[str] = field(default_factory=set)
    set_to: dict[str, Any] = field(default_factory=dict)

    def called(self, name: str) -> list[Any]:
        """The arguments of every call of a method."""
        return [arguments for call, arguments in self.calls if call == name]


def runtime(cache: str | Path = "off", shapes: Any = ((3, 8),), progress: Any = None, **options: Any) -> TensorRT:
    """The backend, with memory by cuda-python's stand-in, for a batch of three."""
    return TensorRT("tensorrt", TensorRTOptions(cache=str(cache), memory="cuda-python", **options), shapes, progress)
