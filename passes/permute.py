"""The pass that reorders channels so that an N:M pattern keeps more."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from graphprune import sparsity
from graphprune.calibration.samples import Samples, read_samples
from graphprune.coupling import Coupling, couple
from graphprune.errors import InputError
from graphprune.ir.graph import Graph
from graphprune.ops.base import Array
from graphprune.sparsity.permuting import SECONDS, Exchange, Gain, choose_order, find_trades

from .base import Pass, register
from .remove_channels import slice_weights


@dataclass(frozen=True, eq=False)
class Reordered:
    """A graph in which component `moved[i]` of the coupling lies where `i` lay, and what that gained."""

    graph: Graph
    coupling: Coupling
    moved: Array
    gains: list[Gain]

    def original(self, masks: Mapping[str, Array]) -> dict[str, Array]:
        """Masks of the reordered weights, as they lie on the weights of the original."""
        back = Exchange(self.coupling, np.argsort(self.moved))
        uses = {use.value.name: use for use in self.coupling.uses}
        return {name: back.slice_weight(uses[name], masks[name]) for name in masks}


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
    `seconds` bounds the search. With calibration data (`data`, an .npz file) entries count as much as their magnitude
    times the norm of what they are multiplied with.
    """

    name: ClassVar[str] = "permute"

    pattern: str = "2:4"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    seconds: float = SECONDS
    seed: int = 0
    data: str = ""

    def __post_init__(self) -> None:
        if not 0 < self.seconds < np.inf:
            raise InputError(f"a search for a better order needs some seconds, not {self.seconds:g}")

    def run(self, graph: Graph) -> Graph:
        """Reorder."""
        return self.reordered(graph, samples=read_samples(graph, self.data) if self.data else None).graph

    def reordered(
        self, graph: Graph, progress: Callable[[str], None] = lambda _: None, samples: Samples | None = None
    ) -> Reordered:
        """The graph in its new order, and what each set of channels gained; judged by `samples`, where there are."""
        pattern = sparsity.parse(self.pattern)
        if not isinstance(pattern, sparsity.NM):
            raise InputError(f"the order of channels matters to N:M patterns, not to '{self.pattern}'")
        layers, _ = sparsity.choose(graph, pattern, self.include, self.exclude)
        coupling = couple(graph)
        trades = find_trades(coupling, layers, pattern)
        if not trades:
            return Reordered(graph, coupling, np.arange(coupling.count), [])
        method = sparsity.METHODS["magnitude"]()
        if samples is not None:
            method = sparsity.weighed(graph, layers, samples, progress)
        moved, gains = choose_order(
            coupling, trades, pattern, method, seconds=self.seconds, seed=self.seed, progress=progress
        )
        return Reordered(reorder(coupling, moved), coupling, moved, gains)
