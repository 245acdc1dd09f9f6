"""Graph -> ONNX model."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from onnx import ModelProto, NodeProto, SparseTensorProto, TensorProto, ValueInfoProto

from graphprune.errors import GraphPruneError
from graphprune.ir.graph import Graph, Node, Value, Weight, uncollected

from ..lower.registry import FILL
from ..origin import Origin, Source, copy_notes
from ..protos import attributes, rename_captured, set_attribute, subgraphs
from ..quantized import Part
from ..read.branches import Alias
from ..read.constants import thinned
from ..read.order import alive, in_order, reads
from ..tensors import put_elements, to_tensor
from . import raise_fused, raise_shape  # noqa: F401  (they register the raisings)
from .create import create_node
from .emit_body import open_branches, resized, write_bodies
from .makers import cheapest
from .raising import Draft, raise_node
from .writer import Writer


@uncollected()
def emit(graph: Graph) -> ModelProto:
    """The graph as an ONNX model with all weights inside."""
    model, weights = build(graph)
    fill(model, weights)
    return model


def fill(model: ModelProto, weights: dict[str, Weight]) -> None:
    """Put the data of these weights into the model's initializers, which are headers so far."""
    for tensor in model.graph.initializer:
        array = weights[tensor.name].array()
        if array.shape != tuple(tensor.dims):
            raise GraphPruneError(f"the weight '{tensor.name}' is to have the shape {list(tensor.dims)}: {array.shape}")
        put_elements(tensor, array)


@uncollected()
def build(graph: Graph) -> tuple[ModelProto, dict[str, Weight]]:
    """The model with empty initializers, and the weights that belong into them."""
    writer = Writer(graph)
    writer.write = lambda node: write_node(node, writer)
    for node in graph.nodes:
        writer.write(node)
    name_outputs(writer)
    return assemble(writer, sparse=True)


def write_node(node: Node, writer: Writer) -> None:
    """Write one node, rewired, with what changed."""
    if isinstance(node.source, Alias):
        writer.renamed[node.outputs[0].name] = writer.name(node.inputs[0])
        writer.lent.add(node.outputs[0].name)
        return
    if node.source is None:
        create_node(node, writer)
        return
    source: Source = node.source
    proto = NodeProto()
    proto.CopyFrom(source.proto)
    _wire_inputs(node, source, proto, writer)
    _wire_outputs(node, source, proto, writer)
    takes = _takes(node)
    finals = list(proto.output)
    if takes:
        for j, name in enumerate(finals):
            proto.output[j] = writer.fresh(f"{name}_whole") if name else ""
    proto.name = writer.node_name(proto.name)
    if node.bodies:
        write_bodies(node, proto, writer)
    elif node.op == "If" and node.outputs[0].shape != writer.origin.facts[source.proto.output[0]].shape:
        open_branches(proto)
    writer.nodes.append(proto)
    raise_node(Draft(node, proto, source.proto, writer))
    for name, final in zip(proto.output, finals, strict=True):
        if takes and name:
            _write_takes(name, final, takes, writer)


def _wire_inputs(node: Node, source: Source, proto: NodeProto, writer: Writer) -> None:
    stored = {p.slot: p for v in node.inputs for p in _parts(v, writer)}
    parameters = set(range(len(proto.input))) - set(source.slots) - stored.keys()
    for slot in parameters:
        if proto.input[slot]:
            proto.input[slot] = writer.parameter(proto.input[slot])
    free = max([*source.slots, len(proto.input) - 1], default=-1) + 1
    slots = [*source.slots, *range(free, free + len(node.inputs) - len(source.slots))]
    renamed: dict[str, str] = {}
    outer = iter(source.captured)
    for position, slot in enumerate(slots):
        name = writer.name(node.inputs[position]) if position < len(node.inputs) else ""
        if slot == FILL:
            continue
        if slot < 0:
            renamed[next(outer)] = name
            continue
        proto.input.extend([""] * (slot + 1 - len(proto.input)))
        proto.input[slot] = name
    for part in stored.values():
        assert part.slot is not None
        proto.input[part.slot] = writer.part(part)
    while proto.input and not proto.input[-1]:
        del proto.input[-1]
    for inner in subgraphs(proto) if renamed else ():
        rename_captured(inner, {old: new for old, new in renamed.items() if old != new})


def _parts(value: Value | None, writer: Writer) -> list[Part]:
    """The tensors that stand in several slots of a node for one operand, as they are to be written."""
    weight = writer.encoded.get(value.name) if value is not None else None
    return weight.written if weight is not None and weight.node is None else []


def _wire_outputs(node: Node, source: Source, proto: NodeProto, writer: Writer) -> None:
    if node.kind == "split" and node.changed:
        del proto.output[len(node.outputs) :]  # pieces that are gone
    for j, value in enumerate(node.outputs):
        if source.proto.output[j]:
            proto.output[j] = writer.name(value)


def _takes(node: Node) -> list[tuple[int, np.ndarray]]:
    take = node.attrs.get("take") or []
    return [take] if isinstance(take, tuple) else list(take)


def _write_takes(name: str, final: str, takes: list[tuple[int, np.ndarray]], writer: Writer) -> None:
    for position, (axis, indices) in enumerate(takes):
        output = final if position == len(takes) - 1 else writer.fresh(f"{final}_taken")
        index = writer.constant(np.asarray(indices, np.int64), f"{final}_take")
        name = writer.node("Gather", [name, index], output, axis=int(axis))


def name_outputs(writer: Writer) -> None:
    """Outputs that became another value (an input, a weight, another output) are copies of it."""
    for value, info in zip(writer.graph.outputs, writer.origin.model.graph.output, strict=True):
        if writer.name(value) != info.name:
            writer.node("Identity", [writer.name(value)], info.name)


def assemble(writer: Writer, *, sparse: bool = False) -> tuple[ModelProto, dict[str, Weight]]:
    """The model around the written nodes: what is needed, sorted, with constants, inputs and outputs.

    If `sparse`, constants that came as sparse tensors stay such.
    """
    read = {name for node in writer.nodes for name in reads(node)}
    for name, weight in writer.encoded.items():
        writer.decoding(name, weight) if name in read else None
    _revive(writer)
    nodes = in_order(alive(writer.nodes, [o.name for o in writer.origin.model.graph.output]))
    read = {name for node in nodes for name in reads(node)}
    read |= {o.name for o in writer.origin.model.graph.output}
    made = {name for node in nodes for name in node.output}
    constants = {name: w for name, w in writer.weights.items() if name in read and name not in made}
    makers, constants = cheapest(constants, writer)
    model = _shell(writer.origin)
    prefix, inline = _constant_nodes(constants, writer)
    weights = {name: weight for name, weight in constants.items() if name not in inline}
    if sparse:
        model.graph.sparse_initializer.extend(_thinned(weights, writer.origin))
    model.graph.node.extend([*prefix, *makers, *nodes])
    model.graph.initializer.extend(_header(name, weight, writer.origin) for name, weight in weights.items())
    model.graph.input.extend(_inputs(writer, weights))
    model.graph.output.extend(resized(info, value) for info, value in _outputs(writer))
    model.graph.value_info.extend(_value_info(writer, made))
    return model, weights


def _revive(writer: Writer) -> None:
    """Write original nodes again that something still reads though a pass dropped them (computed sizes)."""
    present = {name for node in writer.nodes for name in node.output} | set(writer.weights)
    present |= {i.name for i in writer.origin.model.graph.input}
    queue = [name for node in writer.nodes for name in reads(node) if name not in present]
    while queue:
        name = queue.pop()
        if name in present:
            continue
        count = len(writer.nodes)
        if name in writer.origin.encoded:
            writer.decoding(name, writer.origin.encoded[name])
        elif name in writer.origin.weights:
            writer.weights.setdefault(name, writer.origin.weights[name])
        elif name in writer.origin.producers:
            writer.reviving = True
            write_node(writer.origin.producers[name], writer)
            writer.reviving = False
        else:
            raise GraphPruneError(f"the written model would read '{name}', which nothing makes")
        present |= {name, *writer.weights, *(n for node in writer.nodes[count:] for n in node.output)}
        queue += [n for node in writer.nodes[count:] for n in reads(node) if n not in present]


def _shell(origin: Origin) -> ModelProto:
    """The model without nodes, tensors, inputs and outputs."""
    model = ModelProto()
    model.CopyFrom(origin.model)
    for name in ("node", "initializer", "sparse_initializer", "input", "output", "value_info"):
        model.graph.ClearField(name)
    return model


def _constant_nodes(constants: dict[str, Weight], writer: Writer) -> tuple[list[NodeProto], set[str]]:
    """Constants that came as nodes stay nodes; before IR version 4 new ones must be nodes, too."""
    origin, nodes, inline = writer.origin, [], set()
    old = origin.model.ir_version < 4
    declared = {i.name for i in origin.model.graph.input}
    for name, weight in constants.items():
        proto = origin.constant_nodes.get(name)
        if proto is None and not (old and name not in declared):
            continue
        made = NodeProto()
        if proto is not None and weight is origin.weights.get(name):
            made.CopyFrom(proto)
        else:
            made.CopyFrom(proto or NodeProto(op_type="Constant", name=name, output=[name]))
            del made.attribute[:], made.input[:]
            made.op_type = "Constant"
            like = attributes(proto).get("sparse_value") if proto is not None else None
            tensor = None if like is None else thinned(weight, name, like)
            set_attribute(
                made, "value" if tensor is None else "sparse_value", tensor or to_tensor(weight.array(), name)
            )
        nodes.append(made)
        inline.add(name)
    return nodes, inline


def _thinned(weights: dict[str, Weight], origin: Origin) -> list[SparseTensorProto]:
    """The sparse tensors, which are no longer among the weights: where that is smaller, for those that changed."""
    found = []
    for name in [name for name in weights if name in origin.sparse]:
        unchanged = weights[name] is origin.weights.get(name)
        tensor = origin.sparse[name] if unchanged else thinned(weights[name], name, origin.sparse[name])
        if tensor is not None:
            found.append(tensor)
            del weights[name]
    return found


def _header(name: str, weight: Weight, origin: Origin) -> TensorProto:
    tensor = TensorProto(name=name, dims=weight.shape)
    header = origin.headers.get(name)
    if header is not None:
        copy_notes(header, tensor)
    return tensor


def _inputs(writer: Writer, weights: dict[str, Weight]) -> list[ValueInfoProto]:
    """Graph inputs; those that only name an initializer follow it."""
    found, real = [], {v.name: v for v in writer.graph.inputs}
    for info in writer.origin.model.graph.input:
        if info.name in real:
            found.append(resized(info, real[info.name]))
        elif info.name not in writer.origin.weights:
            found.append(info)
        elif info.name in weights:
            weight = weights[info.name]
            found.append(resized(info, Value(info.name, weight.shape, weight.dtype)))
    return found


def _outputs(writer: Writer) -> Iterable[tuple[ValueInfoProto, Value]]:
    return zip(writer.origin.model.graph.output, writer.graph.outputs, strict=True)


def _value_info(writer: Writer, made: set[str]) -> list[ValueInfoProto]:
    """Notes about intermediate values that still hold."""
    kept = []
    for info in writer.origin.model.graph.value_info:
        value, fact = writer.values.get(info.name), writer.origin.facts.get(info.name)
        if value is None or fact is None or info.name not in made or value.shape != fact.shape:
            continue
        if value.shape is None or resized(info, value) == info:
            kept.append(info)
    return kept
