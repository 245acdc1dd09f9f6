"""Tables whose rows the caller's ids pick (a vocabulary): on request rows may go, and ids are counted anew."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from graphprune.errors import InputError
from graphprune.ir.graph import Graph, Node, Value
from graphprune.ops import lookup
from graphprune.ops.base import Array


@dataclass(frozen=True, eq=False)
class Table:
    """A weight, the integer inputs that are rows of it, and the outputs that have one entry for each row (on an axis).

    `pinned` are rows that must stay. An output counts if exactly one of its axes is as long as the table.
    """

    weight: Value
    inputs: tuple[Value, ...]
    outputs: tuple[tuple[Value, int], ...]
    pinned: Array

    axis = 0


def requested(graph: Graph, include: Iterable[str]) -> tuple[str, ...]:
    """The tables whose rows are asked for by name, as `weight[0]`."""
    wanted = {glob.removesuffix("[0]") for glob in include if glob.endswith("[0]")}
    tables = {
        n.inputs[0].name for n in graph.nodes if n.inputs and n.inputs[0] is not None and _looks_up(n, n.inputs[0])
    }
    return tuple(name for name in graph.weights() if name in wanted & tables)


def find_tables(graph: Graph, names: Iterable[str], pinned: Iterable[int] = ()) -> list[Table]:
    """The tables of these weights; raises InputError where one is not looked into by an input of the model."""
    producers, weights = graph.producers(), graph.weights()
    found = []
    for name in names:
        if name not in weights:
            raise InputError(f"'{name}' is no weight of '{graph.name}'")
        table = weights[name]
        inputs = {_source(node.inputs[1], producers) for node in graph.nodes if _looks_up(node, table)}
        given = tuple(v for v in graph.inputs if v in inputs)
        if not given:
            raise InputError(f"the rows of '{name}' cannot go: no input of '{graph.name}' picks them")
        rows = table.sizes[0]
        outputs = tuple(
            (v, v.sizes.index(rows))
            for v in graph.outputs
            if v.shape is not None and v.shape.count(rows) == 1 and np.issubdtype(v.dtype, np.inexact)
        )
        fixed = np.array(sorted({i for i in pinned if 0 <= i < rows}), np.int64)
        found.append(Table(table, given, outputs, fixed))
    return found


def _looks_up(node: Node, table: Value) -> bool:
    return (
        node.kind == "gather"
        and node.inputs[0] is table
        and node.attrs["axis"] == 0
        and node.attrs["indices"] is None
        and len(node.inputs) > 1
    )


def _source(ids: Value | None, producers: dict[Value, Node]) -> Value | None:
    """Where ids come from, through operators that only move or cast them."""
    while ids is not None and ids in producers:
        node = producers[ids]
        if not lookup(node.kind).moves and node.attrs.get("fn") not in ("cast", "identity"):
            return None
        ids = node.inputs[0]
    return ids
