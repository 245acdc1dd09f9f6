"""Writing the bodies of control flow, each into the attribute it came from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
from onnx import AttributeProto, GraphProto, NodeProto, ValueInfoProto

from graphprune.ir.graph import Graph, Node, Value

from ..protos import subgraphs
from ..read.control import BODIES
from ..read.order import alive, in_order
from ..tensors import numpy_dtype, onnx_dtype
from .writer import Writer


def write_bodies(node: Node, proto: NodeProto, writer: Writer) -> None:
    """Put the node's bodies into the protobuf's attributes."""
    places = {a.name: a for a in proto.attribute if a.type == AttributeProto.GRAPH}
    for name, body in zip(BODIES[proto.op_type], node.bodies, strict=True):
        places[name].g.CopyFrom(_body(body, places[name].g, writer))


def open_branches(proto: NodeProto) -> None:
    """Take the sizes from what branches declare that are written as they came: they were those before."""
    for branch in subgraphs(proto):
        del branch.value_info[:]
        for info in branch.output:
            info.type.tensor_type.ClearField("shape")


def _body(body: Graph, original: GraphProto, writer: Writer) -> GraphProto:
    outside, writer.nodes = writer.nodes, []
    for node in body.nodes:
        writer.write(node)
    names = _outputs(body, writer)
    inner, writer.nodes = writer.nodes, outside
    made = GraphProto()
    made.CopyFrom(original)
    for field in ("node", "initializer", "sparse_initializer", "input", "output", "value_info"):
        made.ClearField(field)
    made.node.extend(in_order(alive(inner, names)))
    made.input.extend(_renamed(original.input, body.inputs, [writer.name(v) for v in body.inputs]))
    made.output.extend(_renamed(original.output, body.outputs, names))
    return made


def _outputs(body: Graph, writer: Writer) -> list[str]:
    """The names of the outputs; what the body did not make itself, or hands out twice, is copied."""
    made, names = {name for node in writer.nodes for name in node.output}, []
    for value in body.outputs:
        name = writer.name(value)
        if name not in made or name in names:
            name = writer.node("Identity", [name], writer.fresh(f"{name}_out"))
        names.append(name)
    return names


def _renamed(infos: Iterable[ValueInfoProto], values: Sequence[Value], names: Sequence[str]) -> list[ValueInfoProto]:
    found = []
    for info, value, name in zip(infos, values, names, strict=True):
        copy = resized(info, value)
        copy.name = name
        found.append(copy)
    return found


def resized(info: ValueInfoProto, value: Value) -> ValueInfoProto:
    """The value info with its numbers and its element type brought up to date; symbols stay."""
    copy = ValueInfoProto()
    copy.CopyFrom(info)
    kind = copy.type.tensor_type
    if kind.elem_type and value.dtype != np.dtype(object) and numpy_dtype(kind.elem_type) != value.dtype:
        kind.elem_type = onnx_dtype(value.dtype)
    dims = copy.type.tensor_type.shape.dim
    if value.shape is not None and len(dims) == len(value.shape):
        for axis, (dim, size) in enumerate(zip(dims, value.shape, strict=True)):
            if dim.HasField("dim_value") and axis not in value.dynamic:
                dim.dim_value = size
    return copy
