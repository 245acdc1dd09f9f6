"""The pass that tidies up: the small clean-up passes in turn until none finds anything."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphprune.ir.graph import Graph

from .base import Pass, register
from .fold_constants import FoldConstants
from .remove_dead import RemoveDead
from .remove_identity import RemoveIdentity


@register
@dataclass(frozen=True)
class Cleanup(Pass):
    """Run remove-identity, fold-constants and remove-dead in turn until none of them changes anything, at most
    `rounds` times: removing an identity can make a node's inputs constant, and folding can leave nodes unread.
    """

    name: ClassVar[str] = "cleanup"

    rounds: int = 8

    def run(self, graph: Graph) -> Graph:
        """Clean up."""
        for _ in range(self.rounds):
            before = graph
            for step in (RemoveIdentity(), FoldConstants(), RemoveDead()):
                graph = step.run(graph)
            if graph is before:
                break
        return graph
