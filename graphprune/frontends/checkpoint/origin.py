"""What the checkpoint frontend remembers beside what the torch frontend does: the folder, its configuration."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from graphprune.errors import GraphPruneError
from graphprune.ir.graph import Graph

from ..torch.origin import Origin
from .conversion import Converted
from .shards import Stored


@dataclass
class CheckpointOrigin(Origin):
    """`folder` is None for a graph made from a configuration alone; `stored` are the folder's tensors by the class's
    names, and `transforms` how transformers made them out of those in the files, where that is more than reading.
    """

    folder: Path | None = None
    config: Any = None
    stored: dict[str, Stored | Converted] = field(default_factory=dict)
    transforms: list[Any] = field(default_factory=list)


def checkpoint_of(graph: Graph) -> CheckpointOrigin:
    """The origin of a graph that this frontend made."""
    if not isinstance(graph.origin, CheckpointOrigin):
        raise GraphPruneError(f"the graph '{graph.name}' was not loaded from a transformers folder")
    return graph.origin
