"""Worked examples of the operator table: a small network and the coupling it must have, as text."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from graphprune.ir.graph import Graph
from tests.helpers import graph_of


@dataclass(frozen=True)
class Example:
    """`couples` is what `str(couple(graph, grouped=grouped))` gives, line by line;

    a line that begins with + goes on.
    """

    build: Callable[[], Any]
    couples: str
    grouped: str
    ratio: float

    @property
    def name(self) -> str:
        return self.build.__name__

    @cache  # noqa: B019  (examples live as long as the tests do)
    def graph(self) -> Graph:
        """The network as a graph, the same each time."""
        torch.manual_seed(0)
        built = self.build()
        if not isinstance(built, tuple):
            return graph_of(built)
        module, inputs = built
        return graph_of(stirred(module), inputs)


EXAMPLES: list[Example] = []


def example(couples: str = "", *, grouped: str = "within", ratio: float = 0.5) -> Callable[[Callable[[], Any]], Any]:
    """Register a function that builds a module with its inputs, or an `onnx.ModelProto`."""

    def register(build: Callable[[], Any]) -> Callable[[], Any]:
        text = "\n".join(line.strip() for line in couples.strip().splitlines()).replace("\n+ ", " ")
        EXAMPLES.append(Example(build, text, grouped, ratio))
        return build

    return register


class Net(nn.Module):
    """Layers by name and a function that calls them."""

    def __init__(self, call: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self._call = call
        for name, part in parts.items():
            if isinstance(part, torch.Tensor) and not isinstance(part, nn.Parameter):
                self.register_buffer(name, part)
            else:
                setattr(self, name, part)

    def forward(self, *args: Any) -> Any:
        return self._call(self, *args)


def stirred(module: nn.Module) -> nn.Module:
    """Give vectors and statistics values that differ from index to index, so that a wrong slice shows."""
    with torch.no_grad():
        for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
            if tensor.ndim == 1 and tensor.is_floating_point():
                positive = "weight" in name or "var" in name
                tensor.copy_(torch.rand_like(tensor) + 0.5 if positive else torch.randn_like(tensor) * 0.5)
    return module


def parameter(*shape: int) -> nn.Parameter:
    return nn.Parameter(torch.randn(*shape))


def image(channels: int = 3, size: int = 6) -> torch.Tensor:
    return torch.randn(2, channels, size, size)


def conv(inside: int, outside: int, kernel: int = 1, **options: Any) -> nn.Conv2d:
    return nn.Conv2d(inside, outside, kernel, padding=kernel // 2, **options)
