"""Control flow while loading: If, Loop and Scan become nodes with bodies, and an If that is decided becomes its branch.

What enters a body in each round is known only once the body was walked: it is taken to have the shape of what enters
the first round, and where what leaves a round differs, it is walked again with that shape unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from onnx import GraphProto, NodeProto, TensorProto

from graphprune.ir.graph import Graph

from ..protos import attributes, domain, subgraphs, tensor_type
from .facts import Fact, of_small
from .fold import Small
from .scopes import rename

#: Names of the bodies, in the order of `Node.bodies`.
BODIES = {"If": ("then_branch", "else_branch"), "Loop": ("body",), "Scan": ("body",)}
#: Bodies within bodies beyond this depth stay unknown.
DEEPEST = 6
#: Walks of a body; in the last no shape is taken for granted.
_WALKS = 3
#: A trip count from here on means "until the condition fails".
_ENDLESS = 1 << 31


class Bodies(Protocol):
    """What a loader offers: the facts, and the graph of a body once those of its inputs are known."""

    facts: dict[str, Fact]

    def body(self, proto: GraphProto) -> Graph:
        """Walk a body."""

    def branch(self, proto: GraphProto) -> Graph:
        """Walk a branch, at sizes of its own where those of the model do not fit it."""

    def forget(self, proto: GraphProto) -> None:
        """Undo a walk."""


@dataclass(frozen=True)
class Flow:
    """A control flow node's bodies and attributes."""

    bodies: list[Graph]
    attrs: dict[str, Any]


def bodies_of(node: NodeProto) -> list[GraphProto]:
    """The bodies of a control flow node; none for other operators, or where one is missing."""
    if domain(node) or node.op_type not in BODIES:
        return []
    attrs = attributes(node)
    found = [attrs[name] for name in BODIES[node.op_type] if isinstance(attrs.get(name), GraphProto)]
    whole = len(found) == len(BODIES[node.op_type]) == len(list(subgraphs(node)))
    return found if whole and all(_fits(node, body, attrs) for body in found) else []


def _fits(node: NodeProto, body: GraphProto, attrs: dict[str, Any]) -> bool:
    """Whether a body takes and makes as many values as its node needs."""
    if node.op_type == "If":
        return not body.input and len(body.output) >= len(node.output)
    first = 1 if node.op_type == "Loop" else 0
    carried = len(node.input) - (2 if first else int(attrs.get("num_scan_inputs", 0)))
    enough = len(body.output) >= first + max(carried, len(node.output))
    return carried >= 0 and len(body.input) == len(node.input) and enough


def decided(node: NodeProto, facts: dict[str, Fact], *, careful: bool) -> list[NodeProto] | None:
    """The nodes of the branch that an If always takes, making the If's outputs; None where it depends on the input.

    If `careful`, sizes decide nothing.
    """
    fact = facts.get(node.input[0]) if node.op_type == "If" and node.input else None
    small = None if fact is None or (careful and fact.derived) else fact.known()
    if small is None or not small.static or small.value.size != 1:
        return None
    return _inlined(node, bool(small.value.reshape(())[()]))


def _inlined(node: NodeProto, taken: bool) -> list[NodeProto]:
    """The nodes of a branch, making the If's outputs."""
    branch = GraphProto()
    branch.CopyFrom(attributes(node)["then_branch" if taken else "else_branch"])
    made = {name for inner in branch.node for name in inner.output if name}
    names: dict[str, str] = {}
    copies: list[NodeProto] = []
    for inner, out in zip(branch.output, node.output, strict=False):
        if out and inner.name in made and inner.name not in names:
            names[inner.name] = out
        elif out:
            source = names.get(inner.name, inner.name)
            copies.append(NodeProto(op_type="Identity", input=[source], output=[out], name=f"{node.name or out}/copy"))
    rename(branch, names)
    return [*branch.node, *copies]


#: What hands on its first operand whatever that is, but for axes of size one.
_HANDING_ON = frozenset({"Identity", "Squeeze", "Unsqueeze"})


def guarded(node: NodeProto, facts: dict[str, Fact]) -> tuple[list[NodeProto], str] | None:
    """The nodes of the branch that an If takes at the sizes of the input, and the value that it hands on, where no
    branch does more than to add or to drop axes of size one (as exporters write a squeeze). The If itself stays.
    """
    fact = facts.get(node.input[0]) if node.op_type == "If" and node.input else None
    small = None if fact is None else fact.known()
    if small is None or small.value.size != 1 or len(node.output) != 1:
        return None
    taken = bool(small.value.reshape(())[()])
    handed = {_handed_on(branch) for branch in bodies_of(node)}
    name = next(iter(handed))
    value = facts.get(name)
    if len(handed) > 1 or value is None or value.constant or value.small is not None:
        return None
    return _inlined(node, taken), name


def _handed_on(branch: GraphProto) -> str:
    """The one value from outside that a branch hands on; empty where it does anything else."""
    steps = [node for node in branch.node if node.op_type != "Constant"]
    if not steps:
        return "" if any(branch.output[0].name in node.output for node in branch.node) else str(branch.output[0].name)
    fits = len(steps) == 1 and steps[0].op_type in _HANDING_ON and not domain(steps[0])
    return str(steps[0].input[0]) if fits and branch.output[0].name in steps[0].output else ""


def settle(node: NodeProto, loader: Bodies) -> Flow:
    """Walk the bodies and learn about the node's outputs."""
    return _SETTLE[node.op_type](node, bodies_of(node), loader)


def _branches(node: NodeProto, protos: Sequence[GraphProto], loader: Bodies) -> Flow:
    bodies = [loader.branch(proto) for proto in protos]
    for i, name in enumerate(node.output):
        if name:
            loader.facts[name] = _common([loader.facts.get(proto.output[i].name) for proto in protos])
    return Flow(bodies, {})


def _common(facts: Sequence[Fact | None]) -> Fact:
    """What holds for all of these."""
    found = [_moving(fact) for fact in facts]
    shapes = {(fact.shape, fact.other_shape, fact.elem_type) for fact in found}
    return found[0] if len(shapes) == 1 else _shapeless(found[0])


def _moving(fact: Fact | None) -> Fact:
    """A value of this type whose elements are not known."""
    return Fact(None, None) if fact is None else Fact(fact.type, fact.other)


def _shapeless(fact: Fact) -> Fact:
    kind = tensor_type(fact.elem_type, None) if fact.elem_type else fact.type
    return Fact(kind, kind)


@dataclass
class _Rounds:
    """A body that runs many times.

    `states` is what is carried from round to round: inputs of the body from `entering` on, outputs from `leaving` on.
    `condition` says that a Loop's condition is taken to hold in every round.
    """

    proto: GraphProto
    loader: Bodies
    states: list[Fact]
    entering: int = 0
    leaving: int = 0
    others: dict[str, Fact] = field(default_factory=dict)
    condition: bool = False

    def walk(self) -> Graph:
        """The body's graph, walked until what leaves a round is like what entered."""
        for left in reversed(range(_WALKS)):
            self._bind()
            body = self.loader.body(self.proto)
            if self._settled():
                return body
            self.loader.forget(self.proto)
            if left == 1:
                self.states, self.condition = [_shapeless(state) for state in self.states], False
        self._bind()
        return self.loader.body(self.proto)

    def _bind(self) -> None:
        facts = self.loader.facts
        facts.update(self.others)
        if self.entering:
            number, truth = tensor_type(TensorProto.INT64, ()), tensor_type(TensorProto.BOOL, ())
            held = of_small(Small.fixed(np.array(True)), derived=False)
            facts[self.proto.input[0].name] = Fact(number, number)
            facts[self.proto.input[1].name] = held if self.condition else Fact(truth, truth)
        for info, state in zip(self.proto.input[self.entering :], self.states, strict=False):
            facts[info.name] = Fact(state.type, state.other)

    def _settled(self) -> bool:
        """Whether the assumptions held; those that did not are given up."""
        before = self._assumed()
        self.condition = self.condition and _holds(self.loader.facts.get(self.proto.output[0].name))
        for i, info in enumerate(self.proto.output[self.leaving : self.leaving + len(self.states)]):
            if not _same(self.loader.facts.get(info.name), self.states[i]):
                self.states[i] = _shapeless(self.states[i])
        return before == self._assumed()

    def _assumed(self) -> tuple[bool, list[Any]]:
        return self.condition, [state.shape for state in self.states]


def _same(fact: Fact | None, state: Fact) -> bool:
    return fact is not None and (fact.shape, fact.other_shape) == (state.shape, state.other_shape)


def _holds(fact: Fact | None) -> bool:
    """Whether a condition is known to be true."""
    small = None if fact is None else fact.known()
    return small is not None and small.static and bool(small.value.all())


def _loop(node: NodeProto, protos: Sequence[GraphProto], loader: Bodies) -> Flow:
    proto, facts = protos[0], loader.facts
    names = [*node.input, "", ""]
    count = len(proto.input) - 2
    states = [_moving(facts.get(name)) for name in names[2 : 2 + count]]
    rounds = _Rounds(proto, loader, states, 2, 1, condition=not names[1] or _holds(facts.get(names[1])))
    body = rounds.walk()
    trips = _trips(facts.get(names[0])) if rounds.condition else None
    for i, name in enumerate(node.output):
        if name and i < count:
            facts[name] = rounds.states[i]
        elif name:
            facts[name] = _collected(facts.get(proto.output[i + 1].name), trips, 0)
    return Flow([body], {"carried": count})


def _trips(fact: Fact | None) -> tuple[int, int] | None:
    """How many rounds there are under both bindings, where that is known."""
    small = None if fact is None else fact.known()
    if small is None or small.value.size != 1:
        return None
    found = int(small.value.reshape(())), int(small.other.reshape(()))
    return found if all(0 <= n < _ENDLESS for n in found) else None


def _collected(fact: Fact | None, trips: tuple[int, int] | None, axis: int) -> Fact:
    """What a body's output becomes when it is stacked over all rounds along a new axis."""
    inner = _moving(fact)
    if trips is None or inner.shape is None or inner.other_shape is None or not 0 <= axis <= len(inner.shape):
        return _shapeless(inner)
    first, other = ((*s[:axis], n, *s[axis:]) for s, n in zip((inner.shape, inner.other_shape), trips, strict=True))
    return _typed(inner.elem_type, first, other)


def _typed(elem_type: int, first: tuple[int, ...], other: tuple[int, ...]) -> Fact:
    kind = tensor_type(elem_type, first)
    return Fact(kind, kind if first == other else tensor_type(elem_type, other))


def _scan(node: NodeProto, protos: Sequence[GraphProto], loader: Bodies) -> Flow:
    proto, facts, attrs = protos[0], loader.facts, attributes(node)
    scanned = int(attrs.get("num_scan_inputs", 0))
    count = len(node.input) - scanned
    axes = _axes(attrs.get("scan_input_axes"), scanned, [facts.get(name) for name in node.input[count:]], 0)
    sources = [_moving(facts.get(name)) for name in node.input[count:]]
    others = {
        info.name: _without(fact, axis) for info, fact, axis in zip(proto.input[count:], sources, axes, strict=False)
    }
    states = [_moving(facts.get(name)) for name in node.input[:count]]
    rounds = _Rounds(proto, loader, states, others=others)
    body = rounds.walk()
    inner = [facts.get(info.name) for info in proto.output[count:]]
    out_axes = _axes(attrs.get("scan_output_axes"), len(inner), inner, 1)
    trips = _length(sources[0], axes[0]) if sources else None
    found = [*rounds.states, *(_collected(fact, trips, axis) for fact, axis in zip(inner, out_axes, strict=True))]
    facts.update({name: fact for name, fact in zip(node.output, found, strict=False) if name})
    return Flow([body], {"carried": count, "input_axes": axes, "output_axes": out_axes})


def _axes(given: list[int] | None, count: int, facts: Sequence[Fact | None], more: int) -> list[int]:
    """Non-negative axes; -1 where the rank (less `more`) is not known."""
    axes = list(given or [0] * count)
    if len(axes) != count:
        return [-1] * count
    shapes = [None if fact is None else fact.shape for fact in facts]
    return [a if a >= 0 else -1 if s is None else a + len(s) + more for a, s in zip(axes, shapes, strict=True)]


def _without(fact: Fact, axis: int) -> Fact:
    """What one round of a scan sees of a value."""
    if fact.shape is None or fact.other_shape is None or not 0 <= axis < len(fact.shape):
        return _shapeless(fact)
    first, other = (s[:axis] + s[axis + 1 :] for s in (fact.shape, fact.other_shape))
    return _typed(fact.elem_type, first, other)


def _length(fact: Fact, axis: int) -> tuple[int, int] | None:
    if fact.shape is None or fact.other_shape is None or not 0 <= axis < len(fact.shape):
        return None
    return fact.shape[axis], fact.other_shape[axis]


_SETTLE: dict[str, Callable[[NodeProto, Sequence[GraphProto], Bodies], Flow]] = {
    "If": _branches,
    "Loop": _loop,
    "Scan": _scan,
}
