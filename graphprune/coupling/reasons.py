"""Why indices must stay, in words.

Nothing is computed until a report asks: then the axis that they met is followed back to where it became fixed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from graphprune.ir.graph import Graph, Node, Value
from graphprune.ops import Block, known
from graphprune.ops.base import Array

from .components import solve
from .labeller import Walk
from .statements import MET

#: Kinds of causes, the one that a user can do most about first.
UNKNOWN, SIZES, OPERATOR, CONSTANT, LOOKUP = "unknown", "sizes", "operator", "constant", "lookup"
POSITION, INPUT, OUTPUT = "position", "input", "output"
#: Operators that work along axes whose length follows from the input's: space, time, sequence.
_ALONG = frozenset({"conv", "spatial", "unfold", "attention", "recurrent", "group_norm", "instance_norm"})


@dataclass(frozen=True)
class Reason:
    """`cause` is one of the kinds above, `text` completes "it must stay: ...", `node` is where that is so.

    `maker` is the node that fixed the axis which others met there.
    """

    cause: str
    text: str
    node: Node | None = None
    maker: Node | None = None


class Tracer:
    """Follows fixed axes back through a walked graph; the rules of `failed` nodes did not apply."""

    def __init__(self, graph: Graph, blocks: Mapping[Value, tuple[Block, ...]], failed: Mapping[Node, str]) -> None:
        self._blocks = blocks
        self._failed = failed
        self._makers = {value: node for node in graph.all_nodes for value in node.outputs}
        self._inputs = {*graph.inputs, *(graph.training.inputs if graph.training is not None else ())}
        self._found: dict[tuple[Value, int], Reason] = {}

    def said(self, node: Node, text: str) -> Reason:
        """The reason of a rule that froze indices itself."""
        if node in self._failed:
            return Reason(UNKNOWN, f"the rule of {node.op} fails here: {self._failed[node]}", node)
        if not known(node.kind):
            return Reason(_unknown(node), text, node)
        if node.kind == "gather":
            return Reason(LOOKUP, text, node)
        return Reason(POSITION if node.kind in _ALONG else OPERATOR, text, node)

    def met(self, node: Node, size: int, axes: Sequence[tuple[Value, int]] = ()) -> Reason:
        """What indices of an axis of this size met at a node, where they lie on these axes of its weights."""
        values = [v for v in node.inputs if v is not None and v.shape is not None and v.weight is None]
        fixed = [(v, a) for v in values for a in range(v.rank) if self._fixed(v, a)]
        tied = self._tied(node, axes) if axes and len(fixed) > 1 else []
        fixed.sort(key=lambda pair: (pair not in tied, pair[0].sizes[pair[1]] != size))
        if not fixed:
            return Reason(OPERATOR, f"{node.op} needs this axis as it is", node)
        found = self._origin(*fixed[0])
        return Reason(found.cause, found.text, node, found.maker)

    def _tied(self, node: Node, axes: Sequence[tuple[Value, int]]) -> list[tuple[Value, int]]:
        """The fixed axes of a node's inputs that its rule ties to axes of its weights.

        Sizes do not tell them: gates of a recurrent layer are four times as many as indices of its state.
        """
        probe, places = _probe(node, self._fixed)
        component = solve(probe.said, probe.count)[0].component
        blocks = [(use.value, block) for use in probe.uses() for block in use.blocks]
        own = [component[block.labels].reshape(-1) for v, block in blocks for a in block.axes if (v, a) in axes]
        return [(v, a) for labels, v, a in places if own and np.isin(component[labels], np.concatenate(own)).any()]

    def _fixed(self, value: Value, axis: int) -> bool:
        """Whether nothing may be removed from an axis because it has no labels, or because some of them are 0."""
        block = next((b for b in self._blocks.get(value, ()) if axis in b.axes), None)
        return value.sizes[axis] > 1 and (block is None or not block.labels.all())

    def _origin(self, value: Value, axis: int) -> Reason:
        """Where an axis became fixed."""
        trail = [(value, axis)]
        while (reason := self._found.get(trail[-1]) or self._end(*trail[-1])) is None:
            back = self._back(*trail[-1])
            if isinstance(back, Reason):
                reason = back
                break
            trail.append(back)
        self._found.update(dict.fromkeys(trail, reason))
        return reason

    def _end(self, value: Value, axis: int) -> Reason | None:
        """The reason where there is no way further back."""
        if value in self._inputs:
            return Reason(INPUT, f"it meets axis {axis} of the model's input '{value.name}'")
        maker = self._makers.get(value)
        if maker is None:
            return Reason(OPERATOR, f"it meets '{value.name}', which enters a body of control flow")
        if maker.bodies:
            return Reason(
                OPERATOR, f"it meets what {_named(maker)} makes, differing from body to body or round to round"
            )
        if any(v is not None and v.shape is None for v in (*maker.inputs, *maker.outputs)):
            return Reason(_unknown(maker), f"it meets what {_named(maker)} makes, whose shape is not known")
        if maker in self._failed:
            return Reason(UNKNOWN, f"it meets what {_named(maker)} makes, whose rule fails here: {self._failed[maker]}")
        if not known(maker.kind):
            return Reason(UNKNOWN, f"it meets what {_named(maker)} makes, an operator without a rule")
        if maker.kind in ("fill", "shape_math"):
            return Reason(CONSTANT, f"it meets what {_named(maker)} makes out of sizes alone")
        return None

    def _back(self, value: Value, axis: int) -> tuple[Value, int] | Reason:
        """The fixed axis of an input of the maker that this axis is made of; the reason where the maker fixed it.

        Found by running the maker's own rule on labels for just the fixed axes of its inputs.
        """
        maker = self._makers[value]
        probe, places = _probe(maker, self._fixed)
        block = next((b for b in probe.blocks(value) if axis in b.axes), None)
        for labels, source, a in places:
            if block is not None and np.isin(block.labels, labels).any():
                return source, a
        if maker.kind in _ALONG or maker.kind == "gather":
            return Reason(POSITION, f"it meets positions, along which {_named(maker)} works")
        said, _ = _probe(maker, lambda _, __: True)
        why = next((f": {why}" for _, _, why in said.said.freeze if why != MET), "")
        return Reason(OPERATOR, f"it meets an axis that {_named(maker)} fixes{why}", maker=maker)


def _unknown(node: Node) -> str:
    """What a node without a rule lacks: just sizes, or the rule itself."""
    return SIZES if node.attrs.get("sizes") else UNKNOWN


def _probe(node: Node, labeled: Callable[[Value, int], bool]) -> tuple[Walk, list[tuple[Array, Value, int]]]:
    """A walk over a node alone, with new labels for some axes of what it reads; and those labels."""
    probe = Walk(Graph("probe", [node], [], []))
    places: list[tuple[Array, Value, int]] = []
    for value in dict.fromkeys(v for v in node.inputs if v is not None and v.weight is None):
        found = [(probe.fresh(n), value, a) for a, n in enumerate(value.sizes) if n > 1 and labeled(value, a)]
        probe.put_blocks(value, [Block((a,), labels) for labels, _, a in found])
        places += found
    probe.run()
    return probe, places


def _named(node: Node) -> str:
    return f"{node.op} ({node.name})"
