"""Reading an ONNX file and everything that can be wrong with it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError
from onnx import ModelProto, TensorProto

from graphprune.errors import InputError

from ..protos import subgraphs, without_weights
from ..tensors import external_file, is_external
from .checking import PROTO_LIMIT, first_line, tolerated, without_data
from .order import put_in_order

#: Bytes of a weight that is left out where only names and types are looked at.
_LARGE = 1024
OLDEST_OPSET = 9
#: How the checker says that a node reads what no node before it makes: the value, the node, its operator.
_OUT_OF_ORDER = re.compile(r"topologically sorted, however input '(.*)' of node:\s+name: ?(.*) OpType: (\w+)", re.I)
#: What counts and steps of operators may be: runtimes divide by them, or by their squares.
_BOUNDS = {
    **dict.fromkeys(("group", "num_groups", "strides", "dilations", "kernel_shape"), (1, 1 << 31)),
    **dict.fromkeys(("num_heads", "q_num_heads", "kv_num_heads", "hidden_size"), (0, 1 << 31)),
    "blocksize": (1, 1 << 15),
}


def read_model(path: Path) -> ModelProto:
    """Parse and check a model file; external data stays where it is. Nodes come in order, however they lie in the file.
    Raises InputError.
    """
    model, _ = _read(path)
    return model


def check_file(path: Path) -> None:
    """Check a file that an exporter wrote; write it again where its nodes are out of order. Raises InputError."""
    model, moved = _read(path)
    if moved:
        path.write_bytes(model.SerializeToString())


def _read(path: Path) -> tuple[ModelProto, bool]:
    """The model, and whether its nodes had to be sorted."""
    if not path.exists():
        raise InputError(f"the model file '{path}' does not exist")
    if not path.is_file():
        raise InputError(f"'{path}' is not a file; give the path of an ONNX model")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"the model file '{path}' cannot be read: {error.strerror}") from error
    model = _parse(data, path)
    check_structure(model, f"'{path}'", path.parent)
    seen = str(path) if external_tensors(model) else without_data(model)  # a file, for its data files are checked, too
    moved = not _passes(seen, f"'{path}'") and _sorted(model, f"'{path}'")
    return model, moved


def data_files(path: Path) -> list[Path]:
    """The files beside a model's own that hold elements of its tensors. Raises InputError."""
    model = _parse(path.read_bytes(), path)
    return sorted({external_file(tensor, path.parent, f"'{path}'")[0] for tensor in external_tensors(model)})


def _parse(data: bytes, path: Path) -> ModelProto:
    if not data:
        raise InputError(f"the model file '{path}' is empty")
    if data[:2] == b"PK" or data[:2] in (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05"):
        raise InputError(f"'{path}' is not an ONNX file: it is a pickle or zip archive, such as torch.save writes")
    try:
        model = ModelProto.FromString(data)
    except DecodeError as error:
        raise InputError(f"'{path}' is not an ONNX file, or it is truncated: {error}") from error
    if not model.ir_version and not model.opset_import:
        raise InputError(f"'{path}' is not an ONNX file: it names neither an IR version nor an operator set")
    return model


def check_structure(model: ModelProto, name: str, folder: Path | None) -> None:
    """Raise InputError for a model without a graph, of an opset too old, or whose external data is not there."""
    if not model.HasField("graph") or not (model.graph.node or model.graph.output):
        raise InputError(f"{name} holds no graph")
    handed_on = {i.name for i in model.graph.input}
    if all(o.name in handed_on for o in model.graph.output):
        raise InputError(f"{name} computes nothing: its outputs are its inputs")
    for opset in model.opset_import:
        if opset.domain in ("", "ai.onnx") and opset.version < OLDEST_OPSET:
            raise InputError(f"{name} uses opset {opset.version}; graphprune reads opset {OLDEST_OPSET} and newer")
    for tensor in external_tensors(model):
        external_file(tensor, folder, name)
    for graph in (model.graph, *model.functions):
        _check_attributes(graph.node, name)


def _check_attributes(nodes: Iterable[onnx.NodeProto], name: str) -> None:
    """Raise InputError for counts and steps that make runtimes divide by zero, which ends the process."""
    for node in nodes:
        for attribute in node.attribute:
            bounds = _BOUNDS.get(attribute.name)
            if bounds is None or attribute.ref_attr_name or node.domain not in ("", "ai.onnx", "com.microsoft"):
                continue
            values = [attribute.i] if attribute.type == onnx.AttributeProto.INT else attribute.ints
            if any(not bounds[0] <= value <= bounds[1] for value in values):
                where = f"the node '{node.name}' ({node.op_type}) of {name}"
                raise InputError(
                    f"{where} has {attribute.name} {list(values)}, which must lie from {bounds[0]} to {bounds[1]}"
                )
        for inner in subgraphs(node):
            _check_attributes(inner.node, name)


def external_tensors(model: ModelProto) -> list[TensorProto]:
    """Every tensor whose elements lie in another file."""
    return [t for t in _tensors(model.graph) if is_external(t)]


def _tensors(graph: onnx.GraphProto) -> list[TensorProto]:
    found = list(graph.initializer)
    for node in graph.node:
        found += [a.t for a in node.attribute if a.type == onnx.AttributeProto.TENSOR]
        for inner in subgraphs(node):
            found += _tensors(inner)
    return found


def check_model(model: ModelProto, name: str) -> ModelProto:
    """Run the onnx checker on a model in memory; return it, or a copy whose nodes are in order. Raises InputError."""
    seen = without_data(model)
    carried = seen.ByteSize() < PROTO_LIMIT and not external_tensors(model)
    if _passes(seen if carried else _light(model), name):
        return model
    if not _sorted(_light(model), name):
        return model
    copy = ModelProto()
    copy.CopyFrom(model)
    put_in_order(copy, name)
    return copy


def _passes(model: ModelProto | str, name: str) -> bool:
    """Whether the checker went to the end: not so where it dislikes an operator, or the order of the nodes, that
    onnxruntime takes all the same. Raises InputError.
    """
    error = _problem(model)
    if error is not None and not tolerated(error) and not _OUT_OF_ORDER.search(str(error)):
        raise InputError(f"{name} is not a valid ONNX model: {first_line(error)}") from error
    return error is None


def _sorted(model: ModelProto, name: str) -> bool:
    """Sort the nodes in place, and check what the checker did not get to; whether any moved. Raises InputError."""
    moved = put_in_order(model, name)
    error = _problem(_light(model))
    if error is not None and not tolerated(error):
        lost = _OUT_OF_ORDER.search(str(error))
        what = f"the node '{lost[2]}' ({lost[3]}) reads '{lost[1]}', which nothing makes" if lost else first_line(error)
        raise InputError(f"{name} is not a valid ONNX model: {what}") from error
    return moved


def _problem(model: ModelProto | str) -> Exception | None:
    try:
        onnx.checker.check_model(model)
    except Exception as error:
        return error
    return None


def _light(model: ModelProto) -> ModelProto:
    """A copy for the checker, which protobuf can carry and which needs no other file: large weights are empty in it."""
    copy = without_weights(model)
    copy.graph.initializer.extend(t if t.ByteSize() < _LARGE else _emptied(t) for t in model.graph.initializer)
    copy.graph.sparse_initializer.extend(model.graph.sparse_initializer)
    for tensor in external_tensors(copy):
        tensor.CopyFrom(_emptied(tensor))
    return copy


def _emptied(tensor: TensorProto) -> TensorProto:
    return TensorProto(name=tensor.name, data_type=tensor.data_type, dims=[0])
