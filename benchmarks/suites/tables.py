"""What suites of a table share: each row is a model's class, its settings and its inputs."""

from __future__ import annotations

from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.random_weights import awaken, vary


class Source:
    """Random inputs from one seed."""

    def __init__(self, seed: int) -> None:
        self._generator = torch.Generator().manual_seed(seed)

    def noise(self, *shape: int) -> Tensor:
        """Standard normal."""
        return torch.randn(shape, generator=self._generator)

    def ids(self, count: int, *shape: int) -> Tensor:
        """Whole numbers below `count`."""
        return torch.randint(count, shape, generator=self._generator)


#: Makes example inputs: a tensor, a tuple of positional or a dict of keyword arguments.
Inputs = Callable[[Source], Any]
#: The path of a class or function in its library, its settings, and its inputs.
Row = tuple[str, dict[str, Any], Inputs]


def build(library: ModuleType, row: Row) -> tuple[nn.Module, Any]:
    """One model in evaluation mode with random weights that let a proof see something, and inputs; always the same."""
    path, settings, inputs = row
    make: Any = library
    for part in path.split("."):
        make = getattr(make, part)
    return ready(lambda: make(**settings), inputs)


def ready(make: Callable[[], nn.Module], inputs: Inputs) -> tuple[nn.Module, Any]:
    """As `build`, from a function."""
    torch.manual_seed(0)
    model = make().eval()
    vary(model)
    awaken(model, inputs(Source(1)), inputs(Source(2)))
    return model, inputs(Source(1))
