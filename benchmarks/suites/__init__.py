"""Collections of models that `benchmarks.coverage` goes through: one module each, found by name.

A suite `NAME` is the module `benchmarks.suites.NAME_models` with

- `names() -> list[str]`: the models, smallest first; cheap, nothing is built;
- `build(name) -> (module, example_inputs)`: the model in evaluation mode with random weights (see
  `benchmarks.random_weights`: `vary`, `awaken`), and inputs as `graphprune.capture` takes them: a tensor, a tuple of
  positional arguments or a dict of keyword arguments. Equal for every call (seed it).

A suite may also have `build_default(name)`, which gives the module as its library makes it by default, and
`main_result(output)`, what its output is about.

A suite of ONNX files has, in place of `build`, `write(name, path)`, which makes the file; it has no PyTorch route.

It may import its library only inside these functions.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, Protocol

from torch import nn


class Suite(Protocol):
    """What a suite's module offers."""

    def names(self) -> list[str]:
        """The models, smallest first."""

    def build(self, name: str) -> tuple[nn.Module, Any]:
        """A model and example inputs for it."""


class Files(Protocol):
    """What the module of a suite of files offers."""

    def names(self) -> list[str]:
        """The models, smallest first."""

    def write(self, name: str, path: Path) -> None:
        """Make the file."""


class Defaults(Protocol):
    """What the module of a suite offers that has default configurations."""

    def build_default(self, name: str) -> tuple[nn.Module, Any]:
        """A model as a user holds it, and example inputs for it."""

    def main_result(self, result: Any) -> Any:
        """What the result of such a model is about."""


def defaults(name: str) -> Defaults:
    """A suite with default configurations by name."""
    return suite(name)  # type: ignore[return-value]


def files(name: str) -> Files:
    """A suite of files by name."""
    return suite(name)  # type: ignore[return-value]


def suites() -> list[str]:
    """The names of all suites."""
    return sorted(path.stem.removesuffix("_models") for path in Path(__file__).parent.glob("*_models.py"))


def suite(name: str) -> Suite:
    """A suite by name."""
    if name not in suites():
        raise SystemExit(f"there is no suite '{name}'; there are: {', '.join(suites())}")
    found: Suite = importlib.import_module(f"{__name__}.{name}_models")  # type: ignore[assignment]
    return found
