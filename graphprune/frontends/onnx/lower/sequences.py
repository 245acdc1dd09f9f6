"""Sequences that are another way of writing Split and Concat, taken apart while loading.

A sequence is taken apart where all of it is known: it is made by SplitToSequence or SequenceConstruct, and whatever
reads it asks for a tensor at a constant position, for their number, or for all of them joined. It is then a list of
tensors, and no node of the graph. Any other sequence stays what it was: an unknown operator's output.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, helper, numpy_helper

from graphprune.ir.graph import Weight

from ..protos import attributes, captured, domain, subgraphs
from ..read.facts import Fact

_MAKERS = frozenset({"SplitToSequence", "SequenceConstruct"})
_READERS = frozenset({"SequenceAt", "SequenceLength", "ConcatFromSequence"})
#: Sequences of more tensors stay.
_MOST = 4096
#: From this opset on the sizes of a Split and the axes of a Squeeze are inputs.
_AS_INPUTS = 13


@dataclass(frozen=True)
class _Cut:
    """`drops` says that the parts, of size 1, lose the axis."""

    axis: int
    sizes: list[int]
    drops: bool


class Sequences:
    """Rewrites the nodes of a model one by one, in their order; `facts` is what is known of the values before them.

    Every value in the graphs of the model has a name of its own. `constant` reads what a Constant holds.
    """

    def __init__(
        self,
        graph: GraphProto,
        facts: Mapping[str, Fact],
        opset: int,
        constant: Callable[[NodeProto], Weight | None],
    ) -> None:
        self._facts = facts
        self._opset = opset
        self._constant = constant
        self._names: set[str] = set()
        self._readers: dict[str, list[NodeProto]] = {}
        self._constants: dict[str, NodeProto] = {}
        self._handed_on: set[str] = set()
        self._elements: dict[str, list[str]] = {}
        if any(node.op_type in _MAKERS for node in _nodes(graph)):
            self._learn(graph)

    def _learn(self, graph: GraphProto) -> None:
        """Who reads what, and what leaves the graph that it was made in."""
        self._names.update(value.name for value in (*graph.input, *graph.initializer))
        self._handed_on.update(value.name for value in graph.output)
        for node in graph.node:
            self._names.update(node.output)
            if node.op_type == "Constant" and not domain(node):
                self._constants[node.output[0]] = node
            for name in node.input:
                self._readers.setdefault(name, []).append(node)
            for inner in subgraphs(node):
                self._handed_on.update(captured(inner))
                self._learn(inner)

    def instead(self, node: NodeProto) -> list[NodeProto] | None:
        """The nodes to be read in place of a node of a sequence that is taken apart; None: the node itself."""
        if domain(node):
            return None
        if node.op_type in _MAKERS:
            self._elements.pop(node.output[0], None)  # bodies are read several times
            return self._split(node) if node.op_type == "SplitToSequence" else self._constructed(node)
        if node.op_type in _READERS and node.input[0] in self._elements:
            return self._read(node, self._elements[node.input[0]])
        return None

    def _constructed(self, node: NodeProto) -> list[NodeProto] | None:
        if self._wanted(node.output[0], len(node.input)) is None:
            return None
        self._elements[node.output[0]] = list(node.input)
        return []

    def _split(self, node: NodeProto) -> list[NodeProto] | None:
        cut = self._cut(node)
        wanted = None if cut is None else self._wanted(node.output[0], len(cut.sizes))
        if cut is None or wanted is None:
            return None
        name = node.output[0]
        joined = any(reader.op_type == "ConcatFromSequence" for reader in self._readers.get(name, ()))
        names = [wanted.get(i) or self._fresh(f"{name}::{i}") for i in range(len(cut.sizes))]
        self._elements[name] = names
        if not wanted and not joined:
            return []
        if not cut.drops:
            return self._with_numbers(node, "Split", names, {"split": cut.sizes}, axis=cut.axis)
        pieces = [self._fresh(f"{name}::{i}:piece") for i in range(len(names))]
        made = self._with_numbers(node, "Split", pieces, {"split": cut.sizes}, axis=cut.axis)
        for i in range(len(names)) if joined else sorted(wanted):
            made += self._with_numbers(_part(node, i, pieces[i]), "Squeeze", [names[i]], {"axes": [cut.axis]})
        return made

    def _cut(self, node: NodeProto) -> _Cut | None:
        """How a SplitToSequence cuts; None where that is not known or follows the user's input."""
        attrs, given = attributes(node), len(node.input) > 1 and bool(node.input[1])
        fact, axis = self._facts.get(node.input[0]), int(attrs.get("axis", 0))
        value = self._number(node.input[1]) if given else np.array(1)
        if value is None or fact is None or fact.shape is None or not -len(fact.shape) <= axis < len(fact.shape):
            return None
        axis %= len(fact.shape)
        sizes = _sizes(value, fact.shape[axis])
        if sizes is None or axis in fact.dynamic:
            return None
        drops = not attrs.get("keepdims", 1)
        if given and drops and value.ndim == 0:
            return None  # the spec keeps the axis here, onnxruntime drops it
        return _Cut(axis, sizes, drops and not given)

    def _wanted(self, name: str, count: int) -> dict[int, str] | None:
        """The positions asked for, each with the name of what is found there (of the first that asks).

        None where a sequence of this length cannot be taken apart.
        """
        found: dict[int, str] = {}
        for reader in self._readers.get(name, ()):
            if domain(reader) or reader.op_type not in _READERS:
                return None
            if reader.op_type == "SequenceAt":
                position = self._position(reader, count)
                if position is None:
                    return None
                found.setdefault(position, reader.output[0])
        return None if name in self._handed_on else found

    def _position(self, reader: NodeProto, count: int) -> int | None:
        """The position that a SequenceAt asks for, not negative; None where it is computed or does not exist."""
        value = self._number(reader.input[1])
        if value is None or value.size != 1 or not -count <= int(value.reshape(())) < count:
            return None
        return int(value.reshape(())) % count

    def _number(self, name: str) -> np.ndarray | None:
        """A constant tensor of integers."""
        fact = self._facts.get(name)
        if fact is None:  # the Constant may lie between the sequence and its reader
            weight = self._constant(self._constants[name]) if name in self._constants else None
            value = None if weight is None else weight.array()
        else:
            small = fact.known()
            value = small.value if small is not None and small.static else None
        return value if value is not None and value.dtype.kind in "iu" else None

    def _read(self, node: NodeProto, elements: Sequence[str]) -> list[NodeProto] | None:
        output = node.output[0]
        if node.op_type == "SequenceAt":
            position = self._position(node, len(elements))
            assert position is not None
            return [] if elements[position] == output else [_like(node, "Identity", [elements[position]], [output])]
        if node.op_type == "SequenceLength":
            return [_constant(np.array(len(elements)), output)]
        axis, made = int(attributes(node)["axis"]), []
        if attributes(node).get("new_axis", 0):
            wide = [self._fresh(f"{output}::{i}") for i in range(len(elements))]
            for i, (name, new) in enumerate(zip(elements, wide, strict=True)):
                made += self._with_numbers(_part(node, i, name), "Unsqueeze", [new], {"axes": [axis]})
            elements = wide
        return [*made, _like(node, "Concat", elements, [output], axis=axis)]

    def _with_numbers(
        self, node: NodeProto, op: str, outputs: Sequence[str], numbers: Mapping[str, list[int]], **attrs: int
    ) -> list[NodeProto]:
        """A node on the first input of `node` with a list of integers: as an attribute, or as a second input."""
        ((key, values),) = numbers.items()
        if self._opset < _AS_INPUTS:
            return [_like(node, op, node.input[:1], outputs, **numbers, **attrs)]
        name = self._fresh(f"{outputs[0]}::{key}")
        return [_constant(np.array(values), name), _like(node, op, [node.input[0], name], outputs, **attrs)]

    def _fresh(self, name: str) -> str:
        """A name unlike those of the model; the same each time."""
        while name in self._names:
            name += "_"
        return name


def _nodes(graph: GraphProto) -> Iterator[NodeProto]:
    for node in graph.node:
        yield node
        for inner in subgraphs(node):
            yield from _nodes(inner)


def _sizes(value: np.ndarray, whole: int) -> list[int] | None:
    """The sizes of the parts: one after the other, or all as this number says but for the last."""
    if value.ndim == 0:
        each = min(int(value), whole)
        if each < 1 or whole > each * _MOST:
            return None
        value = np.minimum(each, whole - np.arange(0, whole, each))
    sizes = [int(n) for n in value[: _MOST + 1].reshape(-1)]
    return sizes if 0 < len(sizes) <= _MOST and min(sizes) > 0 and sum(sizes) == whole else None


def _part(node: NodeProto, index: int, name: str) -> NodeProto:
    """What is done with one tensor of a sequence, for `node`."""
    return NodeProto(name=node.name and f"{node.name}_{index}", input=[name], metadata_props=node.metadata_props)


def _like(node: NodeProto, op: str, inputs: Sequence[str], outputs: Sequence[str], **attrs: Any) -> NodeProto:
    """A node in the place of another one: of its name, with its notes."""
    made = helper.make_node(op, inputs, outputs, name=node.name, **attrs)
    made.metadata_props.extend(node.metadata_props)
    return made


def _constant(value: np.ndarray, name: str) -> NodeProto:
    return helper.make_node("Constant", [], [name], name=name, value=numpy_helper.from_array(value.astype(np.int64)))
