"""Scores by data of the model as it is, for what is decided before any weight becomes sparse: the order of channels."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from graphprune.calibration.samples import Samples
from graphprune.ir.graph import Graph
from graphprune.ops.base import Array

from .calibrated import layer_depths
from .layers import Layer
from .methods import Scored, magnitude
from .wanda import Norms, Wanda, weigh


def weighed(graph: Graph, layers: Sequence[Layer], samples: Samples, say: Callable[[str], None]) -> Scored:
    """`|weight| * norm of its data`, all layers at once; by magnitude where data cannot be seen or are not finite."""
    squares = _Before(samples).squares(graph, layers, say)

    def scores(layer: Layer, array: Array) -> Array:
        known = squares.get(layer.value.name)
        return magnitude(layer, array) if known is None else weigh(layer, array, known)

    return Scored(scores)


class _Before(Wanda):
    """Looks at all weights as at those that are read in several places: in the model as it was."""

    def squares(self, graph: Graph, layers: Sequence[Layer], say: Callable[[str], None]) -> Mapping[str, Array]:
        """The squared norms of each layer's columns, by the weight's name."""
        depth = layer_depths(graph, layers)
        met = {layer.value.name: self._met(layer, depth) for layer in layers}
        self._measure_shared(graph, {name: found for name, found in met.items() if found}, depth, say)
        return {name: s.squares for name, s in self._statistics.items() if isinstance(s, Norms) and s.finite}
