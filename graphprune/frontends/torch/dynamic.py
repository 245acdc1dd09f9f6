"""Which axes follow the batch: found at capture, so that what is written back also takes other batch sizes.

The exported graph holds the example's batch size wherever the model asked for it. Each value has at most one axis that grows
with the batch. Operators are asked by running them on shapes alone (the meta device) with a batch three times as large; where
the sizes are written out (reshapes, expansions) the axis is guessed, best guess first, and a guess that leads to sizes that do not
fit is taken back. What results is a claim: `emission.py` runs it before it is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import prod
from typing import Any, Literal, NamedTuple

import torch

from ...graph import Graph, Node, Value
from .arrays import torch_dtype
from .origin import Source, fill, origin_of

aten = torch.ops.aten

#: How much larger the other batch is, and how often a guess may be taken back.
_GROWTH, _PATIENCE = 3, 200


class Batch(NamedTuple):
    """The axis that grows, and how many of its indices belong to one sample where these lie next to each other."""

    axis: int
    inner: int


#: For each output of a node: where the batch is.
Outcome = tuple[Batch | None, ...]


def mark_batch(graph: Graph) -> None:
    """Fill `Value.dynamic` for all axes that follow the batch; nothing where some operator cannot be followed.

    The batch is axis 0 of the first input and of every other input that has the same size there.
    """
    inputs = [v for v in graph.inputs if v.rank]
    size = inputs[0].sizes[0] if inputs else 0
    if not size:
        return
    start = {v: Batch(0, 1) for v in inputs if v.sizes[0] == size}
    repeated = {v: Batch(0, 1) for v in _repeated(graph, size)}
    found = _Search(graph, size, {**start, **repeated}).run()
    if found is None and repeated:
        found = _Search(graph, size, start).run()
    for value, batch in (found or {}).items():
        value.dynamic = frozenset({batch.axis})


def _repeated(graph: Graph, size: int) -> Iterator[Value]:
    """Constants made at capture that hold the same for every sample: zeros of the batch's size, say."""
    known = origin_of(graph).tensors.tensors
    for value in graph.weights().values() if size > 1 else ():
        if value.rank > 1 and value.sizes[0] == size and value.name not in known and uniform(value, 0):
            yield value


def uniform(value: Value, axis: int) -> bool:
    """Whether all slices of a constant along an axis are the same."""
    assert value.weight is not None
    array = value.weight.array()
    return bool((array == array.take([0], axis)).all())


class _Search:
    """A walk over the nodes that goes back to the last guess where sizes contradict each other."""

    def __init__(self, graph: Graph, size: int, start: dict[Value, Batch]) -> None:
        self.size = size
        self.constants = origin_of(graph).tensors.tensors
        self._nodes = graph.nodes
        self._outputs = graph.outputs
        self._start = start
        self._where: dict[Value, Batch] = dict(start)

    def run(self) -> dict[Value, Batch] | None:
        """Where the batch is in each value that has it; None where that cannot be told."""
        guesses: list[tuple[int, Iterator[Outcome]]] = []
        at = failures = 0
        while at < len(self._nodes):
            options = iter(self._options(self._nodes[at]))
            chosen = next(options, None)
            if chosen is None:
                failures += 1
            while chosen is None:
                if not guesses or failures > _PATIENCE:
                    return None
                at, options = guesses.pop()
                chosen = next(options, None)
            guesses.append((at, options))
            self._choose(self._nodes[at], chosen)
            at += 1
        return self._where if any(v in self._where for v in self._outputs) else None

    def _choose(self, node: Node, outcome: Outcome) -> None:
        for value, batch in zip(node.outputs, outcome, strict=True):
            self._where.pop(value, None)
            if batch is not None:
                self._where[value] = batch

    def batch(self, value: Value | None) -> Batch | None:
        """Where the batch is in a value."""
        return None if value is None else self._where.get(value)

    def claim(self, value: Value | None, batch: Batch) -> bool:
        """Let a constant made at capture grow, where all samples have the same of it; whether it can."""
        if value is None or value.weight is None or value.name in self.constants or value in self._where:
            return False
        if value.rank <= batch.axis or value.sizes[batch.axis] != self.size or not uniform(value, batch.axis):
            return False
        self._where[value] = batch
        return True

    def _options(self, node: Node) -> Sequence[Outcome]:
        source = node.source
        assert isinstance(source, Source)
        if source.target in _GUESSES:
            return _GUESSES[source.target](node, self)
        if not any(v in self._where for v in node.inputs if v is not None):
            return [(None,) * len(node.outputs)]
        rule = _RULES.get(node.kind, _ask)
        outcome = rule(node, self)
        return [] if outcome is None else [outcome]


def _expand(node: Node, search: _Search) -> list[Outcome]:
    """An axis made by broadcasting to the batch's size may be the batch; axis 0 most likely, any other hardly."""
    x, out = node.inputs[0], node.outputs[0]
    assert x is not None
    missing, batch = out.rank - x.rank, search.batch(x)
    if batch is not None:
        axis = batch.axis + missing
        return [(Batch(axis, batch.inner),)] if out.sizes[axis] == x.sizes[batch.axis] else []
    made = [a for a in range(out.rank) if out.sizes[a] == search.size and (a < missing or x.sizes[a - missing] == 1)]
    options: list[Outcome] = [(Batch(axis, 1),) for axis in made]
    options.insert(1 if 0 in made else 0, (None,))
    return options


def _reshape(node: Node, search: _Search) -> list[Outcome]:
    """The batch keeps its place in memory order, so it is (part of) the output axis that spans this place."""
    x, out = node.inputs[0], node.outputs[0]
    assert x is not None
    batch = search.batch(x)
    if batch is None:
        return [(None,)]
    step = prod(x.sizes[batch.axis + 1 :]) * batch.inner
    fitting = []
    for axis, size in enumerate(out.sizes):
        stride = prod(out.sizes[axis + 1 :])
        if stride and step % stride == 0 and (stride * size) % (step * search.size) == 0 and size:
            fitting.append(Batch(axis, step // stride))
    # With a batch of one, axes of size one and both neighbors fit.
    alone = [b for b in fitting if out.sizes[b.axis] == search.size]
    shared = [b for b in fitting if out.sizes[b.axis] != search.size]
    return [(b,) for b in [*sorted(alone, key=lambda b: (b.axis != batch.axis, b.axis)), *reversed(shared)]]


_GUESSES: dict[Any, Callable[[Node, _Search], list[Outcome]]] = {
    aten.reshape.default: _reshape,
    aten.expand.default: _expand,
    aten.repeat.default: _expand,
}


def _ask(node: Node, search: _Search) -> Outcome | None:
    """Run the operator on shapes alone, with a larger batch; None where it does not take it or loses it."""
    source = node.source
    try:
        inputs = [None if v is None else _meta(v, search.batch(v)) for v in node.inputs]
        args, kwargs = (_without_device(fill(given, inputs)) for given in (source.args, source.kwargs))
        result = source.target(*args, **kwargs)
    except Exception:
        return None
    results = result if source.several else [result]
    found = [_grown(v, r, node, search) for v, r in zip(node.outputs, results, strict=True)]
    return tuple(found) if any(found) and False not in found else None  # type: ignore[arg-type]


def _meta(value: Value, batch: Batch | None) -> torch.Tensor:
    shape = [n * _GROWTH if batch is not None and axis == batch.axis else n for axis, n in enumerate(value.sizes)]
    return torch.empty(shape, dtype=torch_dtype(value.dtype), device="meta")


def _without_device(given: Any) -> Any:
    if isinstance(given, torch.device):
        return torch.device("meta")
    if isinstance(given, (tuple, list)):
        return type(given)(_without_device(g) for g in given)
    if isinstance(given, dict):
        return {k: _without_device(g) for k, g in given.items()}
    return given


def _grown(value: Value, result: torch.Tensor, node: Node, search: _Search) -> Batch | None | Literal[False]:
    """Where the batch is in a result; False where its shape tells of something else."""
    if result.ndim != value.rank:
        return False
    grown = [a for a, (n, m) in enumerate(zip(value.sizes, result.shape, strict=True)) if n != m]
    if not grown:
        return None
    axis, size = grown[0], value.sizes[grown[0]]
    if len(grown) > 1 or result.shape[axis] != size * _GROWTH:
        return False
    for source in node.inputs:
        batch = search.batch(source)
        if source is not None and batch is not None and source.sizes[batch.axis] == size:
            return Batch(axis, batch.inner)
    return Batch(axis, max(1, size // search.size))


def _elementwise(node: Node, search: _Search) -> Outcome | None:
    """Operands are aligned at the last axis; beside the batch there may be a single index, which is broadcast."""
    out = node.outputs[0]
    places: dict[int, Batch] = {}
    for value in node.inputs:
        batch = search.batch(value)
        if value is not None and batch is not None:
            axis = batch.axis + out.rank - value.rank
            places.setdefault(axis, Batch(axis, batch.inner))
    (axis, *more) = places
    if more:
        return None
    for value in node.inputs:
        own = axis - out.rank + value.rank if value is not None else -1
        if value is None or own < 0:
            continue
        if value.sizes[own] != (1 if search.batch(value) is None else out.sizes[axis]):
            return None
    return (places[axis],) * len(node.outputs)


def _first_axis(node: Node, search: _Search) -> Outcome | None:
    """Convolutions, pools and norms over channels hand axis 0 on."""
    batch = search.batch(node.inputs[0])
    if batch is None or batch.axis or any(search.batch(v) is not None for v in node.inputs[1:]):
        return _ask(node, search)
    return (batch,) * len(node.outputs)


def _layer_norm(node: Node, search: _Search) -> Outcome | None:
    batch = search.batch(node.inputs[0])
    return None if batch is None or batch.axis in node.attrs["axes"] else (batch,) * len(node.outputs)


def _recurrent(node: Node, search: _Search) -> Outcome | None:
    """States `[layers, batch, hidden]` that were made as constants grow along."""
    x, batch = node.inputs[0], search.batch(node.inputs[0])
    if x is None or x.rank != 3 or batch != Batch(0 if node.attrs["batch_first"] else 1, 1):
        return None
    for name, state in zip(node.attrs["order"], node.inputs, strict=False):
        if name in ("h0", "c0") and search.batch(state) != Batch(1, 1) and not search.claim(state, Batch(1, 1)):
            return None
    return (batch, *[Batch(1, 1)] * (len(node.outputs) - 1))


#: What is not listed is asked.
_RULES: dict[str, Callable[[Node, _Search], Outcome | None]] = {
    "elementwise": _elementwise,
    "conv": _first_axis,
    "spatial": _first_axis,
    "batch_norm": _first_axis,
    "group_norm": _first_axis,
    "instance_norm": _first_axis,
    "layer_norm": _layer_norm,
    "recurrent": _recurrent,
}
