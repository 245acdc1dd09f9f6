"""A model written to a file with the elements of large tensors straight from their arrays.

protobuf's own writer wants all of them inside the message, and makes a second copy of that; here it writes everything
but those elements, and what surrounds them is put in as the wire format has it: a field is its number and a length,
then its bytes (https://protobuf.dev/programming-guides/encoding). Fields of a message may stand in any order.
"""

from __future__ import annotations

from typing import BinaryIO

import numpy as np
from onnx import GraphProto, ModelProto, TensorProto

from graphprune.errors import GraphPruneError
from graphprune.ir.graph import Weight

from ..tensors import onnx_dtype, plain, put_elements

_GRAPH = ModelProto.DESCRIPTOR.fields_by_name["graph"].number
_INITIALIZER = GraphProto.DESCRIPTOR.fields_by_name["initializer"].number
_RAW_DATA = TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number
_LENGTH_DELIMITED = 2
#: Tensors below this size are written by protobuf.
_SMALL = 1024


def write(model: ModelProto, weights: dict[str, Weight], file: BinaryIO) -> None:
    """Write a model whose initializers are headers so far. Each array is read when it is written."""
    start, fronts = _parts(model, weights)
    file.write(start)
    for header, (front, size) in zip(model.graph.initializer, fronts, strict=True):
        file.write(front)
        if size:
            file.write(np.ascontiguousarray(_array(header, weights[header.name])).reshape(-1).view(np.uint8).data)


def length(model: ModelProto, weights: dict[str, Weight]) -> int:
    """How many bytes `write` writes."""
    start, fronts = _parts(model, weights)
    return len(start) + sum(len(front) + size for front, size in fronts)


def _parts(model: ModelProto, weights: dict[str, Weight]) -> tuple[bytes, list[tuple[bytes, int]]]:
    """Everything before the tensors, and the front of each with how many bytes follow it."""
    outer, graph = ModelProto(), GraphProto()
    outer.CopyFrom(model)
    outer.ClearField("graph")
    graph.CopyFrom(model.graph)
    graph.ClearField("initializer")
    rest = graph.SerializeToString()
    fronts = [_front(header, weights[header.name]) for header in model.graph.initializer]
    total = len(rest) + sum(len(front) + size for front, size in fronts)
    return outer.SerializeToString() + _head(_GRAPH, total) + rest, fronts


def _front(header: TensorProto, weight: Weight) -> tuple[bytes, int]:
    """A tensor's bytes up to its elements, and how many bytes of these follow (none where they are in there)."""
    tensor, size = TensorProto(), weight.size * weight.dtype.itemsize
    tensor.CopyFrom(header)
    tensor.data_type = onnx_dtype(weight.dtype)
    if size < _SMALL or not plain(tensor):
        put_elements(tensor, _array(header, weight))
        inside = tensor.SerializeToString()
        return _head(_INITIALIZER, len(inside)) + inside, 0
    inside = tensor.SerializeToString() + _head(_RAW_DATA, size)
    return _head(_INITIALIZER, len(inside) + size) + inside, size


def _array(header: TensorProto, weight: Weight) -> np.ndarray:
    array = weight.array()
    if array.shape != tuple(header.dims) or array.dtype != weight.dtype:
        raise GraphPruneError(f"the weight '{header.name}' is to have the shape {list(header.dims)}: {array.shape}")
    return array


def _head(field: int, length: int) -> bytes:
    """What comes before the bytes of a field."""
    return _varint(field << 3 | _LENGTH_DELIMITED) + _varint(length)


def _varint(number: int) -> bytes:
    groups = [number & 0x7F]
    while number := number >> 7:
        groups.append(number & 0x7F)
    return bytes([*(group | 0x80 for group in groups[:-1]), groups[-1]])
