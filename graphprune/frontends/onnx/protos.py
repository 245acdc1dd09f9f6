"""Reading ONNX protobuf messages: attributes, types, captured names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TypeProto, ValueInfoProto, helper

_READ: dict[int, Callable[[Any], Any]] = {
    AttributeProto.FLOAT: lambda a: a.f,
    AttributeProto.INT: lambda a: a.i,
    AttributeProto.STRING: lambda a: a.s.decode("utf-8", "replace"),
    AttributeProto.TENSOR: lambda a: a.t,
    AttributeProto.SPARSE_TENSOR: lambda a: a.sparse_tensor,
    AttributeProto.GRAPH: lambda a: a.g,
    AttributeProto.FLOATS: lambda a: list(a.floats),
    AttributeProto.INTS: lambda a: list(a.ints),
    AttributeProto.STRINGS: lambda a: [s.decode("utf-8", "replace") for s in a.strings],
    AttributeProto.GRAPHS: lambda a: list(a.graphs),
}


def attributes(node: NodeProto) -> dict[str, Any]:
    """A node's attributes as Python values (strings decoded; tensors and graphs as they are)."""
    return {a.name: _READ[a.type](a) for a in node.attribute if a.type in _READ}


def set_attribute(node: NodeProto, name: str, value: Any) -> None:
    """Set, replace or (value None) remove an attribute."""
    kept = [a for a in node.attribute if a.name != name]
    if value is not None:
        kept.append(helper.make_attribute(name, value))
    del node.attribute[:]
    node.attribute.extend(kept)


def domain(node: NodeProto) -> str:
    """The operator's domain, the default one as the empty string."""
    return "" if node.domain == "ai.onnx" else str(node.domain)


def output_names(node: NodeProto) -> list[str]:
    """The outputs up to the last that has a name. One left out before that is called after the first that has."""
    count = max((i + 1 for i, name in enumerate(node.output) if name), default=0)
    first = next(filter(None, node.output), "")
    return [name or f"{first}::{node.op_type}:{i}" for i, name in enumerate(node.output[:count])]


def tensor_type(elem_type: int, shape: tuple[int, ...] | None) -> TypeProto:
    """A tensor type; without a shape where that is None, with open sizes where they are -1."""
    sizes = None if shape is None else [None if n < 0 else n for n in shape]
    made: TypeProto = helper.make_tensor_type_proto(elem_type, sizes)
    return made


def static_shape(proto: TypeProto | None) -> tuple[int, ...] | None:
    """The sizes, if all of them are given as numbers."""
    if proto is None or not proto.HasField("tensor_type") or not proto.tensor_type.HasField("shape"):
        return None
    dims = proto.tensor_type.shape.dim
    if any(not d.HasField("dim_value") or d.dim_value < 0 for d in dims):
        return None
    return tuple(int(d.dim_value) for d in dims)


def open_shape(proto: TypeProto | None) -> tuple[int, ...] | None:
    """The sizes, those not known as -1; None where not even the rank is known."""
    if proto is None or not proto.HasField("tensor_type") or not proto.tensor_type.HasField("shape"):
        return None
    dims = proto.tensor_type.shape.dim
    return tuple(int(d.dim_value) if d.HasField("dim_value") and d.dim_value >= 0 else -1 for d in dims)


def element_type(proto: TypeProto | None) -> int:
    """The element type of a tensor type, 0 where unknown or no tensor."""
    return int(proto.tensor_type.elem_type) if proto is not None and proto.HasField("tensor_type") else 0


def subgraphs(node: NodeProto) -> Iterator[GraphProto]:
    """The graphs inside a node's attributes."""
    for attribute in node.attribute:
        if attribute.type == AttributeProto.GRAPH:
            yield attribute.g
        elif attribute.type == AttributeProto.GRAPHS:
            yield from attribute.graphs


def captured(graph: GraphProto) -> list[str]:
    """Names that a subgraph reads from the graphs around it, in order of first use."""
    own = {i.name for i in graph.input} | {i.name for i in graph.initializer}
    own |= {s.values.name for s in graph.sparse_initializer}
    found: dict[str, None] = {}
    for node in graph.node:
        inner = [name for sub in subgraphs(node) for name in captured(sub)]
        found.update(dict.fromkeys(name for name in [*node.input, *inner] if name and name not in own))
        own.update(node.output)
    found.update(dict.fromkeys(o.name for o in graph.output if o.name not in own))
    return list(found)


def rename_captured(graph: GraphProto, names: dict[str, str]) -> None:
    """Rename, in place, what a subgraph reads from outside."""
    own = {i.name for i in graph.input} | {i.name for i in graph.initializer}
    names = {old: new for old, new in names.items() if old not in own}
    for node in graph.node:
        for slot, name in enumerate(node.input):
            node.input[slot] = names.get(name, name)
        for sub in subgraphs(node):
            rename_captured(sub, names)
        names = {old: new for old, new in names.items() if old not in node.output}
    for output in graph.output:
        output.name = names.get(output.name, output.name)


def dims(info: ValueInfoProto) -> list[int | str | None] | None:
    """A graph input's sizes: a number, a symbol, or None where open; None without a shape."""
    kind = info.type.tensor_type
    if not info.type.HasField("tensor_type") or not kind.HasField("shape"):
        return None
    return [
        int(d.dim_value) if d.HasField("dim_value") and d.dim_value >= 0 else (d.dim_param or None)
        for d in kind.shape.dim
    ]


def without_weights(model: ModelProto) -> ModelProto:
    """A copy of the model that has no initializers."""
    copy = ModelProto()
    _copy_fields(model, copy, {"graph"})
    _copy_fields(model.graph, copy.graph, {"initializer", "sparse_initializer"})
    return copy


def _copy_fields(source: Any, target: Any, left_out: set[str]) -> None:
    for field, value in source.ListFields():
        if field.name not in left_out:
            place = getattr(target, field.name)
            if hasattr(place, "extend"):
                place.extend(value)
            elif hasattr(place, "CopyFrom"):
                place.CopyFrom(value)
            else:
                setattr(target, field.name, value)
