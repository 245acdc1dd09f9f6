"""Building blocks for writing a graph: fresh names, constants, nodes, and integer vectors with computed entries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, defs, helper

from graphprune.ir.graph import Graph, Node, Value, Weight

from ..origin import Origin
from ..quantized import Encoded, Part


@dataclass(frozen=True)
class Entry:
    """Entry `index` of the computed 1-d integer tensor `name`, times `num`, divided by `den`."""

    name: str
    index: int
    num: int = 1
    den: int = 1


class Writer:
    """Collects nodes and constants under names that are used nowhere else."""

    #: Writes one node; set by who drives the writing.
    write: Callable[[Node], None]

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.origin: Origin = graph.origin
        self.opset = self.origin.opset
        self.nodes: list[NodeProto] = []
        weights = {n: v.weight for n, v in graph.weights().items() if v.weight is not None}
        self.encoded: dict[str, Encoded] = {n: w for n, w in weights.items() if isinstance(w, Encoded)}
        self.weights: dict[str, Weight] = {n: w for n, w in weights.items() if n not in self.encoded}
        self.values: dict[str, Value] = {value.name: value for value in graph.values()}
        self.renamed = _output_names(graph)
        self._taken = {*self.values, *self.origin.facts, *self.origin.weights, *self.renamed.values()}
        self.reviving = False
        #: Values that are not written: those around a body, under the sizes of the body.
        self.lent: set[str] = set()
        self._tries: dict[str, int] = {}
        self._node_names: dict[str, int] = {}
        self._constants: dict[tuple[str, tuple[int, ...], bytes], str] = {}

    def name(self, value: Value | None) -> str:
        """The name a value is written under ('' for an input that is absent)."""
        if value is None:
            return ""
        if self.reviving and value.weight is not None:
            return self.parameter(value.name)
        return self.renamed.get(value.name, value.name)

    def fresh(self, base: str) -> str:
        """A name nobody has."""
        name = base
        while name in self._taken:
            self._tries[base] = self._tries.get(base, 0) + 1
            name = f"{base}_{self._tries[base]}"
        self._taken.add(name)
        return name

    def node_name(self, name: str) -> str:
        """The node's name, made unique (runtimes reject models with two nodes of one name); none stays none."""
        unique = name
        while unique and unique in self._node_names:
            self._node_names[name] += 1
            unique = f"{name}_{self._node_names[name]}"
        self._node_names[unique] = 0
        return unique

    def constant(self, array: np.ndarray, base: str) -> str:
        """A constant of these elements; small equal ones are shared."""
        array = np.ascontiguousarray(array) if array.ndim else array
        key = (str(array.dtype), array.shape, array.tobytes() if array.size <= 64 else b"")
        if array.size <= 64 and key in self._constants:
            return self._constants[key]
        name = self.fresh(base)
        self.weights[name] = Weight.of(array, trainable=False, tied=False)
        self._constants[key] = name
        return name

    def ints(self, values: Sequence[int], base: str) -> str:
        """A constant 1-d int64 tensor."""
        return self.constant(np.asarray(values, np.int64).reshape(-1), base)

    def node(self, op: str, inputs: Sequence[str], output: str, **attrs: Any) -> str:
        """Append a node with one output; returns the output's name."""
        self.nodes.append(helper.make_node(op, list(inputs), [output], name=self.node_name(f"{output}/{op}"), **attrs))
        return output

    def parameter(self, name: str) -> str:
        """The name under which an original parameter (not an operand) can be read with its original elements."""
        weight = self.origin.weights.get(name)
        if weight is None:
            value = self.values.get(name)
            return self.name(value) if value is not None else name
        if self.weights.setdefault(name, weight) is weight:
            return name
        return self.constant(weight.array(), f"{name}_original")

    def part(self, part: Part) -> str:
        """The name under which one stored tensor of an encoded weight can be read."""
        if isinstance(part.weight, Encoded):
            self.decoding(part.name, part.weight)
            return part.name
        weight = self.weights.setdefault(part.name, part.weight)
        if weight is not part.weight and not np.array_equal(weight.array(), part.weight.array()):
            return self.constant(part.weight.array(), part.name)
        return part.name

    def decoding(self, name: str, weight: Encoded) -> None:
        """Write the node that makes a constant out of its stored tensors."""
        if weight.node is None or any(name in node.output for node in self.nodes):
            return
        proto = NodeProto()
        proto.CopyFrom(weight.node)
        proto.name, proto.output[0] = self.node_name(proto.name), name
        for part in weight.written:
            assert part.slot is not None
            proto.input[part.slot] = self.part(part)
        self.nodes.append(proto)

    def vector(self, entries: Sequence[int | Entry], base: str) -> str:
        """A 1-d int64 tensor of constant and computed entries."""
        if all(isinstance(e, int) for e in entries):
            return self.ints([e for e in entries if isinstance(e, int)], base)
        parts: list[str] = []
        run: list[int] = []
        for entry in entries:
            if isinstance(entry, int):
                run.append(entry)
                continue
            if run:
                parts.append(self.ints(run, base))
                run = []
            parts.append(self._entry(entry, base))
        if run:
            parts.append(self.ints(run, base))
        return parts[0] if len(parts) == 1 else self.node("Concat", parts, self.fresh(base), axis=0)

    def _entry(self, entry: Entry, base: str) -> str:
        source = self.parameter(entry.name)
        picked = self.node("Gather", [source, self.ints([entry.index], f"{base}_at")], self.fresh(base), axis=0)
        picked = self.node("Cast", [picked], self.fresh(base), to=TensorProto.INT64)
        for op, factor in (("Mul", entry.num), ("Div", entry.den)):
            if factor != 1:
                picked = self.node(op, [picked, self.ints([factor], f"{base}_factor")], self.fresh(base))
        return picked

    def has_attribute(self, op: str, name: str) -> bool:
        """Whether the operator takes this parameter as an attribute in the model's opset."""
        return defs.has(op, self.opset, "") and name in defs.get_schema(op, self.opset, "").attributes


def _output_names(graph: Graph) -> dict[str, str]:
    """New names, so that the values that are outputs now bear the names that the model's outputs always had."""
    wanted = [o.name for o in graph.origin.model.graph.output]
    computed = {v.name for node in graph.nodes for v in node.outputs}
    final: dict[str, str] = {}
    for value, name in zip(graph.outputs, wanted, strict=True):
        if value.name in computed and (value.name not in final or value.name == name):
            final[value.name] = name
    taken = {v.name for v in graph.values()} | set(wanted)
    for name in sorted(set(wanted) & computed - set(final)):
        inner = f"{name}_inner"
        while inner in taken:
            inner += "_"
        taken.add(inner)
        final[name] = inner
    return {old: new for old, new in final.items() if old != new}
