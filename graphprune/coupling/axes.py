"""Components on the axes of a walked graph's values, and what kind of values these are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from graphprune.ir.graph import Graph, Node, Value
from graphprune.ops import Block, inner, lookup
from graphprune.ops.base import Array
from graphprune.ops.elementwise import COPIES

from .uses import Use

#: Operators behind which a share of attention is still one, and before which a score is.
_THROUGH = frozenset({"elementwise"})


class Axes:
    """`data` depends on the model's inputs, `raw` is one of them moved around, `shares` come out of a softmax, `picks`
    say for each index whether its position was found; `scores` go into a softmax along these components. `picked` are
    the components that positions name.
    """

    def __init__(
        self,
        graph: Graph,
        blocks: Mapping[Value, tuple[Block, ...]],
        uses: Sequence[Use],
        component: Array,
        picked: Array,
    ) -> None:
        self._blocks, self._component, self.picked = blocks, component, picked
        self._own = {(use.value, use.node): use.blocks for use in uses}
        self._counting = {use.node for use in uses if use.positions is not None}
        self._outer: dict[Node, Node] = {}
        self.nodes = [step for node in graph.all_nodes for step in self._steps(node)]
        inputs = [*graph.inputs, *(graph.training.inputs if graph.training is not None else ())]
        entering = [v for node in graph.all_nodes for body in node.bodies for v in body.inputs]
        self.data, self.raw, self.shares = {*inputs, *entering}, set(inputs), set[Value]()
        self.picks: set[Value] = set()
        self.scores: dict[Value, Array | None] = {}
        for node in self.nodes:
            self._forward(node)
        for node in reversed(self.nodes):
            self._backward(node)

    def _steps(self, node: Node) -> list[Node]:
        steps = inner(node)
        self._outer.update(dict.fromkeys(steps, node))
        return steps

    def _forward(self, node: Node) -> None:
        """What the results are, by what the operands are."""
        read, outputs = [v for v in node.inputs if v is not None], node.outputs
        moved = read[:1] if node.kind in ("gather", "lookup", "take_along") else read  # not positions
        if any(value in self.data for value in read) or node.bodies:
            self.data.update(outputs)
        if read and read[0] in self.raw and (lookup(node.kind).moves or node.attrs.get("fn") in COPIES):
            self.raw.update(outputs)
        if node.kind == "softmax" or (self._passes(node) and any(value in self.shares for value in moved)):
            self.shares.update(outputs)
        written = node.kind == "scatter_along" and not any(value in self.data for value in read[2:])
        found = node.kind == "one_hot" or written or self._outer[node] in self._counting
        if node.kind in _THROUGH:  # counts of neighbours that all channels are divided by pick none of them
            moved = [value for value in moved if value.shape == outputs[0].shape]
        if found or (self._passes(node) and any(value in self.picks for value in moved)):
            self.picks.update(outputs)

    def _backward(self, node: Node) -> None:
        if node.kind == "softmax" and node.inputs[0] is not None:
            self.scores[node.inputs[0]] = self.of(node, 0, node.attrs["axis"])
        elif self._passes(node):
            for output in node.outputs:
                if output in self.scores:
                    new = [v for v in node.inputs if v is not None and v in self.data]
                    self.scores.update(dict.fromkeys(new, self.scores[output]))

    def _passes(self, node: Node) -> bool:
        return node.kind in _THROUGH or lookup(node.kind).moves

    def _on(self, blocks: Iterable[Block], axis: int) -> Array | None:
        found = next((block for block in blocks if axis in block.axes), None)
        return None if found is None else self._component[found.labels.reshape(-1)]

    def of(self, node: Node, slot: int, axis: int) -> Array | None:
        """The components on an axis of an operand as this node reads it."""
        value = node.inputs[slot]
        if value is None:
            return None
        own = self._blocks.get(value) or self._own.get((value, self._outer.get(node, node)), ())
        return self._on(own, axis)

    def made_by(self, node: Node, axis: int) -> Array | None:
        """The components on an axis of the node's first result."""
        return self._on(self._blocks.get(node.outputs[0], ()), axis)

    def of_weight(self, value: Value, axis: int) -> Array | None:
        """The components on an axis of a weight that all its readers share."""
        return self._on(self._blocks.get(value, ()), axis)

    def among(self, components: Array | None) -> Array | None:
        """Those of them that positions name."""
        return None if components is None else components[self.picked[components]]

    def told(self, outputs: Iterable[Value]) -> Iterator[tuple[Value, str, Array]]:
        """Outputs that are a statistic themselves, or a function of some: (output, which one, over what)."""
        wanted: dict[Value, Value] = {value: value for value in outputs}
        for node in reversed(self.nodes):
            output = next((wanted[v] for v in node.outputs if v in wanted), None)
            if output is None or not (self._passes(node) or node.kind == "reduce"):
                continue
            for axis in node.attrs["axes"] if node.kind == "reduce" else ():
                if (components := self.of(node, 0, axis)) is not None:
                    yield output, node.attrs["fn"], components
            for value in node.inputs:
                if value is not None:
                    wanted.setdefault(value, output)


def meets(a: Array | None, b: Array | None) -> bool:
    """Whether two axes have components in common."""
    return a is not None and b is not None and bool(np.isin(a, b).any())
