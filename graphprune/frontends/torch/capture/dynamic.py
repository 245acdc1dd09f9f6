"""Which axes follow the batch: found at capture, so that what is written back also takes other batch sizes.

The exported graph holds the example's batch size wherever the model asked for it. Each value has at most one axis that
grows with the batch, and `growth.py` knows for each operator where it goes. Where there are several answers the
likeliest comes first, and one that leads to a contradiction is taken back. What results is a claim: `emission.py` runs
it before it is used.
"""

from __future__ import annotations

from collections.abc import Iterator

from graphprune.ir.graph import Graph, Value

from ..origin import origin_of
from .growth import Batch, Known, Outcome, options

#: How often the walk may visit each node (on average) and how many visits it has beside that, so that it stays short.
_ROUNDS, _SPARE = 4, 400


def mark_batch(graph: Graph) -> None:
    """Fill `Value.dynamic` for all axes that follow the batch; nothing where some operator cannot be followed.

    The batch is axis 0 of the first input and of every other input that has the same size there.
    """
    inputs = [v for v in graph.inputs if v.rank]
    size = inputs[0].sizes[0] if inputs else 0
    if not size:
        return
    known = Known(size, origin_of(graph).tensors.tensors)
    start = {v: Batch(0, 1) for v in inputs if v.sizes[0] == size}
    repeated = {v: Batch(0, 1) for v in _repeated(graph, known)}
    found = _search(graph, known, {**start, **repeated})
    if not found and repeated:
        found = _search(graph, known, start)
    for value, batch in found.items():
        value.dynamic = frozenset({batch.axis})


def _repeated(graph: Graph, known: Known) -> list[Value]:
    """Constants that hold the same for every sample: zeros of the batch's size, say. (Single indices are broadcast.)"""
    if known.size == 1:
        return []
    return [v for v in graph.weights().values() if v.rank > 1 and known.repeats(v, 0)]


def _search(graph: Graph, known: Known, start: dict[Value, Batch]) -> dict[Value, Batch]:
    """Where the batch is in each value that has it; empty where that cannot be told."""
    known.where = dict(start)
    guesses: list[tuple[int, Iterator[Outcome]]] = []
    at, visits = 0, _ROUNDS * len(graph.nodes) + _SPARE
    while at < len(graph.nodes):
        visits -= 1
        left = iter(options(graph.nodes[at], known))
        chosen = next(left, None)
        while chosen is None:
            if not guesses or visits < 0:
                return {}
            at, left = guesses.pop()
            chosen = next(left, None)
        guesses.append((at, left))
        known.choose(graph.nodes[at], chosen)
        at += 1
    return known.where if any(v in known.where for v in graph.outputs) else {}
