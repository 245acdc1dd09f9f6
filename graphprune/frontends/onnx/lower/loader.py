"""The walk over a model's nodes that makes a graph: constants, facts, and one canonical node per operator."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto

from graphprune.errors import GraphPruneError, InputError
from graphprune.ir.graph import Graph, Node, Value, Weight

from ...caches import mark_caches
from ..origin import Origin, Source
from ..protos import captured, domain, output_names, subgraphs
from ..quantized import Encoded
from ..read.binding import Binding, Sizes
from ..read.branches import World, facts_at, walked
from ..read.constants import constant_weight, fill_of
from ..read.control import DEEPEST, bodies_of, decided, guarded, settle
from ..read.facts import Fact, Propagation, dtype_of
from .naming import label_weights, scope_of
from .random_operators import draws_here
from .registry import FILL, Lowered, View, is_lowered, lower
from .sequences import Sequences
from .stored import Store

#: Where a batch norm reads its mean and variance.
_STATISTICS = (3, 4)
#: Elements of a repeated number that are taken for a constant: more is a broken size.
_HUGE = 1 << 31


class Loader:
    """One walk, at one set of sizes: `run` gives the graph, `worlds` the branches that have sizes of their own."""

    def __init__(
        self, origin: Origin, propagation: Propagation, folder: Path | None, binding: Binding, sizes: Sizes
    ) -> None:
        self.origin = origin
        self.propagation = propagation
        self.facts = propagation.facts
        self.folder = folder
        self.binding, self.sizes = binding, sizes
        self.refused = propagation.refused
        self.worlds: list[World] = []
        self.opaque: set[str] = set()
        self.careful = False
        self.protos: list[NodeProto] = []
        self.values: dict[str, Value] = {name: _constant(name, weight) for name, weight in origin.weights.items()}
        self.outputs = {o.name for o in origin.model.graph.output}
        self.names: dict[str, int] = {}
        self.depth = 0
        self.store = Store(self.values, [])
        self.sequences = Sequences(origin.model.graph, self.facts, origin.opset, self._constant)

    def run(self, protos: list[NodeProto]) -> Graph:
        """The graph of these nodes."""
        graph = self.origin.model.graph
        inputs = [self._value(i.name) for i in graph.input if i.name not in self.origin.weights]
        self.values.update({v.name: v for v in inputs})
        self.store, self.protos = Store(self.values, protos), protos
        nodes = self._nodes(protos, self.outputs)
        outputs = [self._read(o.name, "the graph's outputs") for o in graph.output]
        made = Graph(graph.name, nodes, inputs, outputs, "onnx", self.origin)
        _set_statistics_apart(made.flat_nodes)
        mark_caches(made)
        label_weights(made.flat_nodes)
        self.origin.remember(made.copy())
        return made

    def _nodes(self, protos: Iterable[NodeProto], outputs: set[str]) -> list[Node]:
        found = [node for index, proto in enumerate(protos) for node in self._read_node(proto, index)]
        return _read_ones(found, outputs)

    def body(self, proto: GraphProto) -> Graph:
        """See `control.Bodies`."""
        self.depth += 1
        inputs = [self._value(i.name) for i in proto.input]
        self.values.update({v.name: v for v in inputs})
        nodes = self._nodes(proto.node, {o.name for o in proto.output})
        made, outputs = {value for node in nodes for value in node.outputs}, []
        for info in proto.output:
            value = self._read(info.name, f"the output of the body '{proto.name}'")
            if value not in made:
                nodes.append(self._copied(value))
                value = nodes[-1].outputs[0]
            outputs.append(value)
        self.depth -= 1
        return Graph(proto.name, nodes, inputs, outputs, "onnx", self.origin)

    def branch(self, proto: GraphProto) -> Graph:
        """See `control.Bodies`."""
        if self.depth:
            return self.body(proto)
        found, world = walked(proto, self)
        self.worlds += [world] if world is not None else []
        return found

    def around(self, names: list[str], sizes: Sizes) -> Mapping[str, Fact]:
        """See `branches.Walker`."""
        weights = {n: w for n, w in self.origin.weights.items() if n not in self.origin.makers}
        return facts_at(self.origin.model, self.binding, weights, self.protos, names, sizes)

    def _copied(self, value: Value) -> Node:
        """A body hands on what it did not make: a copy, so that every output of a body is its own."""
        name = self._unique(f"{value.name}::copy")
        copy = Value(name, value.shape, value.dtype, value.dynamic)
        return Node("elementwise", name, [value], [copy], {"fn": "identity"}, "Identity")

    def forget(self, proto: GraphProto) -> None:
        """See `control.Bodies`."""
        origin = self.origin
        tables: list[dict[str, Any]] = [self.values, origin.weights, origin.constant_nodes, origin.makers, self.facts]
        for node in proto.node:
            for name in node.output:
                for known in tables:
                    known.pop(name, None)
            for inner in subgraphs(node):
                self.forget(inner)

    def _read_node(self, proto: NodeProto, index: int) -> list[Node]:
        """The node; what is wrong with one that the checker let pass is said with its name."""
        try:
            return self._node(proto, index)
        except GraphPruneError:
            raise
        except Exception as error:
            where = f"the node '{proto.name or index}' ({proto.op_type}) of '{self.origin.file}'"
            raise InputError(f"{where} cannot be read: {type(error).__name__}: {error}") from error

    def _node(self, proto: NodeProto, index: int) -> list[Node]:
        """The node, or none where its outputs are constants; what a node says that makes or reads a known sequence."""
        instead = self.sequences.instead(proto)
        if instead is not None:
            return [node for inner in instead for node in self._node(inner, index)]
        if self._is_constant(proto):
            return []
        if self.depth < DEEPEST and bodies_of(proto):
            return self._control(proto, index)
        self.propagation.visit(proto)
        if self._folded(proto) or self._decoded(proto):
            return []
        lowered = self._lowered(proto)
        slots, outer = lowered.slots, self._captured(proto)
        inputs = [self._input(proto, slot, lowered) for slot in slots]
        inputs += [self.values[name] for name in outer]
        outputs = [self._output(name) for name in output_names(proto)]
        for value, name in zip(outputs, proto.output, strict=False):
            if not name and lowered.kind == "fused":
                value.shape = ()  # no step makes it
        attrs = dict(lowered.attrs)
        if lowered.kind == "unknown":
            attrs["subgraph"] = any(True for _ in subgraphs(proto))
        node = Node(lowered.kind, self._name(proto, index), inputs, outputs, attrs, _operator(proto))
        node.source = Source(proto, (*slots, *(-1 for _ in outer)), outer)
        node.scope = scope_of(proto)
        if draws_here(node):
            node.attrs["random"] = True
        return [node]

    def _control(self, proto: NodeProto, index: int) -> list[Node]:
        branch = decided(proto, self.facts, careful=self.careful)
        if branch is not None:
            return [node for at, inner in enumerate(branch) for node in self._node(inner, at)]
        handing = guarded(proto, self.facts)
        if handing is not None:
            return [self._guarded(proto, index, *handing)]
        outer = self._captured(proto)
        flow = settle(proto, self)
        slots = tuple(range(len(proto.input)))
        inputs = [self._operand(proto, slot) for slot in slots]
        outputs = [self._output(name) for name in output_names(proto)]
        name, source = self._name(proto, index), Source(proto, slots, outer)
        kind, scope = proto.op_type.lower(), scope_of(proto)
        return [Node(kind, name, inputs, outputs, flow.attrs, proto.op_type, source, bodies=flow.bodies, scope=scope)]

    def _guarded(self, proto: NodeProto, index: int, steps: list[NodeProto], handed: str) -> Node:
        """The one node that an If comes to at these sizes; the If is what is written."""
        (node,) = [node for at, step in enumerate(steps) for node in self._node(step, at)]
        name, source = self._name(proto, index), Source(proto, (-1,), (handed,))
        return Node(node.kind, name, node.inputs[:1], node.outputs, node.attrs, "If", source, scope=node.scope)

    def _captured(self, proto: NodeProto) -> tuple[str, ...]:
        """Values of this graph that the node's subgraphs read."""
        names = [name for sub in subgraphs(proto) for name in captured(sub)]
        return tuple(name for name in dict.fromkeys(names) if name in self.values)

    def _lowered(self, proto: NodeProto) -> Lowered:
        every = tuple(range(len(proto.input)))
        facts = [self.facts.get(name) for name in proto.output if name]
        if any(f is not None and f.derived for f in facts):
            return Lowered("shape_math", every)
        lowered = None if any(True for _ in subgraphs(proto)) else lower(self._view(proto))
        if lowered is None:
            return Lowered("unknown", every, self._lacking(proto))
        if lowered.kind in ("shape_math", "fill"):
            return lowered
        read = [self.facts.get(proto.input[s]) for s in lowered.slots if 0 <= s < len(proto.input) and proto.input[s]]
        known = all(f is not None and f.shape is not None for f in [*read, *facts])
        return lowered if known else Lowered("unknown", every, self._lacking(proto))

    def _lacking(self, proto: NodeProto) -> dict[str, Any]:
        """Whether an operator lacks nothing but sizes, which no operator without a rule left unknown."""
        facts = [self.facts.get(name) for name in (*proto.input, *proto.output) if name]
        shapeless = any(f is None or f.shape is None for f in facts)
        if shapeless and is_lowered(proto) and self.opaque.isdisjoint(proto.input):
            return {"sizes": True}
        self.opaque.update(name for name in proto.output if name)
        return {}

    def _view(self, proto: NodeProto) -> View:
        return View(proto, self.facts, self.origin.opset)

    def _is_constant(self, proto: NodeProto) -> bool:
        if domain(proto) or proto.op_type != "Constant":
            return False
        weight = self._constant(proto)
        if weight is None:
            return False
        self._keep(proto.output[0], weight)
        self.origin.constant_nodes[proto.output[0]] = proto
        self.propagation.learn(proto.output[0], weight)
        return True

    def _constant(self, proto: NodeProto) -> Weight | None:
        return constant_weight(proto, self.folder, self.origin.file)

    def _folded(self, proto: NodeProto) -> bool:
        """Whether the outputs are constants from now on."""
        names = [name for name in proto.output if name]
        if any(name in self.outputs for name in names):
            return False
        if proto.op_type == "ConstantOfShape" and not domain(proto):
            return self._filled(proto)
        smalls = [self.facts[name].small for name in names if name in self.facts]
        if not names or any(s is None or not s.static for s in smalls):
            return False
        for name, small in zip(names, smalls, strict=True):
            assert small is not None
            weight = Weight.of(np.array(small.value, order="C"), trainable=False, tied=False)
            self._keep(name, weight)
            self.origin.makers[name] = proto
            self.facts[name].weight = weight
        return True

    def _filled(self, proto: NodeProto) -> bool:
        shape = self.facts[proto.input[0]].small if proto.input[0] in self.facts else None
        if shape is None or not shape.static:
            return False
        fill = fill_of(proto)
        sizes = tuple(int(n) for n in shape.value)
        if any(n < 0 for n in sizes) or prod(sizes) > _HUGE:
            return False
        tied = sum(1 for n in sizes if n > 1) >= 2
        weight = Weight(sizes, fill.dtype, lambda: np.broadcast_to(fill, sizes), trainable=False, tied=tied)
        self._keep(proto.output[0], weight)
        self.origin.makers[proto.output[0]] = proto
        self.propagation.learn(proto.output[0], weight)
        return True

    def _keep(self, name: str, weight: Weight) -> None:
        self.origin.weights[name] = weight
        self.values[name] = _constant(name, weight)

    def _filler(self, proto: NodeProto) -> Value:
        """The number that a ConstantOfShape repeats."""
        return _constant(f"{proto.output[0]}::fill", Weight.of(fill_of(proto), trainable=False, tied=False))

    def _decoded(self, proto: NodeProto) -> bool:
        """Whether the node only decodes a constant: that is then how the constant is stored."""
        name = proto.output[0] if proto.output else ""
        value = self.store.decoded(proto, dtype_of(self.facts.get(name))) if name not in self.outputs else None
        if value is None or not isinstance(value.weight, Encoded):
            return False
        self.values[name] = value
        self.origin.encoded[value.name] = value.weight
        return True

    def _input(self, proto: NodeProto, slot: int, lowered: Lowered) -> Value | None:
        if slot == FILL:
            return self._filler(proto)
        coding = lowered.encoded.get(slot)
        if coding is not None:
            stored = self.store.operand(proto, coding)
        else:
            stored = self.store.table(proto) if slot == 0 else None
        return stored or self._operand(proto, slot)

    def _operand(self, proto: NodeProto, slot: int) -> Value | None:
        if slot >= len(proto.input) or not proto.input[slot]:
            return None
        return self._read(proto.input[slot], f"the node '{proto.name or proto.op_type}'")

    def _read(self, name: str, reader: str) -> Value:
        if name not in self.values:
            file = self.origin.file
            raise InputError(f"'{file}' is not a valid ONNX model: {reader} reads '{name}', which nothing makes")
        return self.values[name]

    def _output(self, name: str) -> Value:
        self.values[name] = self._value(name)
        return self.values[name]

    def _value(self, name: str) -> Value:
        fact = self.facts.get(name) or Fact(None, None)
        return Value(name, fact.shape, dtype_of(fact), fact.dynamic)

    def _name(self, proto: NodeProto, index: int) -> str:
        base = proto.name or f"{proto.op_type}_{index}"
        return self._unique(f"{base}_{index}" if base in self.names else base)

    def _unique(self, base: str) -> str:
        name = base
        while name in self.names:
            self.names[base] += 1
            name = f"{base}_{self.names[base]}"
        self.names[name] = 0
        return name


def _read_ones(nodes: list[Node], outputs: set[str]) -> list[Node]:
    """Without shape arithmetic that folding left without readers."""
    read, kept = set(outputs), []
    for node in reversed(nodes):
        if node.kind != "shape_math" or any(value.name in read for value in node.outputs):
            kept.append(node)
            read.update(node.source.proto.input)
            read.update(node.source.captured)
    return kept[::-1]


def _set_statistics_apart(nodes: list[Node]) -> None:
    """Running statistics count as parameters as little as they do in PyTorch, unless something else reads them too."""
    roles: dict[Value, set[bool]] = {}
    for node in nodes:
        for slot, value in enumerate(node.inputs):
            if value is not None and value.weight is not None:
                roles.setdefault(value, set()).add(node.kind == "batch_norm" and slot in _STATISTICS)
    for value, found in roles.items():
        if value.weight is not None and found == {True}:
            value.weight.trainable = False


def _operator(proto: NodeProto) -> str:
    """The operator's name, with its domain where that is neither ONNX's nor onnxruntime's usual one."""
    place = domain(proto)
    return str(proto.op_type) if place in ("", "com.microsoft") else f"{place}.{proto.op_type}"


def _constant(name: str, weight: Weight) -> Value:
    return Value(name, weight.shape, weight.dtype, weight=weight)
