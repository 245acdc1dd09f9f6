"""Random networks as programs: lists of blocks, run by either set of operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import torch
from torch import nn

from .backends import OnnxOps, TorchOps
from .blocks import BLOCKS, make_conv, make_linear

Step = tuple[str, int, int]


def run(o: Any, x: Any, program: Sequence[Step]) -> tuple[Any, ...]:
    """A stem, the blocks, and a classifier; long programs also return an earlier map."""
    past = [o.unary("relu", make_conv(o, x, 8, 3))]
    for name, a, b in program:
        past.append(BLOCKS[name](o, past[-1], past[:-1], a, b))
    pooled = o.reduce("mean", o.unary("tanh", past[-1]), (2, 3), False)
    outputs = [make_linear(o, pooled, 5)]
    if len(program) > 3:
        outputs.append(make_conv(o, past[len(program) // 2], 3))
    return tuple(outputs)


class Program(nn.Module):
    """A program as a module; the weights are made when it is built."""

    def __init__(self, program: Sequence[Step], seed: int, batch: int) -> None:
        super().__init__()
        self.steps = list(program)
        self.weights = nn.ParameterDict()
        self.example = torch.randn(batch, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
        with torch.no_grad():
            run(TorchOps(self.weights, torch.Generator().manual_seed(seed)), self.example, program)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return run(TorchOps(self.weights), x, self.steps)

    def onnx(self) -> onnx.ModelProto:
        """The same network in ONNX's own operators."""
        from .backends import Named

        ops, x = OnnxOps(self.weights), Named("x", self.example)
        with torch.no_grad():
            return ops.model(x, run(ops, x, self.steps))
