"""Random networks as programs: lists of blocks, run by either set of operators."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import onnx
import torch
from torch import nn

from . import blocks_fused, blocks_more, blocks_rare, blocks_tokens  # noqa: F401  (they register their blocks)
from .backends import Named
from .blocks import BLOCKS, make_conv, make_linear
from .fused_operators import OnnxFused, TorchFused

Step = tuple[str, int, int]
#: Blocks that only programs with an unknown operator have.
STRANGE = {"strange": blocks_more.strange}


def run(o: Any, program: Sequence[Step]) -> tuple[Any, ...]:
    """A stem, the blocks, and a classifier; long programs also return an earlier map, blocks may return more."""
    past = [o.unary("relu", make_conv(o, o.inputs["x"], 8, 3))]
    for name, a, b in program:
        past.append((BLOCKS.get(name) or STRANGE[name])(o, past[-1], past[:-1], a, b))
    pooled = o.reduce("mean", o.unary("tanh", past[-1]), (2, 3), False)
    outputs = [make_linear(o, pooled, 5), *o.results]
    if len(program) > 3:
        outputs.append(make_conv(o, past[len(program) // 2], 3))
    return tuple(outputs)


def examples(batch: int, names: Sequence[str], seed: int) -> dict[str, torch.Tensor]:
    """Images `x`; vectors `z` and ids `ids`, where a program takes them."""
    generator = torch.Generator().manual_seed(seed)
    made = {"x": torch.randn(batch, 3, 4, 4, generator=generator)}
    if "z" in names:
        made["z"] = torch.randn(batch, 5, generator=generator)
    if "ids" in names:
        made["ids"] = torch.randint(0, 8, (batch, 3), generator=generator)
    return made


class Program(nn.Module):
    """A program as a module; the weights are made when it is built."""

    def __init__(self, program: Sequence[Step], seed: int, batch: int, extra: Sequence[str] = ()) -> None:
        super().__init__()
        self.steps = list(program)
        self.weights = nn.ParameterDict()
        self.examples = examples(batch, extra, seed)
        self.example = self.examples["x"] if len(self.examples) == 1 else tuple(self.examples.values())
        with torch.no_grad():
            run(TorchFused(self.weights, torch.Generator().manual_seed(seed), self.examples), program)

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        named = dict(zip(self.examples, inputs, strict=True))
        return run(TorchFused(self.weights, inputs=named), self.steps)

    def onnx(self, opset: int = 18, dynamic: bool = False, computed: bool = False) -> onnx.ModelProto:
        """The same network in ONNX's own operators."""
        named = {name: Named(name, tensor) for name, tensor in self.examples.items()}
        ops = OnnxFused(self.weights, named, opset, dynamic, computed)
        with torch.no_grad():
            return ops.whole_model(run(ops, self.steps))
