"""The pass that removes nodes whose results nobody reads."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphprune.ir.graph import Graph, Node, Value

from .base import Pass, register

# What unknown operators do beside their outputs, and where shape arithmetic is read, only the frontend knows.
_STAY = frozenset({"unknown", "shape_math"})


@register
@dataclass(frozen=True)
class RemoveDead(Pass):
    """Remove nodes whose outputs no node reads and which make no output of the model, and with them the weights that
    only they read. Operators we do not understand stay, as they may do more than make their outputs.
    """

    name: ClassVar[str] = "remove-dead"

    def run(self, graph: Graph) -> Graph:
        """Remove all of them, in one walk from the outputs back."""
        dead = {node.name for node in dead_nodes(graph)}
        if not dead:
            return graph
        work = graph.copy()
        work.nodes = [node for node in work.nodes if node.name not in dead]
        return work


def dead_nodes(graph: Graph) -> list[Node]:
    """Nodes whose results nobody needs, last first."""
    needed: set[Value] = set(graph.outputs)
    dead = []
    for node in reversed(graph.nodes):
        if node.kind in _STAY or not needed.isdisjoint(node.outputs):
            needed.update(node.reads())
        else:
            dead.append(node)
    return dead
