"""The pass that computes what depends on constants only."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from graphprune.ir.graph import Graph, Node, Value, Weight
from graphprune.ops.base import Array

from .base import Pass, register

Evaluate = Callable[[Node, Sequence[Array]], Any]
#: What a node takes in a file, in bytes: its names and its attributes.
_NODE = 64


@register
@dataclass(frozen=True)
class FoldConstants(Pass):
    """Replace nodes that compute something small from constants alone by the constant they compute: arithmetic,
    reshapes, slices, gathers and concatenations whose results take at most `limit` bytes each, and no more than what
    they replace. Parameters that must stay one tensor (torch parameters, matrices) are left alone, so that they keep
    their names and can be trained.
    """

    name: ClassVar[str] = "fold-constants"

    limit: int = 4096

    def run(self, graph: Graph) -> Graph:
        """Compute in topological order, so that one walk finds all; then keep what makes the model no larger."""
        if not self._computed(graph):
            return graph
        work = graph.copy()
        computed = self._computed(work)
        stored = _smaller(work, computed)
        if not stored:
            return graph
        for value in stored:
            value.weight = computed[value]
        work.nodes = [node for node in work.nodes if not any(value in stored for value in node.outputs)]
        return work

    def _computed(self, graph: Graph) -> dict[Value, Weight]:
        """What nodes compute from constants alone, as constants."""
        found: dict[Value, Weight] = {}
        for node in graph.nodes:
            weights = [None if v is None else v.weight or found.get(v) for v in node.inputs]
            array = self._folded(node, weights, graph.outputs)
            if array is not None:
                trainable = any(w is not None and w.trainable for w in weights)
                found[node.outputs[0]] = Weight.of(array, trainable=trainable, tied=False)
        return found

    def _folded(self, node: Node, weights: Sequence[Weight | None], outputs: Sequence[Value]) -> Array | None:
        """The elements of a node's output; None where it stays."""
        evaluate = _TABLE.get(node.kind)
        if evaluate is None or not self._fits(node, weights) or node.outputs[0] in outputs:
            return None
        try:
            arrays = [w.array() for w in weights if w is not None]
            with np.errstate(all="ignore"):
                found = evaluate(node, arrays)
        except (ValueError, TypeError, IndexError, OverflowError):  # operands that no runtime computes with either
            return None
        output = node.outputs[0]
        if found is None or np.shape(found) != output.shape or np.asarray(found).dtype != output.dtype:
            return None
        return np.array(found, output.dtype, order="C")

    def _fits(self, node: Node, weights: Sequence[Weight | None]) -> bool:
        output = node.outputs[0]
        if len(node.outputs) != 1 or output.shape is None or output.dynamic or "take" in node.attrs:
            return False
        if output.dtype.hasobject or int(np.prod(output.shape)) * output.dtype.itemsize > self.limit:
            return False
        return bool(weights) and all(w is not None and not (w.trainable and w.tied) for w in weights)


def _smaller(graph: Graph, computed: Mapping[Value, Weight]) -> set[Value]:
    """Which computed constants are stored: those no larger than what then goes, the node and what only it reads.

    Where a node stays, what it reads is looked at by itself; a result that only stored nodes read goes with them.
    """
    readers = graph.consumers()
    made: dict[Value, float] = {}
    for node in graph.nodes:
        if node.outputs and node.outputs[0] in computed:
            own = {v for v in node.inputs if v is not None and len(set(readers[v])) == 1 and v not in graph.outputs}
            made[node.outputs[0]] = _NODE + sum(_least(v, computed, made) for v in own)
    stored: set[Value] = set()
    needed: set[Value] = set()
    for node in reversed(graph.nodes):
        value = node.outputs[0] if node.outputs else None
        if value is None or value not in computed:
            needed.update(node.reads())
        elif value not in needed or computed[value].stored_bytes <= made[value]:
            stored.add(value)
        else:
            needed.update(node.reads())
    return stored


def _least(value: Value, computed: Mapping[Value, Weight], made: Mapping[Value, float]) -> float:
    """The bytes of a constant in the smaller way."""
    weight = value.weight or computed[value]
    return min(float(weight.stored_bytes), made.get(value, float("inf")))


# Functions without parameters of their own, which `attrs` would not tell of.
_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": np.abs,
    "add": np.add,
    "and": np.logical_and,
    "ceil": np.ceil,
    "cos": np.cos,
    "div": np.divide,
    "dropout": lambda x, *_: x,
    "eq": np.equal,
    "exp": np.exp,
    "floor": np.floor,
    "ge": np.greater_equal,
    "gt": np.greater,
    "identity": lambda x: x,
    "le": np.less_equal,
    "log": np.log,
    "lt": np.less,
    "max": lambda *xs: _chain(np.maximum, xs),
    "min": lambda *xs: _chain(np.minimum, xs),
    "mul": np.multiply,
    "ne": np.not_equal,
    "neg": np.negative,
    "not": np.logical_not,
    "or": np.logical_or,
    "pow": np.power,
    "reciprocal": np.reciprocal,
    "rsqrt": lambda x: np.reciprocal(np.sqrt(x)),
    "sin": np.sin,
    "sqrt": np.sqrt,
    "square": np.square,
    "sub": np.subtract,
    "sum": lambda *xs: _chain(np.add, xs),
    "tanh": np.tanh,
    "where": np.where,
}


def _chain(function: Callable[[Any, Any], Any], arrays: Sequence[Array]) -> Any:
    found: Any = arrays[0]
    for array in arrays[1:]:
        found = function(found, array)
    return found


def _elementwise(node: Node, arrays: Sequence[Array]) -> Any:
    """Where a number or a rounding mode is hidden in the call, nothing is known."""
    fn = node.attrs["fn"]
    if node.attrs.get("scalars") or node.op.endswith("_mode"):
        return None
    if fn == "cast":
        return _cast(arrays[0], node.outputs[0].dtype)
    if fn in ("div", "pow", "reciprocal") and not all(_floating(a) for a in arrays):
        return None  # frameworks differ on whole numbers
    function = _FUNCTIONS.get(fn)
    return None if function is None else function(*arrays)


def _cast(array: Array, dtype: np.dtype[Any]) -> Array | None:
    """Conversions on which all agree: not from floats to whole numbers, nor into a smaller range."""
    if _floating(array) and not _floats(dtype) and dtype != np.bool_:
        return None
    cast = array.astype(dtype)
    return cast if dtype == np.bool_ or np.array_equal(cast.astype(array.dtype), array) or _floating(array) else None


def _floating(array: Array) -> bool:
    return _floats(array.dtype)


def _floats(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or dtype.name == "bfloat16"


def _slice(node: Node, arrays: Sequence[Array]) -> Array:
    index = [slice(None)] * arrays[0].ndim
    for axis, start, stop, step in node.attrs["slices"]:
        index[axis] = slice(start, None if stop < 0 else stop, step)
    return arrays[0][tuple(index)]


def _gather(node: Node, arrays: Sequence[Array]) -> Any:
    indices = node.attrs["indices"]
    return None if indices is None else np.take(arrays[0], indices, axis=node.attrs["axis"])


_TABLE: dict[str, Evaluate] = {
    "elementwise": _elementwise,
    "reshape": lambda node, arrays: arrays[0].reshape(node.outputs[0].sizes),
    "expand": lambda node, arrays: np.broadcast_to(arrays[0], node.outputs[0].sizes),
    "transpose": lambda node, arrays: arrays[0].transpose(node.attrs["perm"]),
    "slice": _slice,
    "select": lambda node, arrays: np.take(arrays[0], node.attrs["index"], axis=node.attrs["axis"]),
    "gather": _gather,
    "concat": lambda node, arrays: np.concatenate(arrays, axis=node.attrs["axis"]),
    "stack": lambda node, arrays: np.stack(arrays, axis=node.attrs["axis"]),
    "tile": lambda node, arrays: np.tile(arrays[0], node.attrs["repeats"]),
}
