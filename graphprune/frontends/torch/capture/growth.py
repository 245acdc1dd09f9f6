"""Where the batch goes in one operator: the axis of each output that grows with the batch, given those of the inputs.

Most operators are asked by running them on shapes alone (the meta device) with a batch three times as large. Where
sizes are written out (reshapes, expansions) there may be several answers.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any, Literal, NamedTuple

import torch

from graphprune.ir.graph import Node, Value

from ..arrays import torch_dtype
from ..origin import Source, fill

aten = torch.ops.aten

_GROWTH = 3


class Batch(NamedTuple):
    """The axis that grows, and how many of its indices, next to each other, belong to one sample."""

    axis: int
    inner: int


#: For each output of a node: where the batch is.
Outcome = tuple[Batch | None, ...]


@dataclass
class Known:
    """The size of the batch and where it is in each value so far; `named` are the module's own tensors."""

    size: int
    named: Mapping[str, torch.Tensor]
    where: dict[Value, Batch] = field(default_factory=dict)

    def batch(self, value: Value | None) -> Batch | None:
        """Where the batch is in a value."""
        return None if value is None else self.where.get(value)

    def choose(self, node: Node, outcome: Outcome) -> None:
        """Say where the batch is in a node's outputs."""
        for value, batch in zip(node.outputs, outcome, strict=True):
            self.where.pop(value, None)
            if batch is not None:
                self.where[value] = batch

    def claim(self, value: Value | None, batch: Batch) -> bool:
        """Let a constant made at capture grow, where all samples have the same of it; whether it can."""
        if value is None or value in self.where or not self.repeats(value, batch.axis):
            return False
        self.where[value] = batch
        return True

    def repeats(self, value: Value, axis: int) -> bool:
        """Whether a value was made at capture, of the batch's size along an axis and the same for every sample."""
        if value.weight is None or value.name in self.named or value.rank <= axis or value.sizes[axis] != self.size:
            return False
        array = value.weight.array()
        return bool((array == array.take([0], axis)).all())


def options(node: Node, known: Known) -> Sequence[Outcome]:
    """What may become of the batch in a node, likeliest first; nothing where the sizes contradict each other."""
    source = node.source
    assert isinstance(source, Source)
    if node.kind == "noise":
        return _noise(node, known)
    if source.target in _GUESSES:
        return _GUESSES[source.target](node, known)
    if not any(v in known.where for v in node.inputs if v is not None):
        return [(None,) * len(node.outputs)]
    outcome = _RULES.get(node.kind, _ask)(node, known)
    return [] if outcome is None else [outcome]


def _expand(node: Node, known: Known) -> list[Outcome]:
    """An axis made by broadcasting to the batch's size may be the batch; axis 0 most likely, any other hardly."""
    x, out = node.inputs[0], node.outputs[0]
    assert x is not None
    missing, batch = out.rank - x.rank, known.batch(x)
    if batch is not None:
        axis = batch.axis + missing
        return [(Batch(axis, batch.inner),)] if out.sizes[axis] == x.sizes[batch.axis] else []
    made = [a for a in range(out.rank) if out.sizes[a] == known.size and (a < missing or x.sizes[a - missing] == 1)]
    answers: list[Outcome] = [(Batch(axis, 1),) for axis in made]
    answers.insert(1 if 0 in made else 0, (None,))
    return answers


def _noise(node: Node, known: Known) -> list[Outcome]:
    """Random numbers of a size that is written down: as an axis that is made by broadcasting."""
    out = node.outputs[0]
    made = [axis for axis, size in enumerate(out.sizes) if size == known.size]
    answers: list[Outcome] = [(Batch(axis, 1),) for axis in made]
    answers.insert(1 if 0 in made else 0, (None,))
    return answers


def _reshape(node: Node, known: Known) -> list[Outcome]:
    """The batch keeps its place in memory order, so it is (part of) the output axis that spans this place."""
    x, out = node.inputs[0], node.outputs[0]
    assert x is not None
    batch = known.batch(x)
    if batch is None:
        return [(None,)]
    step = prod(x.sizes[batch.axis + 1 :]) * batch.inner
    fitting = []
    for axis, size in enumerate(out.sizes):
        stride = prod(out.sizes[axis + 1 :])
        if stride and step % stride == 0 and (stride * size) % (step * known.size) == 0 and size:
            fitting.append(Batch(axis, step // stride))
    # With a batch of one, axes of size one and both neighbors fit.
    alone = [b for b in fitting if out.sizes[b.axis] == known.size]
    shared = [b for b in fitting if out.sizes[b.axis] != known.size]
    return [(b,) for b in [*sorted(alone, key=lambda b: (b.axis != batch.axis, b.axis)), *reversed(shared)]]


_GUESSES: dict[Any, Callable[[Node, Known], list[Outcome]]] = {
    aten.reshape.default: _reshape,
    aten.expand.default: _expand,
    aten.repeat.default: _expand,
}


def _ask(node: Node, known: Known) -> Outcome | None:
    """Run the operator on shapes alone, with a larger batch; None where it does not take it or loses it."""
    source = node.source
    try:
        inputs = [None if v is None else _meta(v, known.batch(v)) for v in node.inputs]
        args, kwargs = (_without_device(fill(given, inputs)) for given in (source.args, source.kwargs))
        result = source.target(*args, **kwargs)
    except Exception:
        return None
    results = result if source.several else [result]
    if len(results) != len(node.outputs):  # pieces of the batch, of which there are more now
        return None
    found = [_grown(v, r, node, known) for v, r in zip(node.outputs, results, strict=True)]
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


def _grown(value: Value, result: torch.Tensor, node: Node, known: Known) -> Batch | Literal[False] | None:
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
        batch = known.batch(source)
        if source is not None and batch is not None and source.sizes[batch.axis] == size:
            return Batch(axis, batch.inner)
    return Batch(axis, max(1, size // known.size))


def _elementwise(node: Node, known: Known) -> Outcome | None:
    """Operands are aligned at the last axis; beside the batch there may be a single index, which is broadcast."""
    out = node.outputs[0]
    places: dict[int, Batch] = {}
    for value in node.inputs:
        batch = known.batch(value)
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
        if value.sizes[own] != (1 if known.batch(value) is None else out.sizes[axis]):
            return None
    return (places[axis],) * len(node.outputs)


def _first_axis(node: Node, known: Known) -> Outcome | None:
    """Convolutions, pools and norms over channels hand axis 0 on."""
    batch = known.batch(node.inputs[0])
    if batch is None or batch.axis or any(known.batch(v) is not None for v in node.inputs[1:]):
        return _ask(node, known)
    return (batch,) * len(node.outputs)


def _layer_norm(node: Node, known: Known) -> Outcome | None:
    batch = known.batch(node.inputs[0])
    return None if batch is None or batch.axis in node.attrs["axes"] else (batch,) * len(node.outputs)


def _recurrent(node: Node, known: Known) -> Outcome | None:
    """States `[layers, batch, hidden]` that were made as constants grow along."""
    x, batch = node.inputs[0], known.batch(node.inputs[0])
    if x is None or x.rank != 3 or batch != Batch(0 if node.attrs["batch_first"] else 1, 1):
        return None
    for name, state in zip(node.attrs["order"], node.inputs, strict=False):
        if name in ("h0", "c0") and known.batch(state) != Batch(1, 1) and not known.claim(state, Batch(1, 1)):
            return None
    return (batch, *[Batch(1, 1)] * (len(node.outputs) - 1))


#: What is not listed is asked.
_RULES: dict[str, Callable[[Node, Known], Outcome | None]] = {
    "elementwise": _elementwise,
    "conv": _first_axis,
    "spatial": _first_axis,
    "batch_norm": _first_axis,
    "group_norm": _first_axis,
    "instance_norm": _first_axis,
    "layer_norm": _layer_norm,
    "recurrent": _recurrent,
}
