"""The pass that turns a graph to float16 or bfloat16."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import ml_dtypes
import numpy as np

from graphprune.calibration.samples import read_samples
from graphprune.errors import InputError
from graphprune.ir.graph import Graph, Node, Value, Weight
from graphprune.ops import lookup
from graphprune.ops.base import Array

from .base import Names, Pass, Remark, register
from .support.fp32_regions import find_islands, touches
from .support.ranges import ENDLESS, WIDE, Ranges, measure

#: What fills masks: a number that stands for infinity would become one where the mask is cast.
_FILLS = frozenset({"add", "mul", "sub", "where"})

_TYPES: dict[str, np.dtype[Any]] = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}


@register
@dataclass(frozen=True)
class CastPrecision(Pass):
    """Turn an ONNX graph to `float16` or `bfloat16`, with float32 islands where range or precision demands them:
    exponentials, powers and roots, long sums, norms that sum squares in the type of their input, arithmetic with
    positions, constants out of range, quantised operators, and operators without a kernel of that type in the model's
    operator set. Masks filled with -1e30 and less get the largest finite number instead.

    Which values overflow only data can say: with the calibration data of the file `data` (.npz), what reads or makes a
    value that comes within a factor of `margin` of the largest number of the type stays float32, and so does what sums
    up more than that inside.

    TensorRT 11 has no flag that lets it choose float16: it computes in the types that the graph says. `keep_io` leaves
    inputs and outputs float32, with casts behind and before them; `block` are globs on names of nodes and weights that
    stay float32. A PyTorch module is cast by `module.to`, before it is captured.
    """

    name: ClassVar[str] = "cast-precision"

    to: str = "float16"
    keep_io: bool = True
    block: tuple[str, ...] = ()
    data: str = ""
    margin: float = 2.0

    def __post_init__(self) -> None:
        if not self.margin >= 1:
            raise InputError(f"pass 'cast-precision': 'margin' must be at least 1, not {self.margin:g}")
        if self.to not in _TYPES:
            raise InputError(f"pass 'cast-precision': 'to' must be {' or '.join(_TYPES)}, not '{self.to}'")

    def islands(self, graph: Graph, ranges: Ranges | None = None) -> dict[Node, str]:
        """The nodes that stay float32, each with the reason; `ranges` are what was measured on data."""
        return find_islands(graph, _TYPES[self.to], self.block, ranges, self.margin)

    def run(self, graph: Graph) -> Graph:
        """Cast; raises InputError for what is no ONNX graph, and where no product of the graph could be cast."""
        return self.applied(graph)[0]

    def applied(self, graph: Graph) -> tuple[Graph, list[Remark]]:
        """As `run`; with the islands and their reasons."""
        self._expect_onnx(graph)
        ranges = measure(graph, read_samples(graph, self.data)) if self.data else None
        islands = self.islands(graph, ranges)
        remarks = [Remark(node.name, f"left in float32: {why}") for node, why in islands.items()]
        if ranges is None and self.to == "float16":
            remarks.append(Remark("", "what overflows on data was not measured, for none were given (--data FILE.npz)"))
        return self._cast(graph, islands, ranges), remarks

    def cast(self, graph: Graph, ranges: Ranges | None = None) -> Graph:
        """As `run`, with what was measured on data before."""
        self._expect_onnx(graph)
        return self._cast(graph, self.islands(graph, ranges), ranges)

    def _cast(self, graph: Graph, islands: Mapping[Node, str], ranges: Ranges | None) -> Graph:
        self._expect_products(graph, islands)
        if ranges is not None and not self.keep_io:
            self._expect_ends_in_range(graph, ranges)
        low = {i for i, node in enumerate(graph.nodes) if node not in islands and touches(node)}
        if not low:
            return graph
        return _Caster(graph.copy(), _TYPES[self.to], low, self.keep_io).run()

    def _expect_onnx(self, graph: Graph) -> None:
        if graph.frontend != "onnx":
            raise InputError(f"it casts ONNX graphs; capture module.to(torch.{self.to}) for a PyTorch module")

    def _expect_ends_in_range(self, graph: Graph, ranges: Ranges) -> None:
        largest = float(ml_dtypes.finfo(_TYPES[self.to]).max)  # type: ignore[no-untyped-call]
        for value in (*graph.inputs, *graph.outputs):
            size = ranges.values.get(value.name, 0.0)
            if size > largest:
                raise InputError(f"'{value.name}' reaches {size:.3g} on the data, which {self.to} cannot hold: keep-io")

    def _expect_products(self, graph: Graph, islands: Mapping[Node, str]) -> None:
        """A graph whose products silently stay in float32 is the classic mistake."""
        products = [node for node in graph.nodes if any(lookup(own.kind).contracts for own in _with_bodies(node))]
        if products and all(node in islands for node in products):
            first = f"'{products[0].name}': {islands[products[0]]}"
            raise InputError(f"no product of '{graph.name}' can be cast to {self.to}; the first, {first}")


def _with_bodies(node: Node) -> Iterator[Node]:
    yield node
    for body in node.bodies:
        yield from body.flat_nodes


class _Caster:
    """Casts the nodes numbered `low` of a copy of a graph, in order, and puts casts where types meet."""

    def __init__(self, work: Graph, dtype: np.dtype[Any], low: set[int], keep_io: bool) -> None:
        self._work, self._dtype, self._low, self._keep_io = work, dtype, low, keep_io
        self._wide = {value for value in work.values() if value.dtype == WIDE}
        self._names = Names(work)
        self._made: dict[tuple[Value, np.dtype[Any]], Value] = {}
        self._nodes: list[Node] = []

    def run(self) -> Graph:
        work, nodes = self._work, self._work.nodes
        if not self._keep_io:
            for value in self._wide.intersection(work.inputs):
                value.dtype = self._dtype
        for i, node in enumerate(nodes):
            self._cast(node, i in self._low)
        outputs = self._dtype if not self._keep_io else WIDE
        work.outputs = [self._as(value, outputs) if value in self._wide else value for value in work.outputs]
        work.nodes = self._nodes
        self._take_names()
        return work

    def _cast(self, node: Node, low: bool) -> None:
        wanted = self._dtype if low else WIDE
        node.substitute({value: self._as(value, wanted) for value in node.reads() if value in self._wide})
        if not low and node.attrs.get("fn") in _FILLS:
            node.substitute({value: self._finite(value) for value in node.inputs if value is not None})
        if low:
            for value in self._wide.intersection(node.outputs):
                value.dtype = self._dtype
        self._nodes.append(node)

    def _as(self, value: Value, dtype: np.dtype[Any]) -> Value:
        """The value in a type: itself, a constant of that type, or what a cast makes."""
        if value.dtype == dtype:
            return value
        if (value, dtype) not in self._made:
            made = Value(self._names.fresh(f"{value.name}::{dtype.name}"), value.shape, dtype, value.dynamic)
            if value.weight is not None and value.weight.plain:
                made.weight = _converted(value.weight, dtype)
            else:
                self._nodes.append(Node("elementwise", f"{made.name}::cast", [value], [made], {"fn": "cast"}, "Cast"))
            self._made[value, dtype] = made
        return self._made[value, dtype]

    def _finite(self, value: Value) -> Value:
        """The value itself, or a constant that stands for infinity as the new type can hold it."""
        weight = value.weight
        if value.dtype != WIDE or weight is None or not weight.plain or not _endless(weight.array()).any():
            return value
        if (value, WIDE) not in self._made:
            made = Value(self._names.fresh(f"{value.name}::finite"), value.shape, WIDE, value.dynamic)
            array = _rounded(weight.array(), self._dtype, WIDE)
            made.weight = Weight.of(array, trainable=weight.trainable, tied=weight.tied)
            self._made[value, WIDE] = made
        return self._made[value, WIDE]

    def _take_names(self) -> None:
        """A constant that is only read in its new type keeps its name."""
        left = self._work.weights()
        for (value, _), made in self._made.items():
            if made.weight is not None and value.name not in left:
                made.name, made.label = value.name, value.label


def _converted(weight: Weight, dtype: np.dtype[Any]) -> Weight:
    def read() -> Array:
        return _rounded(weight.array(), dtype)

    if weight.lazy:
        return Weight(weight.shape, dtype, read, trainable=weight.trainable, tied=weight.tied, lazy=True)
    return Weight.of(read(), trainable=weight.trainable, tied=weight.tied)


def _endless(array: Array) -> Array:
    """Which elements stand for infinity."""
    found: Array = np.isfinite(array) & (np.abs(array) >= ENDLESS)
    return found


def _rounded(array: Array, dtype: np.dtype[Any], held: np.dtype[Any] | None = None) -> Array:
    """In fewer bits, or `held` in as many; what stands for infinity becomes the largest finite number of `dtype`."""
    largest = np.float32(ml_dtypes.finfo(dtype).max)  # type: ignore[no-untyped-call]
    found: Array = np.where(_endless(array), np.copysign(largest, array), array).astype(held or dtype)
    return found
