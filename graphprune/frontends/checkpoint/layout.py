"""How the weights of a rewritten graph lie in a folder: each as it is, or packed again as the folder had them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from graphprune.ir.graph import Graph, Value, Weight
from graphprune.ir.weights import RowReader

from ..torch.arrays import numpy_dtype, shared, to_numpy, torch_dtype
from .conversion import Converted, Step, respelled
from .origin import CheckpointOrigin
from .shards import Stored
from .streaming import Batch

#: Bytes that are made and written together.
_PIECE = 1 << 26


def stored_weights(graph: Graph, origin: CheckpointOrigin, names: Mapping[str, str]) -> Iterator[tuple[str, Weight]]:
    """What is to be stored by its new name. Tied tensors are stored once."""
    assert origin.module is not None
    weights = graph.weights()
    state = origin.module.state_dict()
    left_out = getattr(origin.module, "all_tied_weights_keys", {})
    for name, tensor in state.items():
        if name in origin.tensors.aliases and name in left_out:
            continue
        first = origin.tensors.aliases.get(name, name)
        if first in weights:
            yield names.get(name, name), _weight(weights[first])
        elif first not in origin.read:
            yield name, _weight(origin.stored.get(name, tensor))


def _weight(source: Value | Stored | Converted | torch.Tensor) -> Weight:
    if isinstance(source, Value):
        assert source.weight is not None
        return source.weight
    if isinstance(source, torch.Tensor):
        return Weight.of(to_numpy(source))
    return Weight(source.shape, source.dtype, source.read, lazy=True, read_rows=source.read_rows)


def as_they_are(weights: Mapping[str, Weight]) -> list[Batch]:
    """Each weight on its own."""
    return [Batch({name: (w.dtype, w.shape)}, partial(_pieces, name, w)) for name, w in weights.items()]


def _pieces(name: str, weight: Weight) -> Iterator[tuple[str, np.ndarray]]:
    parts = weight.by_rows(weight.rows_in(_PIECE)) if weight.read_rows else [weight.array()]
    yield from ((name, part) for part in parts)


def packed_again(weights: Mapping[str, Weight], model: nn.Module, transforms: Iterable[Any]) -> list[Batch]:
    """As transformers stores a model that it loaded with these transforms."""
    ignored = set(getattr(model, "_keys_to_ignore_on_save", None) or ())
    weights = {name: weight for name, weight in weights.items() if name not in ignored}
    sizes = {n: torch.empty(w.shape, dtype=torch_dtype(w.dtype), device="meta") for n, w in weights.items()}
    names, steps = respelled(model, sizes, transforms)
    plain = as_they_are({spelled: weights[name] for name, spelled in names.items()})
    return [*plain, *(_batch(step, made, weights) for step, made in steps)]


def _batch(step: Step, names: Sequence[str], weights: Mapping[str, Weight]) -> Batch:
    sizes = [(numpy_dtype(tensor.dtype), tuple(tensor.shape)) for tensor in step.made.values()]
    taken = [name for given in step.sources.values() for name in given]
    rows = {name: read for name in taken if (read := weights[name].read_rows) is not None}
    by_row = step.unstacks and len(rows) == len(taken)
    make = partial(_apart, step, names, rows) if by_row else partial(_whole, step, names, weights)
    return Batch(dict(zip(names, sizes, strict=True)), make)


def _whole(step: Step, names: Sequence[str], weights: Mapping[str, Weight]) -> Iterator[tuple[str, np.ndarray]]:
    made = step.run(lambda name: shared(weights[name].array()))
    yield from zip(names, map(to_numpy, made), strict=True)


def _apart(step: Step, names: Sequence[str], rows: Mapping[str, RowReader]) -> Iterator[tuple[str, np.ndarray]]:
    """One index of the stack at a time; `names` lists all of them for the first tensor, then for the next."""
    made = step.run(partial(_row, rows, 0))
    count = len(names) // len(made)
    for row in range(count):
        for at, tensor in enumerate(made if not row else step.run(partial(_row, rows, row))):
            yield names[at * count + row], to_numpy(tensor)


def _row(rows: Mapping[str, RowReader], row: int, name: str) -> torch.Tensor:
    return shared(rows[name](row, row + 1))
