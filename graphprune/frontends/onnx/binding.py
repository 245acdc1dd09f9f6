"""Representative sizes for dynamic input axes: two bindings, so that what follows the input can be told apart."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnx import ModelProto, ValueInfoProto

from ...errors import InputError
from .protos import attributes, dims

#: (first size, second size) by role of the axis.
_BATCH, _SPATIAL, _OTHER = (2, 3), (224, 256), (16, 24)

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Bound:
    """An input's shape under both bindings; None where not even the rank is known."""

    shape: Shape | None
    other: Shape | None


#: Sizes by input name, or in the order of the inputs.
InputShapes = Mapping[str, Sequence[int]] | Sequence[Sequence[int]]


def bind(model: ModelProto, input_shapes: InputShapes | None) -> dict[str, Bound]:
    """Bind every graph input that is not an initializer; the same symbol gets the same sizes everywhere."""
    weights = {w.name for w in model.graph.initializer}
    inputs = [i for i in model.graph.input if i.name not in weights]
    given = _by_name(inputs, input_shapes or {})
    for name in given:
        if name not in {i.name for i in inputs}:
            known = ", ".join(f"'{i.name}'" for i in inputs)
            raise InputError(f"a shape was given for '{name}', which is no input of the model (its inputs are {known})")
    symbols: dict[str, tuple[int, int]] = {}
    for info in inputs:
        if info.name in given:
            _check(info, given[info.name])
            _learn(info, given[info.name], symbols)
    channels = _channels(model)
    return {i.name: _bound(i, given.get(i.name), symbols, channels.get(i.name)) for i in inputs}


def _channels(model: ModelProto) -> dict[str, int]:
    """The channel counts that convolutions prescribe for what they read."""
    shapes = {w.name: w.dims for w in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type == "Conv" and len(node.input) > 1 and len(shapes.get(node.input[1], ())) > 1:
            found[node.input[0]] = int(shapes[node.input[1]][1]) * int(attributes(node).get("group", 1))
    return found


def _by_name(inputs: Sequence[ValueInfoProto], given: InputShapes) -> dict[str, Shape]:
    if isinstance(given, Mapping):
        return {name: tuple(int(n) for n in shape) for name, shape in given.items()}
    if len(given) > len(inputs):
        raise InputError(f"{len(given)} input shapes were given, but the model has {len(inputs)} inputs")
    return {info.name: tuple(int(n) for n in shape) for info, shape in zip(inputs, given, strict=False)}


def _check(info: ValueInfoProto, shape: Shape) -> None:
    declared = dims(info)
    fits = declared is None or len(declared) == len(shape)
    fits = fits and all(not isinstance(d, int) or d == n for d, n in zip(declared or [], shape, strict=False))
    if not fits or any(n < 1 for n in shape):
        raise InputError(f"the input '{info.name}' has the shape {declared}, to which {list(shape)} does not fit")


def _pair(size: int, axis: int, rank: int) -> tuple[int, int]:
    """A size given by the user and a second one that a network of the usual strides takes as well."""
    return size, size + (1 if axis == 0 else 32 if rank >= 4 and axis >= 2 else 8)


def _learn(info: ValueInfoProto, shape: Shape, symbols: dict[str, tuple[int, int]]) -> None:
    for axis, (dim, size) in enumerate(zip(dims(info) or [], shape, strict=False)):
        if isinstance(dim, str):
            pair = symbols.setdefault(dim, _pair(size, axis, len(shape)))
            if pair[0] != size:
                raise InputError(f"the size '{dim}' of the model's inputs is given as {pair[0]} and as {size}")


def _bound(
    info: ValueInfoProto, given: Shape | None, symbols: dict[str, tuple[int, int]], channels: int | None
) -> Bound:
    declared = dims(info)
    if declared is None:
        if given is None:
            return Bound(None, None)
        declared = [None] * len(given)
    rank, pairs = len(declared), []
    for axis, dim in enumerate(declared):
        if isinstance(dim, int):
            pairs.append((dim, dim))
            continue
        if axis == 1 and channels is not None and given is None:
            pairs.append((channels, channels))
            continue
        default = _BATCH if axis == 0 else _SPATIAL if rank >= 4 and axis >= 2 else _OTHER
        pair = default if given is None else _pair(given[axis], axis, rank)
        pairs.append(symbols.setdefault(dim, pair) if isinstance(dim, str) else pair)
    return Bound(tuple(a for a, _ in pairs), tuple(b for _, b in pairs))
