"""What the original takes and returns, and what of that a pruned model does: caches and vocabularies may be smaller."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from graphprune import frontends
from graphprune.coupling import Coupling
from graphprune.coupling.slicing import kept_rows
from graphprune.ir.graph import Graph, Value
from graphprune.ops.base import Array


class Sides:
    """Translates inputs and results between the original and what a choice leaves of it."""

    def __init__(self, coupling: Coupling, keep: Array) -> None:
        self._graph = graph = coupling.graph
        self._alive, self._all = keep[coupling.component], coupling.blocks
        renumbered = {v for table in coupling.tables for v, _ in table.outputs}
        ends = (*graph.inputs, *graph.outputs)
        self._blocks = {v: coupling.blocks.get(v, ()) for v in ends if v.follows or v in renumbered}
        self._ids = {v.name: ids for table, ids in kept_rows(coupling, keep) for v in table.inputs}

    def within(self, feed: Any) -> Any:
        """Inputs whose ids are among those that stay."""
        change = {name: partial(_pick, ids) for name, ids in self._ids.items()}
        return changed(self._graph, feed, change) if change else feed

    def cut_inputs(self, feed: Any) -> Any:
        """Inputs as the pruned model takes them."""
        change: dict[str, Callable[[Array], Array]] = {n: partial(_renumber, ids) for n, ids in self._ids.items()}
        change.update({v.name: partial(self._cut, v) for v in self._graph.inputs if v in self._blocks})
        return changed(self._graph, feed, change) if change else feed

    def cut_outputs(self, outputs: Sequence[Any]) -> list[Any]:
        """Results of the original as the pruned model returns them."""
        if not self._blocks:
            return [*outputs]
        return [self._cut(v, item) for v, item in zip(self._graph.outputs, outputs, strict=True)]

    @property
    def whole(self) -> bool:
        """Whether nothing is removed."""
        return bool(self._alive.all())

    def splits(self, value: Value) -> bool:
        """Whether what is left of a value inside the model can be told from the whole by picking indices of axes."""
        return all(not block.joint or self._alive[block.labels].all() for block in self._all.get(value, ()))

    def touches(self, value: Value) -> bool:
        """Whether a value loses indices."""
        return any(not self._alive[block.labels].all() for block in self._all.get(value, ()))

    def cut_inner(self, value: Value, array: Any) -> Any:
        """What is left of a value inside the model; see `splits`."""
        for block in self._all.get(value, ()):
            if not block.joint:
                array = array.compress(self._alive[block.labels], axis=block.axes[0])
        return array

    def _cut(self, value: Value, array: Any) -> Any:
        """What is left of an input or output on axes that follow (see `Value.follows`)."""
        for block in self._blocks.get(value, ()):
            if not block.joint:
                array = array.compress(self._alive[block.labels], axis=block.axes[0])
        return array


def changed(graph: Graph, feed: Any, change: Mapping[str, Callable[[Array], Array]]) -> Any:
    """A model's inputs with those of some names changed."""
    if graph.frontend != "onnx":
        return frontends.of(graph).change_inputs(graph, feed, change)
    return {n: np.asarray(change[n](array)) if n in change else array for n, array in feed.items()}  # of no axes, too


def _pick(kept: Array, ids: Array) -> Array:
    return kept[ids % len(kept)].astype(ids.dtype)


def _renumber(kept: Array, ids: Array) -> Array:
    return np.searchsorted(kept, ids).astype(ids.dtype)
