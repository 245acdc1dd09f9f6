"""A folder's model as any user of transformers runs it, for timing: whole in memory, without our graph."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import nn

from graphprune.errors import InputError
from graphprune.ir.graph import Graph

from ..torch.arrays import to_numpy
from ..torch.capture.refusals import first_line
from ..torch.run.execute import example_inputs
from ..torch.run.modes import quiet
from .origin import checkpoint_of
from .skeleton import floating_dtype


class Called(nn.Module):
    """A model with the arguments that are no tensors (`use_cache=False`) filled in."""

    def __init__(self, model: nn.Module, fixed: dict[str, Any]) -> None:
        super().__init__()
        self.model = model
        self.fixed = fixed

    def forward(self, **inputs: torch.Tensor) -> Any:
        """Run on tensors alone."""
        return self.model(**inputs, **self.fixed)


def pretrained(graph: Graph) -> tuple[nn.Module, dict[str, np.ndarray]]:
    """What `from_pretrained` makes of the folder that a graph was loaded from, and example inputs.

    Raises InputError where it fails.
    """
    origin = checkpoint_of(graph)
    if origin.folder is None or origin.module is None:
        raise InputError(f"'{graph.name}' was made from a configuration: there are no weights to run it with")
    cls: Any = type(origin.module)
    try:
        with quiet():
            dtype = floating_dtype(origin.module)
            model = cls.from_pretrained(origin.folder, dtype=dtype, local_files_only=True, use_safetensors=True)
    except Exception as error:
        raise InputError(f"'{origin.folder}': {cls.__name__}.from_pretrained fails: {first_line(error)}") from error
    given = example_inputs(graph)
    arrays = {name: to_numpy(leaf) for name, leaf in given.items() if isinstance(leaf, torch.Tensor)}
    fixed = {name: leaf for name, leaf in given.items() if name not in arrays}
    return Called(model, fixed).eval(), arrays
