"""Where a graph must stay float32 when the rest of it is cast to fewer bits: operators, ranges, positions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import ml_dtypes
import numpy as np

from graphprune import frontends
from graphprune.ir.graph import Graph, Node, Value
from graphprune.ops import lookup
from graphprune.ops.base import Array
from graphprune.pruning.selection import matches

from .ranges import ENDLESS, WIDE, Ranges

#: Functions that leave the range of float16, or lose what matters in it, on inputs that fit: those that
#: `torch.amp.autocast` runs in float32 (torch's list of ops that autocast to float32), and the root that follows a
#: variance.
_FUNCTIONS = frozenset(
    "acos asin atanh acosh cos cosh exp log mod pow reciprocal rsqrt sin sinh softplus sqrt square tan".split()
)
_SUMS = frozenset({"mean", "sum", "prod", "l1", "l2", "sumsq", "var", "std", "logsumexp"})
_KINDS = {
    "cumsum": "running sums may overflow",
    "group_norm": "its squares are summed in the type of its input",
    "instance_norm": "its squares are summed in the type of its input",
}
#: Operators that share a kind with others which need no more range.
_POWERS = frozenset({"LRN", "LpNormalization", "LpPool", "GlobalLpPool"})
#: What moves elements or works on each: between two islands it stays in float32, for casts would cost more.
_LIGHT = frozenset(
    (
        "elementwise spatial reshape transpose expand tile slice select gather split unbind concat stack flip roll"
        " repeat_interleave"
    ).split()
)
#: Functions whose results are small whatever goes in: positions end here.
_BOUNDED = frozenset("sin cos tanh sigmoid erf sign".split())


def find_islands(
    graph: Graph, dtype: np.dtype[Any], block: Sequence[str] = (), ranges: Ranges | None = None, margin: float = 1.0
) -> dict[Node, str]:
    """Every node that touches float32 and must go on doing so, with the reason.

    `block` are globs on names of nodes and weights, `ranges` what was measured on calibration data: what comes by less
    than a factor of `margin` near the type's largest number stays as well.
    """
    finder = _Finder(graph, dtype, block, ranges or Ranges(), margin)
    found = {node: why for node in graph.nodes if touches(node) and (why := finder.reason(node))}
    return {**found, **_between(graph, found)}


def touches(node: Node) -> bool:
    """Whether the node reads or makes anything in float32."""
    return any(value.dtype == WIDE for value in (*node.reads(), *node.outputs))


class _Finder:
    """Knows what was found out about values that several nodes read; asked node by node in topological order."""

    def __init__(self, graph: Graph, dtype: np.dtype[Any], block: Sequence[str], ranges: Ranges, margin: float) -> None:
        self._graph, self._dtype, self._block = graph, dtype, block
        self._ranges, self._margin = ranges, margin
        limits = ml_dtypes.finfo(dtype)  # type: ignore[no-untyped-call]
        self._largest, self._smallest = float(limits.max), float(limits.smallest_normal)
        self._counted: set[Value] = set()
        self._decoded = {v for node in graph.nodes if node.attrs.get("fn") == "dequantize" for v in node.outputs}
        self._constants: dict[Value, str] = {}

    def reason(self, node: Node) -> str:
        """Why the node stays in float32; empty where it need not."""
        read = [value for value in node.inputs if value is not None and value.dtype == WIDE]
        counts = self._counts(node, read)  # first of all: it remembers what the node makes
        if not read and not node.bodies:
            return "nothing that it reads is float32"
        return (
            self._structure(node, read)
            or self._peak(node)
            or self._sum(node)
            or _function(node)
            or counts
            or next((why for value in read if (why := self._constant(value))), "")
            or self._type(node)
        )

    def _structure(self, node: Node, read: Sequence[Value]) -> str:
        names = {node.name, *(v.name for v in read if v.weight is not None), *(v.shown for v in read if v.weight)}
        if matches(names, self._block):
            return "the user left it out"
        if node.bodies:
            return "its bodies stay as they are"
        wide = any(value.dtype == WIDE for value in node.outputs)
        if node.kind == "unknown" or (node.kind == "shape_math" and wide):  # what reads only sizes takes any type
            return f"what {node.op} computes is not known"
        values = [value for value in (*node.inputs, *node.outputs) if value is not None]
        if any(_small_integers(value) or value in self._decoded for value in values):
            return "it is quantised"  # casts would come between the product and its Q/DQ nodes
        others = {value.dtype.name for value in values if value.dtype.kind in "fV"} - {WIDE.name}
        return f"it also works in {min(others)}" if others else ""

    def _constant(self, value: Value) -> str:
        """What of a constant the type cannot hold."""
        if value.weight is None:
            return ""
        if value not in self._constants:
            self._constants[value] = self._looked_at(value.weight.array(), value.shown)
        return self._constants[value]

    def _looked_at(self, array: Array, name: str) -> str:
        if not array.size:
            return ""
        sizes = np.abs(array[np.isfinite(array)])
        large = float(sizes[sizes < ENDLESS].max(initial=0.0))
        if large > self._largest:
            return f"the constant '{name}' reaches {large:.3g}"
        if array.size == 1 and 0 < large < self._smallest:
            return f"the constant '{name}' is as small as {large:.3g}"
        return ""

    def _peak(self, node: Node) -> str:
        """A value that it reads or makes, and the data bring out of range."""
        names = [v.name for v in (*node.inputs, *node.outputs) if v is not None and v.dtype == WIDE]
        name = max(names, key=lambda name: self._ranges.values.get(name, 0.0))
        return self._near(f"'{name}'", self._ranges.values.get(name, 0.0))

    def _sum(self, node: Node) -> str:
        """A sum that it takes in the type of its input, and the data bring out of range."""
        size = max((self._ranges.sums.get(value.name, 0.0) for value in node.outputs), default=0.0)
        return self._near("a sum inside", size)

    def _near(self, what: str, size: float) -> str:
        if size * self._margin <= self._largest:
            return ""
        limit = "" if size > self._largest else f", within a factor of {self._margin:g} of the largest number"
        return f"{what} reaches {size:.3g} on the data{limit}"

    def _type(self, node: Node) -> str:
        if frontends.of(self._graph).computes_in(self._graph, node, self._dtype):
            return ""
        return f"{node.op} does not compute in {self._dtype.name}, or not in this version of the operators"

    def _counts(self, node: Node, read: Sequence[Value]) -> str:
        """Positions and counts, cast from integers: few bits cannot tell large ones apart.

        They go on through arithmetic among themselves and with constants, until they meet data, or a sum of products.
        """
        fn = node.attrs.get("fn")
        if fn == "cast":
            wide = [v for v in node.inputs if v is not None and v.dtype.kind in "iu" and v.dtype.itemsize > 1]
            if wide and node.outputs[0].dtype == WIDE:
                self._counted.add(node.outputs[0])
            return ""
        computed = [value for value in read if value.weight is None]
        if not computed or not self._counted.issuperset(computed) or _contracts(node):
            return ""
        if fn not in _BOUNDED:
            self._counted.update(value for value in node.outputs if value.dtype == WIDE)
        return "it computes with positions or counts"


def _small_integers(value: Value) -> bool:
    quantised = value.weight is not None and not value.weight.plain
    return quantised or (value.dtype.itemsize == 1 and value.dtype.kind in "iuV")


def _function(node: Node) -> str:
    """Why the operator as such stays in float32."""
    fn = node.attrs.get("fn")
    if node.kind == "elementwise" and fn in _FUNCTIONS:
        return f"{fn} may leave the range"
    if node.kind == "elementwise" and fn == "mul" and node.inputs[0] is node.inputs[1]:
        return "a square may overflow"
    if node.kind == "reduce" and fn in _SUMS:
        return "sums may overflow"
    if node.op in _POWERS:
        return "it sums powers in the type of its input"
    return _KINDS.get(node.kind, "")


def _contracts(node: Node) -> bool:
    """Whether the node sums products: over more than one index, so that an outer product does not count."""
    rule = lookup(node.kind).contracts
    if rule is None:
        return False
    weights = ((node.inputs[how.weight], how.axis) for how in rule(node))
    return any(value is not None and value.sizes[axis] > 1 for value, axis in weights)


def _between(graph: Graph, islands: Mapping[Node, str]) -> dict[Node, str]:
    """Nodes without products that read what islands make and make what islands read."""
    carried: set[Value] = set()
    movers = []
    for node in graph.nodes:
        computed = [v for v in node.inputs if v is not None and v.weight is None and v.dtype == WIDE]
        moves = node.kind in _LIGHT and bool(computed) and carried.issuperset(computed)
        if moves and node not in islands:
            movers.append(node)
        if moves or node in islands:
            carried.update(node.outputs)
    consumers, found, outputs = graph.consumers(), {}, set(graph.outputs)
    for node in reversed(movers):
        readers = [reader for value in node.outputs for reader in consumers.get(value, [])]
        inside = all(reader in islands or reader in found for reader in readers)
        if readers and inside and outputs.isdisjoint(node.outputs):
            found[node] = "it lies between operators that stay in float32"
    return found
