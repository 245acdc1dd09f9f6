"""Tensors stored in a model as weights: initializers in any form, and the nodes that hold or repeat a constant."""

from __future__ import annotations

from math import prod
from pathlib import Path

import numpy as np
from onnx import NodeProto, SparseTensorProto, TensorProto

from graphprune.ir.graph import Weight

from ..protos import attributes
from ..tensors import external_reader, inline_array, is_external, is_float, numpy_dtype, to_tensor


def weight_of(tensor: TensorProto, folder: Path | None, file: str) -> Weight:
    """A stored tensor as a weight, read when asked for where it lies in another file."""
    shape, dtype = tuple(tensor.dims), numpy_dtype(tensor.data_type)
    trainable = is_float(dtype) and prod(shape) > 1
    tied = sum(1 for n in shape if n > 1) >= 2
    if is_external(tensor):
        read = external_reader(tensor, folder, file)
        return Weight(shape, dtype, read, trainable=trainable, tied=tied, lazy=True)
    return Weight.of(inline_array(tensor), trainable=trainable, tied=tied)


def dense_weight(tensor: SparseTensorProto) -> Weight:
    """A sparse tensor, filled up with zeros."""
    values, indices = inline_array(tensor.values), inline_array(tensor.indices)
    dense = np.zeros(tuple(tensor.dims), values.dtype)
    if indices.ndim == 2:
        dense[tuple(indices.T)] = values
    else:
        dense.reshape(-1)[indices] = values
    return Weight.of(dense, trainable=is_float(dense.dtype), tied=True)


def thinned(weight: Weight, name: str, like: SparseTensorProto) -> SparseTensorProto | None:
    """A weight as a sparse tensor with indices of the same form as another; None where that is no smaller."""
    array = weight.array()
    flat = np.flatnonzero(array)
    indices = np.stack(np.unravel_index(flat, array.shape), axis=-1) if len(like.indices.dims) == 2 else flat
    if indices.nbytes + flat.size * array.itemsize >= array.nbytes or not flat.size:
        return None
    made = SparseTensorProto(dims=array.shape)
    made.values.CopyFrom(to_tensor(array.reshape(-1)[flat], name))
    made.indices.CopyFrom(to_tensor(indices.astype(np.int64), f"{name}_indices"))
    return made


def fill_of(proto: NodeProto) -> np.ndarray:
    """The number that a ConstantOfShape repeats."""
    attrs = attributes(proto)
    return inline_array(attrs["value"]).reshape(()) if "value" in attrs else np.zeros((), np.float32)


def constant_weight(proto: NodeProto, folder: Path | None, file: str) -> Weight | None:
    """The tensor of a Constant node in any of its forms; None for those that are no tensor."""
    attrs = attributes(proto)
    if "value" in attrs:
        return weight_of(attrs["value"], folder, file)
    if "sparse_value" in attrs:
        return dense_weight(attrs["sparse_value"])
    for name, dtype in (("value_float", np.float32), ("value_int", np.int64)):
        for key in (name, name + "s"):
            if key in attrs:
                array = np.asarray(attrs[key], dtype)
                return Weight.of(array, trainable=is_float(array.dtype) and array.size > 1, tied=False)
    return None
