"""Out of the compiler: what a folder will hold. An ordinary checkpoint where a configuration says the same."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from torch import nn

from graphprune.errors import InputError
from graphprune.ir.graph import Graph

from ..torch.run.execute import instrument
from ..treatment import Treatment
from .fit import Fitted, fit


@dataclass(frozen=True)
class EmittedCheckpoint:
    """A rewritten graph on its way into a folder.

    `module` runs it, reading weights as it goes. `form` is "checkpoint" where `from_pretrained` will build it from
    `fitted.config`, and "tensors" where no configuration says what is left (`reason` tells why) and the folder gets the
    weights alone.
    """

    module: nn.Module
    form: Literal["checkpoint", "tensors"]
    reason: str
    graph: Graph = field(repr=False)
    fitted: Fitted | None = field(default=None, repr=False)


def emit(graph: Graph, *, trial: Callable[[nn.Module], str] | None = None) -> EmittedCheckpoint:
    """See `EmittedCheckpoint`. There is nothing to choose from, so that `trial` is not asked."""
    module = instrument(graph, Treatment())
    try:
        fitted = fit(graph)
    except InputError as error:
        return EmittedCheckpoint(module, "tensors", str(error), graph)
    return EmittedCheckpoint(module, "checkpoint", fitted.describe(), graph, fitted)
