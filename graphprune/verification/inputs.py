"""The inputs that both models run on: real samples where there are some, else made up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from graphprune import frontends
from graphprune.calibration.random_inputs import random_inputs
from graphprune.calibration.samples import Data, Samples, read_samples
from graphprune.ir.graph import Graph
from graphprune.ops.base import Array

from .sides import changed

#: Batches of samples that a proof runs on.
BATCHES = 4


def sample_feeds(graph: Graph, data: Data | Samples, limit: int = BATCHES) -> list[Any]:
    """The first batches of some data, of the sizes that the graph is bound to, as its framework takes them.

    Raises InputError where the data do not fit the inputs.
    """
    given = data.batches if isinstance(data, Samples) else data
    batches = read_samples(graph, given, bound=True).batches[:limit]
    return [_feed(graph, batch) for batch in batches]


def _feed(graph: Graph, batch: dict[str, Array]) -> Any:
    if graph.frontend == "onnx":
        return batch
    return changed(graph, frontends.of(graph).random_inputs(graph, 0), {n: _giving(a) for n, a in batch.items()})


def _giving(array: Array) -> Any:
    return lambda _: array


def shapes_of(graph: Graph, data: Data) -> dict[str, tuple[int, ...]]:
    """The sizes of the data, where the graph is free on an axis and bound to another size; else nothing."""
    if graph.frontend != "onnx":
        return {}
    found = read_samples(graph, data).batches[0]
    want = {v.name: (*v.sizes[:1], *found[v.name].shape[1:]) for v in graph.inputs if v.shape is not None}
    return want if any(want[v.name] != v.shape for v in graph.inputs if v.name in want) else {}


def made_up(graph: Graph, seed: int, count: int) -> list[Any]:
    """Noise and ids at the bound sizes; two for each way through branches that small inputs choose."""
    return [random_inputs(graph, seed + at) for at in range(max(count, 2 * len(graph.cases)))]


def by_case(graph: Graph, seed: int, feeds: Sequence[Any]) -> list[list[Any]]:
    """Inputs by the way that they take through branches: outputs may be of other sizes on each."""
    count = max(1, len(graph.cases))
    parts = [[f for at, f in enumerate(feeds) if (seed + at) % count == case] for case in range(count)]
    return [part for part in parts if part]
