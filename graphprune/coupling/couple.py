"""Which indices hang together: the coupled groups of a graph."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from graphprune.ir.graph import Graph, Node, Value
from graphprune.ops import Block, Operator, known, lookup, reader
from graphprune.ops.base import Array

from .components import Solution
from .labeller import Walk
from .reasons import CONSTANT, OPERATOR, OUTPUT, POSITION, Reason, Tracer
from .statements import MET
from .uses import Use


@dataclass(frozen=True, eq=False)
class Group:
    """Components that may be removed one by one, born on the same weight axis.

    `components` is 2-d: the rows must keep equal numbers (one row where no operator asks for that). `width` is the
    number of indices of the birth axis that one component covers: 1 for channels, the head width for attention heads.
    `name` is that axis as the file names it, `label` as reports do. `role` says what a component is (see `roles.py`).
    """

    index: int
    name: str
    components: Array
    width: int
    exact: bool
    label: str = ""
    role: str = "channels"

    @property
    def size(self) -> int:
        """Number of components."""
        return int(self.components.size)


@dataclass(frozen=True)
class Frozen:
    """Indices of a weight axis that must stay, the node because of which, and the kind of cause (see `reasons.py`)."""

    weight: str
    axis: int
    indices: int
    node: str
    reason: str
    cause: str
    op: str = ""
    scope: str = ""


@dataclass(frozen=True)
class Unknown:
    """An operator without a rule, or (`why`) with one that fails here: how often it occurs and where first.

    `sizes` says that it lacks only sizes.
    """

    op: str
    count: int
    first: str
    why: str = ""
    sizes: bool = False


class Coupling:
    """The result of coupling: iterate it for the groups."""

    def __init__(self, graph: Graph, walk: Walk, solution: Solution, causes: list[tuple[int, str]]) -> None:
        self.graph = graph
        self.grouped = walk.grouped
        #: Splits at which the inner factor was asked for.
        self.inner: tuple[str, ...] = ()
        self.flipped = walk.flipped
        self._split = {origin for origin, _ in walk.said.resolved if origin}
        self.deep = frozenset(walk.deep)
        self.picked: frozenset[str] = frozenset()
        self.failed: dict[Node, str] = walk.failed
        self.tables = tuple(walk.tables)
        self.blocks: dict[Value, tuple[Block, ...]] = walk.values
        self.uses: list[Use] = walk.uses()
        self.at_least: list[tuple[Array, int]] = walk.said.at_least
        self.presences = walk.presences
        self.component = solution.component
        self.frozen = solution.frozen
        self.renormalizing = solution.renormalizing
        self.count = len(solution.frozen)
        #: Components whose order matters: they may go, but not trade places.
        self.ordered = np.zeros(self.count, bool)
        for labels in walk.said.ordered:
            self.ordered[self.component[labels]] = True
        self._cause = solution.cause
        nodes = walk.nodes
        self._causes = [Reason("", why, nodes[at] if at < len(nodes) else None) for at, why in causes]
        self.hold(np.flatnonzero(~self._read()), Reason(POSITION, "inputs of this size do not reach it"))
        label_of = np.unique(self.component, return_index=True)[1]
        #: Nodes and weights that are of no use without certain indices; a label of each.
        self.fates = {key: label_of[c] for key, c in self.presences.fates(graph, self.component).items()}
        #: Outputs that are a statistic over a group (by its index), with which.
        self.told: dict[int, dict[str, str]] = {}
        self.groups = _groups(self, solution.cells)

    def _read(self) -> Array:
        """Components that some computation meets: not so the rows of a table that this input does not look up."""
        read = np.zeros(self.count, bool)
        seen = {id(b.labels): b.labels for value, bs in self.blocks.items() if value.weight is None for b in bs}
        asked = [b.labels for table in self.tables for b in self.blocks[table.weight] if b.axes == (table.axis,)]
        for labels in [*seen.values(), *asked]:
            read[self.component[labels]] = True
        return read

    def __iter__(self) -> Iterator[Group]:
        return iter(self.groups)

    def __len__(self) -> int:
        return len(self.groups)

    def axes(self) -> Iterator[tuple[Use, int, Array]]:
        """Every labeled weight axis, in order of first use: (use, axis, component of each index)."""
        for use in self.uses:
            for block in use.blocks:
                if not block.joint:
                    yield use, block.axes[0], self.component[block.labels]
            if use.columns is not None:
                yield use, use.columns.axis, self.component[use.columns.labels.reshape(-1)]

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the operators and weight shapes: equal for two copies of one architecture."""
        graph = self.graph
        lines = [f"{n.kind} {n.op} {[None if v is None else v.shape for v in n.inputs]}" for n in graph.flat_nodes]
        lines += [f"{name} {value.shape} {value.dtype}" for name, value in graph.weights().items()]
        return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:16]

    @cached_property
    def group_of(self) -> Array:
        """The group of each component, -1 for those that stay."""
        owner = np.full(self.count, -1)
        for group in self.groups:
            owner[group.components.reshape(-1)] = group.index
        return owner

    @cached_property
    def members(self) -> list[list[str]]:
        """For each group the weight axes it lives on, as `name[axis]`."""
        found: list[dict[str, None]] = [{} for _ in self.groups]
        for use, axis, components in self.axes():
            for index in np.unique(self.group_of[components]).tolist():
                if index >= 0:
                    found[index].setdefault(f"{use.value.shown}[{axis}]")
        return [list(names) for names in found]

    @cached_property
    def names(self) -> list[set[str]]:
        """For each group all that it may be asked for by: weights, their axes (`name[axis]`), nodes that read them."""
        found: list[set[str]] = [set() for _ in self.groups]
        for use, axis, components in self.axes():
            weights = {use.value.name, use.value.shown}
            own = {*weights, *(f"{name}[{axis}]" for name in weights), use.node.name}
            for index in np.unique(self.group_of[components]).tolist():
                if index >= 0:
                    found[index] |= own
        return found

    def frozen_axes(self) -> list[Frozen]:
        """Axes of trainable weights with indices that must stay, each with the first node that froze them."""
        rows: dict[tuple[str, int], Frozen] = {}
        for use, axis, components in self.axes():
            stuck = self.frozen[components]
            if (use.value.name, axis) in rows or not stuck.any() or not _trainable(use.value):
                continue
            why = self.why(int(components[np.argmax(stuck)]), len(components))
            rows[use.value.name, axis] = _frozen(use.value, axis, int(stuck.sum()), why)
        return list(rows.values())

    def why(self, component: int, size: int) -> Reason:
        """Why a component must stay, on an axis of this size."""
        if self._cause[component] < 0:
            return Reason(OPERATOR, "it is tied to an index that must stay")
        reason = self._causes[self._cause[component]]
        if reason.cause:
            return reason
        if reason.node is None:
            return Reason(OUTPUT, reason.text)
        if reason.text == MET:
            here = [(v, a) for v, a, found in self._axes_at.get(reason.node, ()) if (found == component).any()]
            return self._tracer.met(reason.node, size, here)
        return self._tracer.said(reason.node, reason.text)

    @cached_property
    def _axes_at(self) -> dict[Node, list[tuple[Value, int, Array]]]:
        """The axes of weights that each node reads, with their components."""
        found: dict[Node, list[tuple[Value, int, Array]]] = {}
        for use, axis, components in self.axes():
            found.setdefault(use.node, []).append((use.value, axis, components))
        return found

    @cached_property
    def _tracer(self) -> Tracer:
        return Tracer(self.graph, self.blocks, self.failed)

    def rule(self, node: Node) -> Operator:
        """The entry of the operator table that applies to a node here; that of unknown ones where its own fails."""
        return lookup("unknown" if node in self.failed else node.kind)

    def hold(self, components: Array, reason: Reason) -> None:
        """Let components stay that no rule froze."""
        new = components[~self.frozen[components]]
        self.frozen[new] = True
        self._cause[new] = len(self._causes)
        self._causes.append(reason)

    def hold_rows(self, components: Array) -> None:
        """Equal counts cannot be promised where some indices must stay: then all must."""
        cause = int(self._cause[components].max())
        node = self._causes[cause].node if cause >= 0 else None
        self.hold(components, Reason(OPERATOR, "it must keep as many as others, of which some must stay", node))

    def blamed(self) -> frozenset[str]:
        """Splits of an axis that are the cause why channels of a layer must stay: the factor that was not made the
        active one is fixed where they meet it.
        """
        found, asked = set(), set[tuple[int, int]]()
        for use, _, components in self.axes() if self._split else ():
            key = int(self._cause[components[0]]), len(components)
            if key in asked or not (self.frozen[components].all() and _bears(use) and _trainable(use.value)):
                continue
            asked.add(key)
            maker = self.why(int(components[0]), len(components)).maker
            if maker is not None and maker.name in self._split:
                found.add(maker.name)
        return frozenset(found)

    def unknown(self) -> list[Unknown]:
        """Operators without a rule, or with one that fails or needs a shape nobody knows; most frequent first."""
        found: dict[tuple[str, str, bool], tuple[int, str]] = {}
        for node in self.graph.all_nodes:
            if not known(self.rule(node).kind):
                shapeless = any(v is not None and v.shape is None for v in (*node.inputs, *node.outputs))
                op = f"{node.op} of unknown shape" if shapeless else node.op
                key = op, self.failed.get(node, ""), bool(node.attrs.get("sizes"))
                count, first = found.get(key, (0, node.name))
                found[key] = (count + 1, first)
        rows = [Unknown(op, count, first, why, sizes) for (op, why, sizes), (count, first) in found.items()]
        return sorted(rows, key=lambda row: -row.count)

    def free_indices(self) -> int:
        """Number of indices of trainable weight axes that some group may remove."""
        return sum(int((self.group_of[c] >= 0).sum()) for use, _, c in self.axes() if _trainable(use.value))

    def __str__(self) -> str:
        """The groups as text: one line each, `name: size x width, exact, members`."""
        lines = []
        for group, members in zip(self.groups, self.members, strict=True):
            rows, size = group.components.shape
            shape = f"{rows}x{size}" if rows > 1 else f"{size}"
            wide = f" of {group.width}" if group.width > 1 else ""
            kind = "exact" if group.exact else "renormalizing"
            lines.append(f"{shape}{wide} {kind}: {' '.join(members)}")
        return "\n".join(lines)


def _frozen(value: Value, axis: int, indices: int, why: Reason) -> Frozen:
    node = why.node
    at = ("", "", "") if node is None else (node.name, node.op, node.scope)
    return Frozen(value.shown, axis, indices, at[0], why.text, why.cause, at[1], at[2])


def _trainable(value: Value) -> bool:
    return value.weight is not None and value.weight.trainable


def _varies(value: Value, axis: int) -> bool:
    """Whether a constant tells the indices of an axis apart (the zero state of a recurrent layer does not)."""
    assert value.weight is not None
    array = value.weight.array()
    return bool((array != array.take([0], axis=axis)).any())


@dataclass(eq=False)
class _Births:
    """Where each component is born: the first axis of a trainable weight that bears it, its first index there, and how
    many.
    """

    axis: Array
    position: Array
    width: Array
    uses: list[tuple[Value, int]]


def _freeze_constants(coupling: Coupling, axes: list[tuple[Use, int, Array]]) -> None:
    """What a constant brings into the model is part of its definition: components met on a constant first must stay,
    unless a weight makes them further on (a slope for each head, say, made before the heads are).
    """
    seen, made = np.zeros(coupling.count, bool), _made(coupling)
    for use, axis, components in axes:
        if not _trainable(use.value) and not seen[components].all() and _varies(use.value, axis):
            why = f"it comes with the constant '{use.value.shown}', which is part of the model's definition"
            coupling.hold(components[~seen[components] & ~made[components]], Reason(CONSTANT, why, use.node))
        seen[components] = True


def _hold_vanishing(coupling: Coupling) -> None:
    """Whole values go only with an index that a layer makes (a router's row): a number of its own for each operand of a
    sum is part of the model's definition.
    """
    labels = coupling.presences.labels()
    if len(labels):
        components = np.unique(coupling.component[labels])
        loose = components[~_made(coupling)[components]]
        coupling.hold(loose, Reason(CONSTANT, "whole values go with it, and no layer makes it"))


def _made(coupling: Coupling) -> Array:
    """Components that trainable weights give to the results of the operators that read them, not only contract."""
    made, given = np.zeros(coupling.count, bool), np.zeros(coupling.count, bool)
    for use in coupling.uses:
        if not (_bears(use) and _trainable(use.value)):
            continue
        out = [coupling.component[b.labels] for v in use.node.outputs for b in coupling.blocks.get(v, ())]
        for components in out:
            given[components] = True
        for block in use.blocks:
            own = coupling.component[block.labels]
            made[own[given[own]]] = True
        for components in out:
            given[components] = False
    return made


def _bears(use: Use) -> bool:
    """Whether a weight makes or takes channels here; a table looked into by constant indices is merely added."""
    node, _ = reader(use.node, use.slot)
    return lookup(node.kind).bears and node.attrs.get("indices") is None


def _births(coupling: Coupling) -> _Births:
    axis_of, position, width = (np.full(coupling.count, -1) for _ in range(3))
    born = _Births(axis_of, position, width, [])
    axes = list(coupling.axes())
    _hold_vanishing(coupling)
    _freeze_constants(coupling, axes)
    for use, axis, components in sorted(axes, key=lambda item: not _bears(item[0])):
        new = (born.axis[components] < 0) & ~coupling.frozen[components]
        if not new.any() or not _trainable(use.value):
            continue
        unique, first, counts = np.unique(components[new], return_index=True, return_counts=True)
        born.axis[unique], born.position[unique], born.width[unique] = len(born.uses), first, counts
        born.uses.append((use.value, axis))
    return born


def _groups(coupling: Coupling, cells: list[Array]) -> list[Group]:
    """Components by the axis they are born on; clusters of count constraints stay together.

    Members of a row are ordered by position on that axis, so that indices in a plan read like channel numbers.
    """
    born = _births(coupling)
    found: list[Array] = []
    for rows in cells:
        flat = rows.reshape(-1)
        if coupling.frozen[flat].any() or (born.axis[flat] < 0).any():
            coupling.hold_rows(flat)
        else:
            order = np.argsort(born.axis[rows] * (1 + born.position.max()) + born.position[rows], axis=1, kind="stable")
            found.append(np.take_along_axis(rows, order, axis=1))
    loose = born.axis >= 0
    loose[[c for rows in cells for c in rows.reshape(-1).tolist()]] = False
    members = np.flatnonzero(loose)
    members = members[np.lexsort((born.position[members], born.axis[members]))]
    cuts = np.flatnonzero(np.diff(born.axis[members])) + 1
    found += [part[None, :] for part in np.split(members, cuts) if part.size]
    for rows in found:
        if rows.size == 1 and born.width[rows].item() > 1:
            coupling.hold(rows.reshape(-1), Reason(OPERATOR, "all its indices hang together, and cannot go one by one"))
    found = sorted((rows for rows in found if rows.size > 1), key=lambda rows: int(born.axis[rows].min()))
    return [_group(coupling, born, i, rows) for i, rows in enumerate(found)]


def _group(coupling: Coupling, born: _Births, index: int, rows: Array) -> Group:
    value, axis = born.uses[int(born.axis[rows].min())]
    exact = not bool(coupling.renormalizing[rows].any())
    width = int(born.width[rows].max())
    return Group(index, f"{value.name}[{axis}]", rows, width, exact, f"{value.shown}[{axis}]")
