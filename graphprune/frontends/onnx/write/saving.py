"""Writing model files: whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Callable
from itertools import chain, count
from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx
from onnx import ModelProto, TensorProto

from graphprune.atomic import whole
from graphprune.errors import GraphPruneError, InputError
from graphprune.ir.graph import Graph, Weight

from ..origin import Origin
from ..read.checking import PROTO_LIMIT, first_line, full_failure, with_small_data
from ..tensors import onnx_dtype, to_tensor
from . import wire
from .emit import build

#: Tensors below this size stay inside the model: shape inference reads them.
_SMALL = 1024
#: Alignment of large tensors in the data file, so that runtimes can map it into memory, and of others.
_PAGE, _WORD = 4096, 16
#: Tensors from here on are large: more than a page is not much beside them.
_LARGE = 1 << 20


def save(graph: Graph, path: str | Path, check: Callable[[Path], None] | None = None) -> None:
    """Write the graph to an ONNX file, checked and then renamed into place.

    Weights go to `<name>.data` beside it if the model came with external data or is too large for one file; to another
    name where that file holds the weights of the model that was read. `check` looks at the file before it appears.
    Raises InputError where the path cannot be written, GraphPruneError where the model fails the checker.
    """
    target = Path(os.path.realpath(path))
    try:
        _check_target(target, Path(path))
    except OSError as error:
        raise InputError(f"the output '{path}' cannot be written: {error.strerror}") from error
    model, weights = build(graph)
    data = _data_name(target, graph.origin) if _splits(weights, graph.origin) else None
    with whole(path) as draft:
        if data is None:
            _check(with_small_data(model, weights), graph.origin)
        _write(model, weights, draft, data)
        if data is not None:
            _check(str(draft), graph.origin)
        if check is not None:
            check(draft)


def written_bytes(graph: Graph) -> int:
    """What a graph takes when it is saved: its model file, and the data beside it."""
    model, weights = build(graph)
    if not _splits(weights, graph.origin):
        return wire.length(model, weights)
    end, headers = 0, ModelProto()
    headers.CopyFrom(model)
    for tensor in headers.graph.initializer:
        weight = weights[tensor.name]
        if _bytes(weight) < _SMALL or weight.dtype == object:
            tensor.CopyFrom(to_tensor(weight.array(), tensor.name))
        else:
            end = _refer(tensor, weight, end, "model.onnx.data")
    return headers.ByteSize() + end


def _splits(weights: dict[str, Weight], origin: Origin) -> bool:
    """Whether the elements go to a file of their own."""
    return origin.external or sum(map(_bytes, weights.values())) > PROTO_LIMIT


def _bytes(weight: Weight) -> int:
    return weight.size * weight.dtype.itemsize


def _check_target(target: Path, path: Path) -> None:
    if target.is_dir():
        raise InputError(f"the output '{path}' cannot be written: it is a directory")
    if not target.parent.is_dir():
        raise InputError(f"the output '{path}' cannot be written: the folder '{target.parent}' does not exist")
    if not os.access(target.parent, os.W_OK) or (target.exists() and not os.access(target, os.W_OK)):
        raise InputError(f"the output '{path}' cannot be written: permission denied")


def _data_name(target: Path, origin: Origin) -> str:
    """The data file's name: not one that holds data of the model that was read, unless that model is replaced."""
    taken = frozenset() if Path(os.path.realpath(origin.file)) == target else origin.data_files
    names = chain([f"{target.name}.data"], (f"{target.name}.{number}.data" for number in count(2)))
    return next(name for name in names if target.parent / name not in taken)


def _write(model: ModelProto, weights: dict[str, Weight], path: Path, data: str | None) -> None:
    if data is not None:
        with path.with_name(data).open("wb") as file:
            for tensor in model.graph.initializer:
                _write_tensor(tensor, weights[tensor.name], file, data)
    with path.open("wb") as file:
        if data is None:
            wire.write(model, weights, file)
        else:
            file.write(model.SerializeToString())


def _write_tensor(tensor: TensorProto, weight: Weight, file: BinaryIO, location: str) -> None:
    """Append one tensor to the data file, or keep it in the model if it is small or not made of plain bytes."""
    if _bytes(weight) < _SMALL or weight.dtype == object:
        tensor.CopyFrom(to_tensor(weight.array(), tensor.name))
        return
    end = _refer(tensor, weight, file.tell(), location)
    file.seek(end - _bytes(weight))
    file.write(np.ascontiguousarray(weight.array()).reshape(-1).view(np.uint8).data)


def _refer(tensor: TensorProto, weight: Weight, end: int, location: str) -> int:
    """Say in a tensor where its elements lie: behind what ends at `end`. Returns where they end."""
    size = _bytes(weight)
    step = _PAGE if size >= _LARGE else _WORD
    offset = -(-end // step) * step
    tensor.data_type = onnx_dtype(weight.dtype)
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in (("location", location), ("offset", offset), ("length", size)):
        tensor.external_data.add(key=key, value=str(value))
    return offset + size


def _check(model: ModelProto | str, origin: Origin) -> None:
    """Raise GraphPruneError where the checker with full shape inference refuses what is written.

    A model that failed full inference before anything was changed is held to the plain checker only.
    """
    failure = full_failure(model, lambda: _was_inferable(origin))
    if failure is not None:
        raise GraphPruneError(f"the written model fails the ONNX checker: {first_line(failure)}") from failure


def _was_inferable(origin: Origin) -> bool:
    """Whether the model as it was read passes the checker with full shape inference."""
    try:
        onnx.checker.check_model(with_small_data(*build(origin.first)), full_check=True) if origin.first else None
    except Exception:  # then it cannot be asked of the output either
        return False
    return True
