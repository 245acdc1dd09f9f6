"""Positions, patches and control flow: what few networks have. `TorchRare` runs it, `OnnxRare` also writes it down."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import onnx
import torch
import torch.nn.functional as F  # noqa: N812
from onnx import TensorProto, helper, numpy_helper

from tests.ops import examples_position  # noqa: F401  (registers the grouped product)

from .backends import Named
from .more_operators import OnnxMore, TorchMore

_TYPES = {torch.float32: TensorProto.FLOAT, torch.int64: TensorProto.INT64, torch.bool: TensorProto.BOOL}
Body = Callable[..., Sequence[Any]]


class TorchRare(TorchMore):
    """Loops are unrolled; a branch computes both ways and takes one."""

    def best(self, x: Any, axis: int, k: int) -> tuple[Any, Any]:
        """The largest k along an axis and where they are."""
        values, ids = torch.topk(x, k, axis)
        return values, ids

    def argmax(self, x: Any, axis: int, keep: bool) -> Any:
        return torch.argmax(x, axis, keepdim=keep)

    def take_along(self, x: Any, ids: Any, axis: int) -> Any:
        return torch.gather(x, axis, ids)

    def scatter_along(self, x: Any, ids: Any, source: Any, axis: int) -> Any:
        return torch.scatter(x, axis, ids, source)

    def one_hot(self, ids: Any, classes: int) -> Any:
        return F.one_hot(ids, classes).to(torch.float32)

    def rows(self, table: Any, ids: Any) -> Any:
        """`table[ids]`, by computed positions of any rank."""
        return table[ids]

    def cells(self, table: Any, rows: np.ndarray, columns: np.ndarray) -> Any:
        """`table[rows, columns]` by constant positions."""
        return table[torch.from_numpy(rows), torch.from_numpy(columns)]

    def each_row(self, x: Any, ids: Any) -> Any:
        """`x[i, ids[i]]`: one entry of axis 1 for each of axis 0."""
        return x[torch.arange(x.shape[0]), ids]

    def fill_rows(self, x: Any, places: Sequence[int], source: Any) -> Any:
        """Entries of axis 1 overwritten by those of `source`, one after the other."""
        mask = torch.zeros(x.shape[1], dtype=torch.bool)
        mask[list(places)] = True
        return x.masked_scatter(mask.reshape(1, -1, 1).expand(x.shape[0], -1, 1), source)

    def by_expert(self, x: Any, ids: Any, up: Any, down: Any) -> Any:
        """Each row of `x` times the two matrices of its expert; rows are sorted by expert and multiplied in one go."""
        chosen, order = torch.sort(ids)
        count = up.shape[0]
        ends = torch.histc(chosen.float(), count, 0, count - 1).cumsum(0, dtype=torch.int32)
        product = torch.ops.examples.grouped_mm_fallback
        y = product(F.relu(product(x[order], up, ends)), down, ends)
        back = torch.empty_like(order)
        back[order] = torch.arange(len(order))
        return y[back]

    def in_order(self, x: Any, axis: int) -> Any:
        return torch.sort(x, axis)[0]

    def local_norm(self, x: Any) -> Any:
        """Each channel by those next to it."""
        return F.local_response_norm(x, 3, alpha=0.3, k=1.0)

    def window(self, x: Any, axis: int, size: int) -> Any:
        """Sliding windows, their positions on a new last axis."""
        return x.unfold(axis, size, 1)

    def fold(self, columns: Any, height: int, width: int) -> Any:
        """The reverse of `unfold`: what lies at one place is added up."""
        return F.fold(columns, (height, width), 3, padding=1)

    def branch(self, condition: Any, then: Callable[[], Any], other: Callable[[], Any], local: bool = False) -> Any:
        """One of two values, by whether the elements of `condition` add up to more than zero."""
        return torch.where(condition.sum() > 0, then(), other())

    def loop(self, times: int, states: Sequence[Any], body: Body, collect: int, local: bool = False) -> list[Any]:
        """States after some rounds, then what each round makes besides, stacked in front."""
        return self._rounds(times, states, lambda i, *held: body(*held), collect, 0)

    def scan(
        self, states: Sequence[Any], x: Any, axis: int, body: Body, collect: int, local: bool = False
    ) -> list[Any]:
        """The same, over an axis of `x`; what is collected is stacked along that axis."""
        return self._rounds(x.shape[axis], states, lambda i, *held: body(*held, x.select(axis, i)), collect, axis)

    def _rounds(self, times: int, states: Sequence[Any], body: Body, collect: int, axis: int) -> list[Any]:
        held, kept, first = list(states), [], self._count
        for i in range(times):
            self._count = first  # each round has the same weights
            made = list(body(i, *held))
            held = made[: len(states)]
            kept.append(made[len(states) :])
        return held + [torch.stack([each[i] for each in kept], axis) for i in range(collect)]


class OnnxRare(OnnxMore, TorchRare):
    """`local` puts the weights that a body makes into the body's own graph."""

    def best(self, x: Any, axis: int, k: int) -> tuple[Any, Any]:
        values, ids = torch.topk(x.tensor, k, axis)
        first, second = self._nodes("TopK", [x, self._integers(k)], [values, ids], axis=axis)
        return first, second

    def argmax(self, x: Any, axis: int, keep: bool) -> Any:
        return self._node("ArgMax", [x], torch.argmax(x.tensor, axis, keepdim=keep), axis=axis, keepdims=int(keep))

    def take_along(self, x: Any, ids: Any, axis: int) -> Any:
        return self._node("GatherElements", [x, ids], x.tensor.gather(axis, ids.tensor), axis=axis)

    def scatter_along(self, x: Any, ids: Any, source: Any, axis: int) -> Any:
        made = x.tensor.scatter(axis, ids.tensor, source.tensor)
        return self._node("ScatterElements", [x, ids, source], made, axis=axis)

    def one_hot(self, ids: Any, classes: int) -> Any:
        values = self._initializer("off_on", torch.tensor([0.0, 1.0]))
        return self._node(
            "OneHot", [ids, self._integers(classes), values], super().one_hot(ids.tensor, classes), axis=-1
        )

    def rows(self, table: Any, ids: Any) -> Any:
        return self._node("Gather", [table, ids], table.tensor[ids.tensor], axis=0)

    def cells(self, table: Any, rows: np.ndarray, columns: np.ndarray) -> Any:
        high, wide, *rest = self.shape(table)
        return self.table(super(OnnxMore, self).reshape(table, (high * wide, *rest)), 0, rows * wide + columns)

    def each_row(self, x: Any, ids: Any) -> Any:
        n, _, c = self.shape(x)
        taken = self.take_along(x, self.expand(self.reshape(ids, (n, 1, 1)), (n, 1, c)), 1)
        return self.reshape(taken, (n, c))

    def fill_rows(self, x: Any, places: Sequence[int], source: Any) -> Any:
        data, rows = (self.transpose(v, (1, 0, 2)) for v in (x, source))
        made = data.tensor.clone()
        made[list(places)] = rows.tensor
        name = f"places{len(self.initializers)}"
        self.initializers[name] = numpy_helper.from_array(np.array(places, np.int64)[:, None], name)
        return self.transpose(self._node("ScatterND", [data, name, rows], made), (1, 0, 2))

    def by_expert(self, x: Any, ids: Any, up: Any, down: Any) -> Any:
        """Rows of weights looked up for each row of data."""
        many, c = self.shape(x)
        y = self.matmul(self.reshape(x, (many, 1, c)), self.rows(up, ids))
        return self.reshape(self.matmul(self.unary("relu", y), self.rows(down, ids)), (many, c))

    def in_order(self, x: Any, axis: int) -> Any:
        size = x.tensor.shape[axis]
        made = list(torch.topk(x.tensor, size, axis, largest=False))
        return self._nodes("TopK", [x, self._integers(size)], made, axis=axis, largest=0)[0]

    def local_norm(self, x: Any) -> Any:
        return self._node("LRN", [x], super().local_norm(x.tensor), size=3, alpha=0.3, beta=0.75, bias=1.0)

    def window(self, x: Any, axis: int, size: int) -> Any:
        count = self.shape(x)[axis] - size + 1
        return self.stack([self.slice(x, axis, i, i + count, 1) for i in range(size)], len(self.shape(x)))

    def fold(self, columns: Any, height: int, width: int) -> Any:
        made = super().fold(columns.tensor, height, width)
        if self.opset >= 18:
            sizes = [columns, self._integers(height, width), self._integers(3, 3)]
            return self._node("Col2Im", sizes, made, pads=[1, 1, 1, 1])
        n, c, _ = self.shape(columns)
        parts = self.reshape(columns, (n, c // 9, 9, height, width))
        total = None
        for at in range(9):
            part = self.select(parts, 2, at)
            for axis, shift in ((2, at // 3), (3, at % 3)):
                part = self.pad(part, axis, shift, 2 - shift)
            total = part if total is None else self.binary("add", total, part)
        return self.slice(self.slice(total, 2, 1, height + 1, 1), 3, 1, width + 1, 1)

    def branch(self, condition: Any, then: Callable[[], Any], other: Callable[[], Any], local: bool = False) -> Any:
        total = self._node("ReduceSum", [condition], condition.tensor.sum(), keepdims=0)
        positive = self._node("Greater", [total, self._scalar(0.0)], total.tensor > 0)
        ways = [self._body([], lambda way=way: [way()], local) for way in (then, other)]
        graphs = {"then_branch": ways[0][0], "else_branch": ways[1][0]}
        return self._node("If", [positive], ways[0][1][0].tensor, **graphs)

    def loop(self, times: int, states: Sequence[Any], body: Body, collect: int, local: bool = False) -> list[Any]:
        number, go = (self._fresh(t) for t in (torch.tensor(0), torch.tensor(True)))
        entering = [self._fresh(s.tensor) for s in states]

        def whole() -> list[Any]:
            on = self._node("Identity", [go], go.tensor)
            return [on, *body(*entering)]

        graph, (_, *made) = self._body([number, go, *entering], whole, local)
        stacked = [torch.stack([m.tensor] * times) for m in made[len(states) :]]
        count = self._initializer(f"times{times}", torch.tensor(times))
        results = [*(s.tensor for s in states), *stacked]
        return self._nodes("Loop", [count, None, *states], results, body=graph)

    def scan(
        self, states: Sequence[Any], x: Any, axis: int, body: Body, collect: int, local: bool = False
    ) -> list[Any]:
        entering = [*(self._fresh(s.tensor) for s in states), self._fresh(x.tensor.select(axis, 0))]
        graph, made = self._body(entering, lambda: list(body(*entering)), local)
        stacked = [torch.stack([m.tensor] * x.tensor.shape[axis], axis) for m in made[len(states) :]]
        axes = {"scan_input_axes": [axis], "scan_output_axes": [axis] * collect, "num_scan_inputs": 1}
        return self._nodes("Scan", [*states, x], [*(s.tensor for s in states), *stacked], body=graph, **axes)

    def _fresh(self, tensor: torch.Tensor) -> Named:
        self._made += 1
        return Named(f"b{self._made}", tensor)

    def _body(
        self, inputs: Sequence[Named], run: Callable[[], Sequence[Any]], local: bool
    ) -> tuple[onnx.GraphProto, Sequence[Named]]:
        """A graph of what `run` writes, and its outputs."""
        outer, known = self.nodes, {*self.initializers}
        self.nodes = []
        made = [self._node("Identity", [m], m.tensor) for m in run()]
        nodes, self.nodes = self.nodes, outer
        own = [n for n in self.initializers if local and n not in known and re.fullmatch(r"w\d+(_\w+)?", n)]
        weights = [self.initializers.pop(name) for name in own]
        infos = [[self._info(v) for v in values] for values in (inputs, made)]
        return helper.make_graph(nodes, f"body{self._made}", infos[0], infos[1], weights), made

    def _info(self, value: Named) -> onnx.ValueInfoProto:
        sizes = None if self.dynamic and value.tensor.ndim else list(value.tensor.shape)
        return helper.make_tensor_value_info(value.name, _TYPES[value.tensor.dtype], sizes)
