"""onnx's checker and its shape inference, on models without the elements of large tensors.

Neither looks at them (shapes are computed from integers and short lists): a large tensor of floats is checked as an
input of its type and sizes, and its bytes are not copied and parsed again. That there are as many as its sizes say is
checked where they are read, and where they are written.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from math import prod

import onnx
from onnx import ModelProto, TensorProto, helper

from graphprune.ir.graph import Weight

from ..protos import without_weights
from ..tensors import is_external, is_float, numpy_dtype, onnx_dtype, put_elements
from .contrib import DEFAULT_DOMAIN_EXTRAS

#: protobuf cannot serialise more than this.
PROTO_LIMIT = 1_900_000_000
#: Bytes of a tensor that may matter for shapes.
_SMALL = 1024
#: Where initializers need not be inputs.
_FREE_VERSION = 4
_TYPED = ("float_data", "int32_data", "string_data", "int64_data", "double_data", "uint64_data")


def tolerated(error: Exception) -> bool:
    """Whether the checker only dislikes an operator that onnxruntime runs all the same.

    Those are its own operators in the default domain, and GroupNormalization as opset 18 had it.
    """
    if "Op registered for GroupNormalization is deprecated" in str(error):
        return True
    missing = re.search(r"No Op registered for (\w+)", str(error))
    return missing is not None and missing.group(1) in DEFAULT_DOMAIN_EXTRAS


def first_line(error: Exception) -> str:
    """The first telling line of a checker's message."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0].rstrip(".") if lines else type(error).__name__


def without_data(model: ModelProto) -> ModelProto:
    """The model with inputs in place of large tensors of floats; itself where the checker must see those."""
    tensors = model.graph.initializer
    heavy = [tensor for tensor in tensors if _heavy(tensor)]
    names = [*(t.name for t in tensors), *(s.values.name for s in model.graph.sparse_initializer)]
    if model.ir_version < _FREE_VERSION or not heavy or len(set(names)) < len(names):
        return model
    copy = without_weights(model)
    copy.graph.sparse_initializer.extend(model.graph.sparse_initializer)
    copy.graph.initializer.extend(tensor for tensor in tensors if not _heavy(tensor))
    _as_inputs(copy, heavy)
    return copy


def with_small_data(model: ModelProto, weights: Mapping[str, Weight]) -> ModelProto:
    """A copy of a model whose initializers are headers so far, inputs in place of the large ones, the others full."""
    copy, heavy = ModelProto(), []
    copy.CopyFrom(model)
    del copy.graph.initializer[:]
    for header in model.graph.initializer:
        weight = weights[header.name]
        if model.ir_version >= _FREE_VERSION and is_float(weight.dtype) and _bytes(weight) >= _SMALL:
            heavy.append(TensorProto(name=header.name, data_type=onnx_dtype(weight.dtype), dims=header.dims))
        else:
            tensor = copy.graph.initializer.add()
            tensor.CopyFrom(header)
            put_elements(tensor, weight.array())
    _as_inputs(copy, heavy)
    return copy


def _bytes(weight: Weight) -> int:
    return weight.size * weight.dtype.itemsize


def _as_inputs(model: ModelProto, tensors: Sequence[TensorProto]) -> None:
    """Add what is no input yet, as an input of its type and sizes."""
    known = {info.name for info in model.graph.input}
    for t in tensors:
        if t.name not in known:
            model.graph.input.append(helper.make_tensor_value_info(t.name, t.data_type, list(t.dims)))


def _heavy(tensor: TensorProto) -> bool:
    """Whether a tensor is many floats, as plain bytes and nothing else."""
    if not tensor.HasField("raw_data") or is_external(tensor) or any(len(getattr(tensor, n)) for n in _TYPED):
        return False
    if tensor.data_type not in TensorProto.DataType.values() or min(tensor.dims, default=0) < 1 or not tensor.name:
        return False
    dtype = numpy_dtype(tensor.data_type)
    return is_float(dtype) and prod(tensor.dims) * dtype.itemsize >= _SMALL


def full_failure(model: ModelProto | str, was_inferable: Callable[[], bool]) -> Exception | None:
    """What the checker says with full shape inference; without, where the model failed that before it was changed."""
    failure = _failure(model, full=True)
    if failure is None or tolerated(failure):
        return None
    return failure if was_inferable() else _failure(model, full=False)


def _failure(model: ModelProto | str, *, full: bool) -> Exception | None:
    try:
        onnx.checker.check_model(model, full_check=full)
    except Exception as error:
        return error
    return None
