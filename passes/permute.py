"""The pass that reorders channels so that an N:M pattern keeps more."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphprune import sparsity
from graphprune.coupling import Coupling, couple
from graphprune.errors import InputError
from graphprune.graph import Graph
from graphprune.ops.base import Array
from graphprune.sparsity.permuting import Exchange, Gain, choose_order, find_trades

from .base import Pass, register
from .remove_channels import slice_weights


def reorder(coupling: Coupling, moved: Array) -> Graph:
    """A new graph in which component `moved[i]` lies where `i` lay. It computes the same but for the order of sums."""
    graph = coupling.graph.copy()
    slice_weights(coupling, graph, Exchange(coupling, moved))
    return graph


@register
@dataclass(frozen=True)
class Permute(Pass):
    """Let coupled channels trade places, so that those which N:M would drop together are kept apart: more of the
    magnitude survives `sparsify` with the same pattern. What the model computes stays, but for the order of sums.
    `seconds` bounds the search.
    """

    name: ClassVar[str] = "permute"

    pattern: str = "2:4"
    method: str = "magnitude"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    seconds: float = 60.0
    seed: int = 0

    def run(self, graph: Graph) -> Graph:
        """Reorder."""
        return self.reordered(graph)[0]

    def reordered(self, graph: Graph) -> tuple[Graph, list[Gain]]:
        """The graph, and what each set of channels gained."""
        pattern = sparsity.parse(self.pattern)
        if not isinstance(pattern, sparsity.NM):
            raise InputError(f"the order of channels matters to N:M patterns, not to '{self.pattern}'")
        layers, _ = sparsity.choose(graph, pattern, self.include, self.exclude)
        coupling = couple(graph)
        trades = find_trades(coupling, layers, pattern)
        method = sparsity.METHODS[self.method]()
        moved, gains = choose_order(coupling, trades, pattern, method, seconds=self.seconds, seed=self.seed)
        return (reorder(coupling, moved) if trades else graph), gains
