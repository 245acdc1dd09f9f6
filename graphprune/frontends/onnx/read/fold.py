"""Small constants computed at load time, element by element aware of what follows the user's input.

A `Small` is a tensor of at most `LIMIT` elements with its value under two bindings of the dynamic sizes and, for each
element, whether it depends on them. Operators that only move elements move that mark with them, so that the fixed
entries of a computed shape stay known as fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from onnx import NodeProto, OperatorSetIdProto, helper
from onnx.reference import ReferenceEvaluator

from ..protos import attributes
from ..tensors import inline_array, numpy_dtype

#: Larger tensors are not evaluated while loading.
LIMIT = 10_000

Array = np.ndarray


@dataclass(frozen=True)
class Small:
    """A known small tensor: its value under both bindings, and which elements follow the user's input."""

    value: Array
    other: Array
    follows: Array

    @classmethod
    def fixed(cls, value: Array) -> Small:
        """A value that depends on no dynamic size."""
        return cls(value, value, np.zeros(value.shape, bool))

    @property
    def static(self) -> bool:
        """Whether no element follows the user's input."""
        return not self.follows.any()


def _divide(a: Array, b: Array) -> Array:
    if a.dtype.kind in "iu":
        quotient: Array = np.abs(a) // np.abs(b) * np.sign(a) * np.sign(b)
        return quotient.astype(a.dtype)
    return np.asarray(a / b)


def _mod(a: Array, b: Array, fmod: int = 0) -> Array:
    return np.asarray(np.fmod(a, b) if fmod else np.mod(a, b))


def _cast(a: Array, to: int) -> Array:
    return a.astype(numpy_dtype(to))


def _where(condition: Array, a: Array, b: Array) -> Array:
    return np.where(condition, a, b)


def _many(fn: Callable[[Array, Array], Array]) -> Callable[..., Array]:
    def run(*operands: Array) -> Array:
        total = operands[0]
        for operand in operands[1:]:
            total = fn(total, operand)
        return total

    return run


#: Index by index, with numpy broadcasting: (function of the operands, attributes it takes).
_POINTWISE: dict[str, tuple[Callable[..., Any], tuple[str, ...]]] = {
    "Add": (np.add, ()),
    "Sub": (np.subtract, ()),
    "Mul": (np.multiply, ()),
    "Div": (_divide, ()),
    "Mod": (_mod, ("fmod",)),
    "Pow": (lambda a, b: np.power(a, b).astype(a.dtype), ()),
    "Neg": (np.negative, ()),
    "Abs": (np.abs, ()),
    "Sqrt": (np.sqrt, ()),
    "Floor": (np.floor, ()),
    "Ceil": (np.ceil, ()),
    "Min": (_many(np.minimum), ()),
    "Max": (_many(np.maximum), ()),
    "Sum": (_many(np.add), ()),
    "Equal": (np.equal, ()),
    "Less": (np.less, ()),
    "LessOrEqual": (np.less_equal, ()),
    "Greater": (np.greater, ()),
    "GreaterOrEqual": (np.greater_equal, ()),
    "And": (np.logical_and, ()),
    "Or": (np.logical_or, ()),
    "Not": (np.logical_not, ()),
    "Where": (_where, ()),
    "Cast": (_cast, ("to",)),
    "Identity": (lambda a: a, ()),
}


def _ints(array: Array | None) -> list[int] | None:
    return None if array is None else [int(n) for n in array.reshape(-1)]


def _axes(data: Array, attrs: dict[str, Any], extra: Sequence[Array | None]) -> list[int] | None:
    given = _ints(extra[0]) if extra and extra[0] is not None else attrs.get("axes")
    return None if given is None else [int(a) for a in given]


def _squeeze(data: Array, attrs: dict[str, Any], *extra: Array | None) -> Array:
    axes = _axes(data, attrs, extra)
    return np.squeeze(data, tuple(axes) if axes is not None else None)


def _unsqueeze(data: Array, attrs: dict[str, Any], *extra: Array | None) -> Array:
    return np.expand_dims(data, tuple(_axes(data, attrs, extra) or ()))


def _gather(data: Array, attrs: dict[str, Any], indices: Array) -> Array:
    return np.take(data, indices, axis=attrs.get("axis", 0))


def _slice(data: Array, attrs: dict[str, Any], *extra: Array | None) -> Array:
    params = [_ints(e) for e in extra] + [None] * 4
    starts = params[0] if params[0] is not None else attrs["starts"]
    ends = params[1] if params[1] is not None else attrs["ends"]
    axes = params[2] if params[2] is not None else attrs.get("axes") or list(range(len(starts)))
    steps = params[3] or [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        data = np.take(data, range(data.shape[axis])[start:end:step], axis=axis)
    return data


def _reshape(data: Array, attrs: dict[str, Any], *extra: Array | None) -> Array:
    target = _ints(extra[0]) if extra and extra[0] is not None else attrs["shape"]
    if not attrs.get("allowzero"):
        target = [data.shape[i] if n == 0 else n for i, n in enumerate(target or [])]
    return data.reshape(target)


def _transpose(data: Array, attrs: dict[str, Any]) -> Array:
    return data.transpose(attrs.get("perm"))


def _expand(data: Array, attrs: dict[str, Any], shape: Array) -> Array:
    return np.broadcast_to(data, np.broadcast_shapes(data.shape, tuple(_ints(shape) or ())))


def _tile(data: Array, attrs: dict[str, Any], repeats: Array) -> Array:
    return np.tile(data, _ints(repeats) or [])


def _flatten(data: Array, attrs: dict[str, Any]) -> Array:
    axis = attrs.get("axis", 1)
    return data.reshape(int(np.prod(data.shape[:axis], dtype=np.int64)), -1)


#: Operators that move elements of input 0; the other inputs only say how.
_MOVES: dict[str, Callable[..., Array]] = {
    "Squeeze": _squeeze,
    "Unsqueeze": _unsqueeze,
    "Gather": _gather,
    "Slice": _slice,
    "Reshape": _reshape,
    "Transpose": _transpose,
    "Expand": _expand,
    "Tile": _tile,
    "Flatten": _flatten,
}


def _moved(node: NodeProto, attrs: dict[str, Any], inputs: list[Small | None]) -> list[Small] | None:
    data, how = inputs[0], inputs[1:]
    if data is None:
        return None
    move = _MOVES[node.op_type]
    value = move(data.value, attrs, *(None if h is None else h.value for h in how))
    if all(h is None or h.static for h in how):
        again = [None if h is None else h.value for h in how]
        return [Small(value, move(data.other, attrs, *again), move(data.follows, attrs, *again))]
    other = move(data.other, attrs, *(None if h is None else h.other for h in how))
    return [Small(value, other, np.ones(value.shape, bool))]


def _joined(attrs: dict[str, Any], inputs: list[Small]) -> list[Small]:
    def join(arrays: list[Array]) -> Array:
        return np.concatenate(arrays, axis=attrs.get("axis", 0))

    return [Small(join([i.value for i in inputs]), join([i.other for i in inputs]), join([i.follows for i in inputs]))]


def _pointwise(node: NodeProto, attrs: dict[str, Any], inputs: list[Small]) -> list[Small]:
    fn, names = _POINTWISE[node.op_type]
    given = {name: attrs[name] for name in names if name in attrs}
    value = np.asarray(fn(*(i.value for i in inputs), **given))
    other = np.asarray(fn(*(i.other for i in inputs), **given))
    follows = np.broadcast_to(_many(np.logical_or)(*(i.follows for i in inputs)), value.shape)
    return [Small(value, other, follows)]


def reference(node: NodeProto, inputs: Sequence[Array | None], opsets: Sequence[OperatorSetIdProto]) -> list[Array]:
    """Run one node with the onnx package's reference implementation."""
    names = [name for name in dict.fromkeys(node.input) if name]
    graph = helper.make_graph(
        [node],
        "fold",
        [helper.make_empty_tensor_value_info(name) for name in names],
        [helper.make_empty_tensor_value_info(name) for name in node.output if name],
    )
    model = helper.make_model(graph, opset_imports=opsets)
    feeds = {name: array for name, array in zip(node.input, inputs, strict=True) if name}
    return [np.asarray(out) for out in ReferenceEvaluator(model).run(None, feeds)]


def _referenced(node: NodeProto, inputs: list[Small | None], opsets: Sequence[OperatorSetIdProto]) -> list[Small]:
    values = reference(node, [None if i is None else i.value for i in inputs], opsets)
    if all(i is None or i.static for i in inputs):
        return [Small.fixed(value) for value in values]
    others = reference(node, [None if i is None else i.other for i in inputs], opsets)
    return [Small(a, b, np.ones(a.shape, bool)) for a, b in zip(values, others, strict=True)]


def evaluate(
    node: NodeProto, inputs: list[Small | None], opsets: Sequence[OperatorSetIdProto], limit: int = LIMIT
) -> list[Small] | None:
    """The node's outputs for known inputs (None: input absent), or None where it cannot or should not be evaluated."""
    attrs = attributes(node)
    try:
        with np.errstate(all="ignore"):
            if node.op_type == "Constant" or _random(node, inputs):
                return None
            if node.op_type == "ConstantOfShape":
                found = _filled(attrs, inputs[0], limit)
            elif node.op_type in _POINTWISE and all(i is not None for i in inputs):
                found = _pointwise(node, attrs, [i for i in inputs if i is not None])
            elif node.op_type in _MOVES:
                found = _moved(node, attrs, inputs)
            elif node.op_type == "Concat":
                found = _joined(attrs, [i for i in inputs if i is not None])
            else:
                found = _referenced(node, inputs, opsets)
    except Exception:  # whatever cannot be evaluated stays a node
        return None
    return found if found is not None and all(_usable(s, limit) for s in found) else None


def _usable(small: Small, limit: int) -> bool:
    """Whether a value is small and of a type that numpy has (a cast to no such type makes objects)."""
    return max(small.value.size, small.other.size) <= limit and small.value.dtype != object


def _random(node: NodeProto, inputs: list[Small | None]) -> bool:
    """Whether a node gives other numbers each time; Dropout does where it is told to."""
    if node.op_type == "Dropout":
        told = inputs[2] if len(inputs) > 2 else None
        return told is not None and bool(told.value.any())
    return node.op_type.startswith(("Random", "Multinomial", "Bernoulli"))


def _filled(attrs: dict[str, Any], shape: Small | None, limit: int) -> list[Small] | None:
    if shape is None or max(np.prod(shape.value), np.prod(shape.other)) > limit:
        return None
    fill = inline_array(attrs["value"]).reshape(()) if "value" in attrs else np.float32(0)
    value, other = (np.full([int(n) for n in s], fill) for s in (shape.value, shape.other))
    return [Small(value, other, np.full(value.shape, not shape.static))]
