"""The framework-neutral graph: values, nodes of canonical kinds, and lazily read weights.

A frontend fills it, passes transform it, a frontend writes it back. Nothing here knows ONNX or PyTorch:
what a frontend needs to write a node back hides in `Node.source` and `Graph.origin`, which only it reads.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from graphprune.errors import GraphPruneError

from .weights import Weight

__all__ = ["Case", "Graph", "Node", "Value", "Weight", "uncollected"]


@contextmanager
def uncollected() -> Iterator[None]:
    """Pause the cyclic garbage collector while a graph is built or walked (also as a decorator).

    Graphs are many small objects that live long; the collector would look through all of them again and again, which
    makes the time grow faster than the graph.
    """
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


@dataclass(eq=False)
class Value:
    """One tensor in the graph.

    `shape` holds concrete sizes; axes whose size depends on the caller's input are bound to a representative size and
    listed in `dynamic`. `shape` is None where not even the rank is known. `weight` is set for constants. `label` is
    what reports call a constant whose name an exporter made up.

    `follows` lists axes of a model input or output that may shrink with what they belong to: the heads of a key-value
    cache, which the caller hands from one run to the next. All other axes of inputs and outputs stay as they are.
    """

    name: str
    shape: tuple[int, ...] | None
    dtype: np.dtype[Any]
    dynamic: frozenset[int] = frozenset()
    weight: Weight | None = None
    follows: frozenset[int] = frozenset()
    label: str = ""

    @property
    def shown(self) -> str:
        """What reports call it; `--include` and its like take it as well as the name."""
        return self.label or self.name

    @property
    def rank(self) -> int:
        """Number of axes; raises if the shape is unknown."""
        return len(self.sizes)

    @property
    def sizes(self) -> tuple[int, ...]:
        """`shape`, where the caller knows that it is known."""
        if self.shape is None:
            raise GraphPruneError(f"the shape of '{self.name}' is not known")
        return self.shape

    def __repr__(self) -> str:
        return f"%{self.name}{list(self.shape) if self.shape is not None else '?'}"


@dataclass(eq=False)
class Node:
    """One operator.

    `kind` names an entry of the operator table, `attrs` are normalised as that entry's docstring says. `op` is the
    operator's name in the model's own framework and `scope` the path of the module it belongs to, where known (both for
    reports). A pass that alters `attrs` goes through `change`, so that the frontend writes back what changed and leaves
    everything else as the user wrote it.

    `bodies` are the subgraphs of control flow. They read values of the graphs around them directly; such values are
    not among `inputs`.
    """

    kind: str
    name: str
    inputs: list[Value | None]
    outputs: list[Value]
    attrs: dict[str, Any] = field(default_factory=dict)
    op: str = ""
    source: Any = None
    changed: bool = False
    bodies: list[Graph] = field(default_factory=list)
    scope: str = ""

    def change(self, **attrs: Any) -> None:
        """Set attributes and mark the node for writing back."""
        self.attrs.update(attrs)
        self.changed = True

    def reads(self) -> list[Value]:
        """The values it reads: its inputs, and what its bodies read from the graphs around them."""
        own = [value for value in self.inputs if value is not None]
        return [*own, *(value for body in self.bodies for value in body.captured())] if self.bodies else own

    def substitute(self, same: Mapping[Value, Value]) -> None:
        """Read other values in place of these, in its bodies as well."""
        self.inputs = [None if value is None else same.get(value, value) for value in self.inputs]
        for body in self.bodies:
            for node in body.nodes:
                node.substitute(same)
            body.outputs = [same.get(value, value) for value in body.outputs]

    def __repr__(self) -> str:
        args = ", ".join("-" if v is None else repr(v) for v in self.inputs)
        return f"{', '.join(map(repr, self.outputs))} = {self.kind}({args})  # {self.op} {self.name}"


@dataclass(frozen=True)
class Case:
    """Values of small inputs that choose a way through a model's branches, and the input shapes at which that way runs
    (those not listed are the bound ones).
    """

    values: Mapping[str, np.ndarray]
    shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


@dataclass(eq=False)
class Graph:
    """A model: nodes in topological order. `frontend` is "onnx" or "torch"; `origin` is that frontend's own state.

    `training` is what the caller's class does beside the graph, in training above all (auxiliary heads): it is coupled
    and sliced along, so that the class still runs and trains. Both graphs share the `Value`s of their weights. `pinned`
    are ids that must stay where the rows of a table may go (special tokens); `kept_rows` are the ids that did, by the
    name of the input: new id `i` is what was id `kept_rows[name][i]`. `notes` are sentences for the user about what the
    graph holds for. `assumed` are the sizes of free axes that nobody gave, by input and axis; `cases` lead through
    every branch that small inputs choose.
    """

    name: str
    nodes: list[Node]
    inputs: list[Value]
    outputs: list[Value]
    frontend: str = ""
    origin: Any = None
    training: Graph | None = None
    pinned: frozenset[int] = frozenset()
    kept_rows: dict[str, np.ndarray] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    assumed: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    cases: tuple[Case, ...] = ()

    @property
    def flat_nodes(self) -> list[Node]:
        """The nodes, each after those of its bodies."""
        found: list[Node] = []
        for node in self.nodes:
            for body in node.bodies:
                found += body.flat_nodes
            found.append(node)
        return found

    @property
    def all_nodes(self) -> list[Node]:
        """The nodes with those of their bodies, and those of `training` after them."""
        return self.flat_nodes if self.training is None else [*self.flat_nodes, *self.training.flat_nodes]

    def captured(self) -> list[Value]:
        """The values that a body reads from the graphs around it, weights included."""
        made, found = set(self.inputs), []
        for node in self.nodes:
            found += [value for value in node.reads() if value not in made]
            made.update(node.outputs)
        return [*found, *(value for value in self.outputs if value not in made)]

    def weights(self) -> dict[str, Value]:
        """Every constant that a node or an output uses, by name, in order of first use."""
        found: dict[str, Value] = {}
        for node in self.all_nodes:
            for value in node.inputs:
                if value is not None and value.weight is not None:
                    found.setdefault(value.name, value)
        for value in self.outputs:
            if value.weight is not None:
                found.setdefault(value.name, value)
        return found

    def values(self) -> Iterator[Value]:
        """Every value once: inputs, weights, then node outputs and what enters bodies."""
        yield from self.inputs
        yield from self.weights().values()
        for node in self.flat_nodes:
            yield from node.outputs
            for body in node.bodies:
                yield from body.inputs

    def producers(self) -> dict[Value, Node]:
        """The node that makes each computed value."""
        return {value: node for node in self.nodes for value in node.outputs}

    def consumers(self) -> dict[Value, list[Node]]:
        """The nodes that read each value (themselves or in a body), in order, once for each time they do."""
        users: dict[Value, list[Node]] = {}
        for node in self.nodes:
            for value in node.reads():
                users.setdefault(value, []).append(node)
        return users

    def parameter_count(self) -> int:
        """Number of elements of trainable weights, a shared weight counted once."""
        return sum(v.weight.size for v in self.weights().values() if v.weight is not None and v.weight.trainable)

    def copy(self) -> Graph:
        """A structural copy: new nodes and values, the same (immutable) weights, sources and origin."""
        return self._copy({})

    def _copy(self, twin: dict[Value, Value]) -> Graph:
        def clone(value: Value) -> Value:
            if value not in twin:
                twin[value] = Value(
                    value.name, value.shape, value.dtype, value.dynamic, value.weight, value.follows, value.label
                )
            return twin[value]

        nodes = [
            Node(
                n.kind,
                n.name,
                [None if v is None else clone(v) for v in n.inputs],
                [clone(v) for v in n.outputs],
                dict(n.attrs),
                n.op,
                n.source,
                n.changed,
                [body._copy(twin) for body in n.bodies],
                n.scope,
            )
            for n in self.nodes
        ]
        inputs = [clone(v) for v in self.inputs]
        training = None if self.training is None else self.training._copy(twin)
        outputs = [clone(v) for v in self.outputs]
        return Graph(
            self.name,
            nodes,
            inputs,
            outputs,
            self.frontend,
            self.origin,
            training,
            self.pinned,
            dict(self.kept_rows),
            self.notes,
            self.assumed,
            self.cases,
        )

    def check(self) -> None:
        """Raise if a name is used twice or a value is read before it is made."""
        made = {*self.inputs, *self.weights().values()}
        names = {value.name for value in made}
        self._check_nodes(made, names)

    def _check_nodes(self, made: set[Value], names: set[str]) -> None:
        for node in self.nodes:
            for value in node.inputs:
                if value is not None and value not in made:
                    raise GraphPruneError(f"node '{node.name}' reads '{value.name}', which nothing before it makes")
            for body in node.bodies:
                _enter(body.inputs, node, made, names)
                body._check_nodes(made, names)
                made.difference_update(body.inputs, *(inner.outputs for inner in body.nodes))
            _enter(node.outputs, node, made, names)
        for value in self.outputs:
            if value not in made:
                raise GraphPruneError(f"the output '{value.name}' is made by no node")


def _enter(values: list[Value], maker: Node, made: set[Value], names: set[str]) -> None:
    for value in values:
        if value.name in names:
            raise GraphPruneError(f"two values are named '{value.name}' (the second is made by '{maker.name}')")
        names.add(value.name)
        made.add(value)
