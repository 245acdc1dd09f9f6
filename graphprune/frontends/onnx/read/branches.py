"""Branches that run at sizes of their own: a body that the sizes of the whole model do not fit is walked at others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from onnx import GraphProto, ModelProto, NodeProto

from graphprune.ir.graph import Graph, Node, Value, Weight

from ..protos import captured, output_names
from .binding import Binding, Shape, Sizes
from .facts import Fact, Propagation, dtype_of
from .order import alive
from .roles import BATCH


@dataclass(frozen=True)
class Alias:
    """Behind the `Node.source` of what is not written: a value of the graph around a body, under the body's sizes."""


@dataclass(frozen=True)
class World:
    """A body that runs at input shapes of its own."""

    body: str
    shapes: dict[str, Shape]


class Walker(Protocol):
    """What a loader offers: see `loading`."""

    facts: dict[str, Fact]
    values: dict[str, Value]
    refused: tuple[set[str], set[str]]
    sizes: Sizes
    binding: Binding

    def body(self, proto: GraphProto) -> Graph:
        """Walk a body."""

    def forget(self, proto: GraphProto) -> None:
        """Undo a walk."""

    def around(self, names: list[str], sizes: Sizes) -> Mapping[str, Fact]:
        """What is known about values of the graph around, under other sizes."""


def walked(proto: GraphProto, loader: Walker) -> tuple[Graph, World | None]:
    """A body, at other sizes where it does not run at those of the model; the first of these that fit it."""
    before = (set(loader.refused[0]), set(loader.refused[1]))
    body = loader.body(proto)
    if loader.refused[0] == before[0] or not loader.binding.free:
        return body, None
    names = captured(proto)
    for sizes in _several(loader):
        _undo(proto, loader, before)
        facts = loader.around(names, sizes)
        body = _walk(proto, loader, {n: facts[n] for n in names if n in facts and n in loader.facts})
        if loader.refused[0] == before[0]:
            return body, World(proto.output[0].name, loader.binding.shapes(sizes))
    _undo(proto, loader, before)
    return loader.body(proto), None


def _several(loader: Walker) -> Iterator[Sizes]:
    seen = [dict(loader.sizes)]
    for sizes in loader.binding.around():
        if sizes not in seen:
            seen.append(sizes)
            yield sizes


def _undo(proto: GraphProto, loader: Walker, before: tuple[set[str], set[str]]) -> None:
    loader.forget(proto)
    for refused, was in zip(loader.refused, before, strict=True):
        refused.intersection_update(was)


def _walk(proto: GraphProto, loader: Walker, facts: Mapping[str, Fact]) -> Graph:
    """Walk a body with other facts about what it reads from outside."""
    other = {n: f for n, f in facts.items() if (f.shape, f.other_shape) != _shapes(loader.facts[n])}
    facts_before: dict[str, Any] = {name: loader.facts[name] for name in other}
    values_before: dict[str, Any] = {name: loader.values[name] for name in other}
    aliases = []
    for name, fact in other.items():
        loader.facts[name] = fact
        alias = Value(f"{name}::{proto.output[0].name}", fact.shape, dtype_of(fact), fact.dynamic)
        loader.facts[alias.name] = fact
        aliases.append(
            Node("elementwise", alias.name, [values_before[name]], [alias], {"fn": "identity"}, "Identity", Alias())
        )
        loader.values[name] = alias
    body = loader.body(proto)
    loader.facts.update(facts_before)
    loader.values.update(values_before)
    body.nodes[:0] = aliases
    return body


def _shapes(fact: Fact) -> tuple[Shape | None, Shape | None]:
    return fact.shape, fact.other_shape


def facts_at(
    model: ModelProto,
    binding: Binding,
    weights: Mapping[str, Weight],
    before: list[NodeProto],
    names: list[str],
    sizes: Sizes,
) -> Mapping[str, Fact]:
    """Facts about values of the main graph under other sizes; in the second binding all but the number of samples may
    be any.
    """
    others = {key: binding.moved(key, sizes[key])[0] for key, free in binding.free.items() if free.role == BATCH}
    walk = Propagation(model, binding.bounds(sizes, others), weights)
    for node in alive(before, names):
        if not all(name in walk.facts for name in output_names(node)):
            walk.visit(node)
    return walk.facts
