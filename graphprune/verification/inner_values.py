"""Values just before the outputs, for models whose outputs say nothing: saturated, counted, sorted or cut off.

The last contractions before an output are there in both models, sliced as the choice says, and what comes after them
has hardly a weight of its own.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from math import prod

from graphprune.ir.graph import Graph, Node, Value
from graphprune.ops import inner, lookup

from .sides import Sides

#: Values that are looked at before one output, and their elements.
_MOST, _MOST_ELEMENTS = 24, 1 << 26

#: Operators whose results jump where their inputs hardly change.
_JUMPS = frozenset({
    *("topk", "sort", "one_hot", "unknown", "argmax", "argmin", "round", "floor", "ceil", "sign"),
    *("greater", "less", "greater_equal", "less_equal", "gt", "lt", "ge", "le"),
})  # fmt: skip


@dataclass(frozen=True)
class Taps:
    """The values before one output. `whole` says that whatever can be wrong shows in them."""

    values: list[Value]
    whole: bool


def taps_before(graph: Graph, output: Value, sides: Sides) -> Taps:
    """The nearest values before an output that were multiplied with something, or with what the choice cut."""
    makers = graph.producers()
    found: dict[Value, None] = {}
    queue, seen = deque([output]), {output}
    while queue:
        value = queue.popleft()
        node = makers.get(value)
        if node is None:
            continue
        if _stops(node, sides):
            found[value] = None
            continue
        fresh = [read for read in node.reads() if read not in seen and read.weight is None]
        seen.update(fresh)
        queue.extend(fresh)
    size = sum(prod(value.sizes) for value in found if value.shape is not None)
    told = output not in found and all(v.shape is not None and sides.splits(v) for v in found)
    return Taps(list(found), told and len(found) <= _MOST and size <= _MOST_ELEMENTS)


def _stops(node: Node, sides: Sides) -> bool:
    """Whether a node contracts, or reads a weight that lost something."""
    return _contracts(node) or any(v.weight is not None and sides.touches(v) for v in node.reads())


def _contracts(node: Node) -> bool:
    kinds = (lookup(step.kind) for step in inner(node))
    return bool(node.bodies) or any(kind.contracts or kind.recurs for kind in kinds)


def contracting(graph: Graph, value: Value) -> str:
    """The name of the weight that makes a value; empty where there is none."""
    node = graph.producers()[value]
    return next((v.name for v in node.reads() if v.weight is not None and v.rank > 1), "")


def jumps(graph: Graph, output: Value) -> bool:
    """Whether an operator before an output may change it by much where its own input hardly changes."""
    makers = graph.producers()
    queue, seen = deque([output]), {output}
    while queue:
        node = makers.get(queue.popleft())
        if node is None or _contracts(node):
            continue
        if node.kind in _JUMPS or node.attrs.get("fn") in _JUMPS:
            return True
        queue.extend(v for v in node.reads() if v not in seen)
        seen.update(node.reads())
    return False
