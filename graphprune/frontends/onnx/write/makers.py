"""Constants that nodes of the file compute (ranges, windows): stored only where that is smaller than the nodes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import numpy as np
from onnx import NodeProto

from graphprune.ir.graph import Weight

from ..protos import set_attribute
from ..tensors import to_tensor
from .writer import Writer

#: Bytes that a field of a message takes around what it holds.
_FRAME = 4
#: Bytes of a tensor beside its name and its elements.
_TENSOR = 16


@dataclass
class _Way:
    """Nodes to write, in order, and constants to store."""

    nodes: dict[str, NodeProto] = field(default_factory=dict)
    stored: dict[str, Weight] = field(default_factory=dict)


def cheapest(constants: dict[str, Weight], writer: Writer) -> tuple[list[NodeProto], dict[str, Weight]]:
    """The nodes that make some of these constants as they did in the file, and what is then left to store.

    Constants that a pass changed are stored; where all elements are the same number, that is repeated by a node.
    """
    repeated = _repeated(constants, writer)
    rest = {name: weight for name, weight in constants.items() if name not in repeated}
    prices = _Prices(writer)
    ways = [prices.way(rest, every=False), prices.way(rest, every=True), _Way(stored=dict(rest))]
    best = min(ways, key=prices.of)
    nodes = [_named(proto, writer) for proto in best.nodes.values()]
    for name, (proto, shape) in repeated.items():
        proto.input[0] = writer.ints(shape, f"{name}_shape")
        best.stored[proto.input[0]] = writer.weights[proto.input[0]]
        nodes.append(_named(proto, writer))
    return nodes, best.stored


def _named(proto: NodeProto, writer: Writer) -> NodeProto:
    made = NodeProto()
    made.CopyFrom(proto)
    made.name = writer.node_name(proto.name)
    return made


def _repeated(constants: dict[str, Weight], writer: Writer) -> dict[str, tuple[NodeProto, tuple[int, ...]]]:
    """Slices of what a ConstantOfShape made: it makes them as well."""
    found = {}
    for name, weight in constants.items():
        maker = writer.origin.makers.get(name)
        if maker is None or maker.op_type != "ConstantOfShape" or weight is writer.origin.weights.get(name):
            continue
        shape = 8 * len(weight.shape) + len(name) + _TENSOR
        if weight.stored_bytes > maker.ByteSize() + shape and (number := _only_number(weight)) is not None:
            proto = NodeProto()
            proto.CopyFrom(maker)
            set_attribute(proto, "value", to_tensor(number, ""))
            found[name] = proto, weight.shape
    return found


def _only_number(weight: Weight) -> np.ndarray | None:
    """The number that a constant repeats, as a vector of one; None where its elements differ."""
    array = weight.array().reshape(-1)
    return array[:1] if array.size and bool((array == array[0]).all()) else None


class _Prices:
    """What constants cost in bytes: as they are, or as the nodes that make them."""

    def __init__(self, writer: Writer) -> None:
        self._writer, self._origin = writer, writer.origin
        self._alone: dict[str, float] = {}

    def of(self, way: _Way) -> float:
        """The bytes of everything in a way."""
        made = sum(proto.ByteSize() + _FRAME for proto in way.nodes.values())
        return made + sum(self._store(name, weight) for name, weight in way.stored.items())

    def way(self, constants: Iterable[str], *, every: bool) -> _Way:
        """Each constant in the way that is cheaper for it alone; with `every`, by nodes wherever that can be."""
        found = _Way()
        for root in constants:
            stack = [root]
            while stack:
                name = stack.pop()
                if name in found.nodes or name in found.stored:
                    continue
                proto = self._maker(name) if every or self._priced(name) < self._stored(name) else None
                if proto is None:
                    found.stored[name] = self._weight(name)
                    continue
                before = [n for n in proto.input if n and n not in found.nodes and n not in found.stored]
                if before:
                    stack += [name, *before]
                else:
                    found.nodes[name] = proto
        return found

    def _priced(self, name: str) -> float:
        """What a constant costs alone, in the cheaper way."""
        stack = [name]
        while stack:
            top = stack[-1]
            proto = self._maker(top)
            before = [n for n in proto.input if n and n not in self._alone] if proto is not None else []
            if before:
                stack += before
                continue
            made = float("inf")
            if proto is not None:
                made = proto.ByteSize() + _FRAME + sum(self._alone[n] for n in set(proto.input) if n)
            self._alone[top] = min(self._stored(top), made)
            stack.pop()
        return self._alone[name]

    def _stored(self, name: str) -> float:
        return self._store(name, self._weight(name))

    def _store(self, name: str, weight: Weight) -> float:
        proto = self._origin.constant_nodes.get(name)
        if proto is not None and weight is self._origin.weights.get(name):
            return float(proto.ByteSize() + _FRAME)
        return float(weight.stored_bytes + len(name) + _TENSOR)

    def _weight(self, name: str) -> Weight:
        found: Weight = self._writer.weights.get(name) or self._origin.weights[name]
        return found

    def _maker(self, name: str) -> NodeProto | None:
        """The node that makes a constant as it is, where all that it reads are constants of the file as they were."""
        proto = self._origin.makers.get(name)
        if proto is None or len(proto.output) != 1 or self._changed(name):
            return None
        inputs = [n for n in proto.input if n]
        return None if any(n not in self._origin.weights or self._changed(n) for n in inputs) else proto

    def _changed(self, name: str) -> bool:
        was = self._origin.weights.get(name)
        return self._writer.weights.get(name, was) is not was
