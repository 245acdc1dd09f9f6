"""The pass that removes what a plan does not keep: weights are sliced once, sizes in the graph follow."""

from __future__ import annotations

import numpy as np

from graphprune.coupling import Coupling, Use
from graphprune.errors import PassError
from graphprune.graph import Graph, Value, Weight
from graphprune.kept import Survivors
from graphprune.ops import lookup
from graphprune.ops.base import Array


def remove_channels(coupling: Coupling, keep: Array) -> Graph:
    """A new graph with only the kept components; the coupling's graph is untouched.

    `keep` is a bool mask over components. Raises PassError naming the node whose sizes cannot follow.
    """
    survivors = Survivors(coupling, keep)
    graph = coupling.graph.copy()
    _rewrite_nodes(coupling.graph, graph, survivors)
    _slice_weights(coupling, graph, survivors)
    _resize(coupling.graph, graph, survivors)
    return graph


def _rewrite_nodes(before: Graph, after: Graph, survivors: Survivors) -> None:
    """Rules read sizes of the original values and change attributes of the new nodes."""
    for old, new in zip(before.nodes, after.nodes, strict=True):
        rule = lookup(old.kind).rewrite
        if rule is None or any(v is None or v.shape is None for v in old.outputs):
            continue
        inputs, outputs = new.inputs, new.outputs
        new.inputs, new.outputs = old.inputs, old.outputs
        try:
            rule(new, survivors)
        except Exception as error:
            raise PassError(f"remove-channels cannot rewrite node '{old.name}' ({old.op}): {error}") from error
        finally:
            new.inputs, new.outputs = inputs, outputs


def _slice_weights(coupling: Coupling, graph: Graph, survivors: Survivors) -> None:
    """One tensor where the uses of a weight agree; a copy for each further slice where they do not."""
    nodes = dict(zip(coupling.graph.nodes, graph.nodes, strict=True))
    made: dict[Value, dict[tuple[bytes, ...], Value]] = {}
    names = {v.name for v in graph.values()}
    for use in coupling.uses:
        versions = made.setdefault(use.value, {})
        key = survivors.key(use)
        node = nodes[use.node]
        if key not in versions:
            current = node.inputs[use.slot]
            assert current is not None
            versions[key] = _sliced(use, current, survivors, key, first=not versions, names=names)
        node.inputs[use.slot] = versions[key]


def _sliced(
    use: Use, current: Value, survivors: Survivors, key: tuple[bytes, ...], *, first: bool, names: set[str]
) -> Value:
    weight = use.value.weight
    assert weight is not None
    name = use.value.name
    if not first:
        name = next(n for n in (f"{name}.{i}" for i in range(2, 1 << 20)) if n not in names)
        names.add(name)
    if not key:
        return current if first else Value(name, current.shape, current.dtype, current.dynamic, weight)
    array = np.ascontiguousarray(survivors.slice_weight(use, weight.array()))
    sliced = Weight.of(array, trainable=weight.trainable, tied=weight.tied)
    return Value(name, array.shape, current.dtype, current.dynamic, sliced)


def _resize(before: Graph, after: Graph, survivors: Survivors) -> None:
    for old, new in zip(before.nodes, after.nodes, strict=True):
        for was, now in zip(old.outputs, new.outputs, strict=True):
            if was.shape is not None:
                now.shape = survivors.shape(was)
