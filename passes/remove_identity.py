"""The pass that removes operators which hand their input on unchanged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from graphprune.ir.graph import Graph, Node, Value

from .base import Pass, register

# torch's copies lay the elements out anew, which a view after them may need.
_LAYOUT = frozenset({"aten.clone", "aten.contiguous", "aten.lift_fresh_copy"})


@register
@dataclass(frozen=True)
class RemoveIdentity(Pass):
    """Remove operators that change nothing at inference: identity, dropout, casts to the type a value has already,
    and reshapes, transposes, expansions, slices, pads, concatenations and the like that leave their input as it is.

    One that makes an output of the model stays where the output would become an input, a weight or another output.
    """

    name: ClassVar[str] = "remove-identity"

    def run(self, graph: Graph) -> Graph:
        """Remove all of them."""
        if not any(_does_nothing(node) for node in graph.nodes):
            return graph
        work = graph.copy()
        return work if _sweep(work) else graph


def _sweep(graph: Graph) -> bool:
    """Remove in place; whether anything went."""
    read = graph.consumers()
    computed = {value for node in graph.nodes for value in node.outputs}
    outputs = set(graph.outputs)
    same: dict[Value, Value] = {}
    kept = []
    for node in graph.nodes:
        node.substitute(same)
        x, y = node.inputs[0] if node.inputs else None, node.outputs[0]
        spare = any(v in read or v in outputs for v in node.outputs[1:])
        pinned = y in outputs and (x not in computed or x in outputs)
        if x is None or spare or pinned or not _does_nothing(node):
            kept.append(node)
            continue
        same[y] = x
        if y in outputs:
            outputs = outputs - {y} | {x}
    graph.outputs = [same.get(v, v) for v in graph.outputs]
    removed = len(kept) < len(graph.nodes)
    graph.nodes = kept
    return removed


def _does_nothing(node: Node) -> bool:
    test = _TESTS.get(node.kind)
    x, y = node.inputs[0] if node.inputs else None, node.outputs[0] if node.outputs else None
    if test is None or x is None or y is None or x.dtype != y.dtype or "take" in node.attrs:
        return False
    return x.shape == y.shape and test(node, x, y)


def _elementwise(node: Node, x: Value, y: Value) -> bool:
    """Frontends write a cast to the same type as an identity."""
    return node.attrs["fn"] in ("identity", "dropout") and node.op not in _LAYOUT


def _reshape(node: Node, x: Value, y: Value) -> bool:
    """Equal sizes are no chance where at most one axis, the same on both sides, follows the user's input."""
    return x.shape is not None and x.dynamic == y.dynamic and len(x.dynamic) <= 1


def _expand(node: Node, x: Value, y: Value) -> bool:
    return x.shape is not None and not x.dynamic and not y.dynamic


def _transpose(node: Node, x: Value, y: Value) -> bool:
    return list(node.attrs["perm"]) == sorted(node.attrs["perm"])


def _slice(node: Node, x: Value, y: Value) -> bool:
    """The bounds of an axis that follows the user's input may cut another input."""
    return all(
        axis not in x.dynamic and start == 0 and step == 1 and stop >= x.sizes[axis]
        for axis, start, stop, step in node.attrs["slices"]
    )


def _single(node: Node, x: Value, y: Value) -> bool:
    return len(node.inputs) == 1 and len(node.outputs) == 1


_TESTS: dict[str, Callable[[Node, Value, Value], bool]] = {
    "elementwise": _elementwise,
    "reshape": _reshape,
    "expand": _expand,
    "transpose": _transpose,
    "slice": _slice,
    "pad": lambda node, x, y: not any(before or after for _, before, after in node.attrs["pads"]),
    "concat": _single,
    "split": _single,
    "tile": lambda node, x, y: all(n == 1 for n in node.attrs["repeats"]),
    "repeat_interleave": lambda node, x, y: node.attrs["repeats"] == 1,
    "roll": lambda node, x, y: not any(node.attrs["shifts"]),
    "flip": lambda node, x, y: not node.attrs["axes"],
}
