"""Subgraphs made part of one space of names: every value in them has a name of its own, their weights lie outside."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from onnx import GraphProto, NodeProto, SparseTensorProto, TensorProto

from ..protos import subgraphs


@dataclass
class Taken:
    """The names in use, and the weights found in subgraphs."""

    names: set[str] = field(default_factory=set)
    counts: dict[str, int] = field(default_factory=dict)
    weights: list[TensorProto] = field(default_factory=list)
    sparse: list[SparseTensorProto] = field(default_factory=list)

    def own(self, name: str) -> str:
        """The name, or one like it where it is taken; taken from now on."""
        found = name
        while found in self.names:
            self.counts[name] = self.counts.get(name, 0) + 1
            found = f"{name}__{self.counts[name]}"
        self.names.add(found)
        return found


def share_names(graph: GraphProto) -> Taken:
    """Rename, in place, what subgraphs call as something else is called already; take their initializers out.

    The spec lets sibling subgraphs use the same names; that they read outer values by name stays as it was.
    """
    taken = Taken(set(_made(graph)))
    for node in graph.node:
        for inner in subgraphs(node):
            _share(inner, {}, taken)
    return taken


def _made(graph: GraphProto) -> Iterator[str]:
    yield from (i.name for i in graph.input)
    yield from (i.name for i in graph.initializer)
    yield from (s.values.name for s in graph.sparse_initializer)
    yield from (name for node in graph.node for name in node.output if name)


def _share(graph: GraphProto, outer: Mapping[str, str], taken: Taken) -> None:
    names = dict(outer)
    for name in dict.fromkeys(_made(graph)):
        names[name] = taken.own(name)
    names = {old: new for old, new in names.items() if old != new}
    inputs = {i.name for i in graph.input}
    rename(graph, names, nested=False)
    for node in graph.node:
        for inner in subgraphs(node):
            _share(inner, names, taken)
    taken.weights += [t for t in graph.initializer if t.name not in inputs]
    taken.sparse += [s for s in graph.sparse_initializer if s.values.name not in inputs]
    for name in ("initializer", "sparse_initializer"):
        graph.ClearField(name)


def rename(graph: GraphProto, names: Mapping[str, str], *, nested: bool = True) -> None:
    """Rename values, in place, wherever they are made and read; `nested` also where subgraphs read them."""
    if not names:
        return
    for value in (*graph.input, *graph.output, *graph.value_info, *graph.initializer):
        value.name = names.get(value.name, value.name)
    for sparse in graph.sparse_initializer:
        sparse.values.name = names.get(sparse.values.name, sparse.values.name)
    for node in graph.node:
        _rename_slots(node, names)
        for inner in subgraphs(node) if nested else ():
            rename(inner, names)


def _rename_slots(node: NodeProto, names: Mapping[str, str]) -> None:
    for slots in (node.input, node.output):
        for i, name in enumerate(slots):
            if name in names:
                slots[i] = names[name]
