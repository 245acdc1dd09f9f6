"""The pass that puts zeros into weights in a pattern that hardware can skip."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphprune import sparsity
from graphprune.ir.graph import Graph

from .base import Pass, register


@register
@dataclass(frozen=True)
class Sparsify(Pass):
    """Set the least important entries of each contracted weight to zero in `pattern`: `2:4` and other N:M along the
    axis that products are summed over, `unstructured:0.5` and more (see `graphprune.sparsity.parse`).

    `include` and `exclude` are globs on names of weights and nodes. Weights that the pattern does not fit stay. `data`
    is a file of calibration data (.npz) for the methods `sparsegpt` (the default where it is given) and `wanda`.
    """

    name: ClassVar[str] = "sparsify"

    pattern: str = "2:4"
    method: str = ""
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    data: str = ""

    def make(self, graph: Graph) -> sparsity.Outcome:
        """The sparse graph with its masks; the same each time."""
        _, method = sparsity.make_method(graph, self.method, self.data or None)
        pattern = sparsity.parse(self.pattern)
        layers, _ = sparsity.choose(graph, pattern, self.include, self.exclude)
        return sparsity.make_sparse(graph, layers, pattern, method)

    def run(self, graph: Graph) -> Graph:
        """Put the zeros in."""
        return self.make(graph).graph
