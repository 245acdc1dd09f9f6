"""The walk: every operator's rule states what it knows about labels; nothing is solved here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import prod
from types import MappingProxyType

import numpy as np

from graphprune.errors import GraphPruneError, InputError
from graphprune.ir.graph import Graph, Node, Value
from graphprune.ops import Block, Columns, known, lookup
from graphprune.ops.base import Array, CoupleRule, Operator

from .failing import what_failed
from .liveness import Presences
from .search import second
from .statements import MET, Statements
from .tables import Table
from .uses import Use

#: Labels of one axis take eight bytes each; an axis this long is a broken size.
LARGEST = 1 << 27


class Walk:
    """The `Labeller` handed to coupling rules. Label 0 is never given out: it stands for indices that must stay.

    `failed` are nodes whose rules raise, with what they raise: they are treated as unknown operators. Where a run finds
    further ones, what it states is of no use: the walk is to be taken again with these.
    """

    def __init__(
        self,
        graph: Graph,
        *,
        grouped: str = "within",
        flipped: frozenset[str] = frozenset(),
        tables: Sequence[Table] = (),
        failed: Mapping[Node, str] = MappingProxyType({}),
    ) -> None:
        self.failed = dict(failed)
        self.nodes = graph.all_nodes
        top = {*graph.nodes, *(graph.training.nodes if graph.training is not None else [])}
        self._inside = {node for node in self.nodes if node not in top}
        self._place = {node: at for at, node in enumerate(self.nodes)}
        self._top = [*graph.nodes, *(graph.training.nodes if graph.training is not None else [])]
        self.inputs = {*graph.inputs, *(graph.training.inputs if graph.training is not None else [])}
        self.outputs = [*graph.outputs, *(graph.training.outputs if graph.training is not None else [])]
        self.grouped = grouped
        self.flipped = flipped
        self.deep: set[str] = set()
        self.tables = tables
        self.count = 1
        self.said = Statements()
        self.values: dict[Value, tuple[Block, ...]] = {}
        self._untied: dict[tuple[Value, Node], tuple[Block, ...]] = {}
        self._columns: dict[object, Columns] = {}
        self._by_group: dict[Value, set[Node]] = {}
        self._pointing: dict[Value, Array] = {}
        self._held: dict[Value | tuple[Value, Node], Array] = {}
        self._holding: dict[Value, set[Node]] = {}
        self._followed: set[Value] = set()
        self.presences = Presences()
        self._at = -1

    def run(self) -> None:
        """Apply every node's rule in order, then freeze the model's outputs."""
        self._at = len(self.nodes)
        rows = {table: self.axis(table.weight, table.axis) for table in self.tables}
        for table, labels in rows.items():
            assert labels is not None
            self._pointing.update(dict.fromkeys(table.inputs, labels))
            self.freeze(labels[table.pinned], "it is a special token")
        for node in self._top:
            self._visit(node)
        self._at = len(self.nodes)
        for table, labels in rows.items():
            for output, axis in table.outputs:
                self.equal(labels, self.axis(output, axis))
        self._freeze_outputs()
        self._settle_columns()
        self._settle_positions()

    def _freeze_outputs(self) -> None:
        renumbered = {output: axis for table in self.tables for output, axis in table.outputs}
        for output in self.outputs:
            if output in self.presences.values:
                self.presences.need(self.presences.values[output], f"the output '{output.name}'", self)
            self.freeze(self._pointing.get(output), "positions along it are an output of the model")
            if any(block.joint and set(block.axes) <= output.follows for block in self.blocks(output)):
                self.resolve(output)  # one axis of it shrinks, whichever it is
            for block in self.blocks(output):
                if block.axes == (renumbered.get(output),):
                    continue
                if block.joint or not set(block.axes) <= output.follows:
                    self.freeze(block.labels, f"it makes the model's output '{output.name}'")

    def _visit(self, node: Node) -> None:
        """State a node's rule; where it has bodies, what enters them first, then theirs."""
        self._at = self._place[node]
        if not node.bodies:
            if any(v is not None and v.shape is None for v in (*node.inputs, *node.outputs)):
                self._freeze_node(node)
            else:
                self._state(node, self.rule(node).couple)
            self._hand_on(node)
            return
        enter = self.rule(node).enter
        if enter is not None:
            self._state(node, enter)
        for body in node.bodies:
            for inner in body.nodes:
                self._visit(inner)
        self._at = self._place[node]
        self._state(node, self.rule(node).couple)
        for output in (v for body in node.bodies for v in body.outputs):
            if output in self.presences.values:
                self.presences.need(self.presences.values[output], node.op, self)
            self.freeze(self._pointing.get(output), "positions along it leave a body")
            for block in self.blocks(output) if not known(self.rule(node).kind) else ():
                self.freeze(block.labels, f"it leaves a body of {node.op}, whose rule is not known")
        self._hand_on(node)

    def rule(self, node: Node) -> Operator:
        """The entry of the operator table that applies to a node."""
        return lookup("unknown" if node in self.failed else node.kind)

    def _state(self, node: Node, rule: CoupleRule) -> None:
        """Apply a rule. It raises where it has a mistake, or on operands that do not fit together, which no frontend
        can rule out; what the user asks for that cannot be done it says by an `InputError`.
        """
        try:
            rule(node, self)
        except (InputError, MemoryError):
            raise
        except Exception as error:
            self.failed[node] = what_failed(error)
            self.rule(node).couple(node, self)

    def _freeze_node(self, node: Node) -> None:
        for value in node.inputs:
            for block in self.blocks(value) if value is not None else ():
                self.freeze(block.labels, f"a shape at {node.op} is not known")
        for output in node.outputs:
            self.values[output] = ()

    def _hand_on(self, node: Node) -> None:
        """What vanishes, and positions that no rule followed: an operator that only moves elements hands them on, any
        other freezes. Random numbers come in the order of the indices that they are drawn for.
        """
        self.presences.hand_on(node, self)
        for block in (b for v in node.outputs for b in self.blocks(v)) if node.attrs.get("random") else ():
            self.ordered(block.labels)
        for at, value in enumerate(node.inputs):
            labels = self._pointing.get(value) if value is not None else None
            if labels is None or value in self._followed:
                continue
            if at == 0 and self.rule(node).moves:
                self._pointing.update(dict.fromkeys(node.outputs, labels))
            else:
                self.freeze(labels, f"{node.op} reads positions along it as numbers")
        self._followed.clear()

    def uses(self) -> list[Use]:
        """Every labeled weight at every place it is read."""
        found = []
        for node in self.nodes:
            for slot, value in enumerate(node.inputs):
                if value is None or value.weight is None:
                    continue
                blocks = self.values.get(value) or self._untied.get((value, node))
                if blocks is not None:
                    key = value if value.weight.tied else (value, node)
                    found.append(Use(node, slot, value, blocks, self._columns.get(key), self._held.get(key)))
        return found

    def _key(self, value: Value) -> tuple[Value, Node] | None:
        """Where the blocks of an untied weight are kept: one set for each node that reads it."""
        if value.weight is not None and not value.weight.tied and self._at < len(self.nodes):
            return value, self.nodes[self._at]
        return None

    def blocks(self, value: Value) -> tuple[Block, ...]:
        """See `Labeller`; a weight gets fresh labels on every axis when first asked for."""
        key = self._key(value)
        known = self._untied.get(key) if key else self.values.get(value)
        if known is None:
            known = ()
            if value.weight is not None and value.shape is not None:
                known = self._new(value, range(value.rank))
            elif value in self.inputs and value.shape is not None:
                known = self._new(value, sorted(value.follows))
            self._set(value, known)
        return known

    def _new(self, value: Value, axes: Iterable[int]) -> tuple[Block, ...]:
        """Labels of axes that may lose indices: the batch never does."""
        return tuple(Block((a,), self._born(value, a)) for a in axes if value.sizes[a] > 1 and a not in value.dynamic)

    def _born(self, value: Value, axis: int) -> Array:
        """New labels of a weight's axis (or an input's that follows); one for each unit that is stored together."""
        size, unit = value.sizes[axis], value.weight.units.get(axis, 1) if value.weight is not None else 1
        return self.fresh(size) if unit == 1 else np.repeat(self.fresh(-(-size // unit)), unit)[:size]

    def label_only(self, value: Value, axes: tuple[int, ...]) -> None:
        """See `Labeller`."""
        key = self._key(value)
        if value.weight is not None and (self._untied.get(key) if key else self.values.get(value)) is None:
            self._set(value, self._new(value, axes))

    def _set(self, value: Value, blocks: tuple[Block, ...]) -> None:
        key = self._key(value)
        if key:
            self._untied[key] = blocks
        else:
            self.values[value] = blocks

    def axis(self, value: Value, axis: int, *, touched: bool = False) -> Array | None:
        """See `Labeller`."""
        for block in self.blocks(value):
            if axis in block.axes:
                if not block.joint:
                    return block.labels
                self.resolve(value, axis if touched else None)
                return self.axis(value, axis)
        return None

    def resolve(self, value: Value, axis: int | None = None) -> None:
        """See `Labeller`."""
        settled = []
        for block in self.blocks(value):
            if block.joint and (axis is None or axis in block.axes):
                active = self._preferred(block) if axis is None else axis
                at = block.axes.index(active)
                index = tuple(slice(None) if i == at else slice(0, 1) for i in range(len(block.axes)))
                face = block.labels[index]
                self.equal(block.labels, face)
                self.said.resolved.append((block.origin, face.reshape(-1)))
                if len(block.axes) > 2:
                    self.deep.add(block.origin)
                settled.append(Block((active,), np.ascontiguousarray(face.reshape(-1))))
            else:
                settled.append(block)
        self._set(value, tuple(settled))

    def _preferred(self, block: Block) -> int:
        """The axis of a joint block that stays active: the outermost, unless an earlier walk found it stuck."""
        if block.origin in self.flipped:
            return block.axes[-1]
        return block.axes[1 if len(block.axes) > 2 and second(block.origin) in self.flipped else 0]

    def choose(self, origin: str, candidates: Sequence[Array]) -> int:
        """See `Labeller`."""
        at = len(candidates) - 1 if origin in self.flipped else 0
        self.said.resolved.append((origin, candidates[at].reshape(-1)))
        return at

    def put(self, value: Value, labels: dict[int, Array | None]) -> None:
        """See `Labeller`."""
        before = self.values.get(value, ())
        kept = [b for b in before if not set(b.axes) & labels.keys()]
        new = [Block((a,), x) for a, x in labels.items() if x is not None and value.sizes[a] > 1]
        self.put_blocks(value, (*kept, *new))

    def put_blocks(self, value: Value, blocks: Sequence[Block]) -> None:
        """See `Labeller`."""
        for block in blocks:
            if block.labels.shape != tuple(value.sizes[a] for a in block.axes):
                raise GraphPruneError(f"{block.labels.shape} labels for axes {block.axes} of {value!r}")
        self.values[value] = tuple(blocks)

    def put_columns(self, value: Value, columns: Columns) -> None:
        """See `Labeller`. A tied weight keeps the labels of the axis until all its readers are known."""
        key = self._key(value) or value
        if key in self._columns:
            self.equal(self._columns[key].labels, columns.labels)
        self._columns[key] = columns
        if key is value:
            self._by_group.setdefault(value, set()).add(self.nodes[self._at])
        else:
            self._set(value, tuple(b for b in self.blocks(value) if columns.axis not in b.axes))

    def _settle_columns(self) -> None:
        """Only readers that tell row groups apart may have columns by row group: where another one reads the weight as
        it is, or it is an output, the same columns go in all groups.
        """
        if not self._by_group:
            return
        plain = set(self.outputs)
        for node in self.nodes:
            plain.update(v for v in node.inputs if v in self._by_group and node not in self._by_group[v])
        for value in self._by_group:
            columns = self._columns[value]
            own = next((b for b in self.values[value] if b.axes == (columns.axis,)), None)
            if value in plain:
                self.equal(columns.labels, None if own is None else own.labels)
                del self._columns[value]
            else:
                self.values[value] = tuple(b for b in self.values[value] if b is not own)

    def fresh(self, *shape: int) -> Array:
        """See `Labeller`."""
        size = prod(int(n) for n in shape)
        if size > LARGEST:
            what = f"'{self.nodes[self._at].name}'" if self._at < len(self.nodes) else "the model"
            raise InputError(f"{what} has an axis of {size} indices, more than graphprune can label")
        labels = np.arange(self.count, self.count + size, dtype=np.int64).reshape(shape)
        self.count += size
        return labels

    def equal(self, a: Array | None, b: Array | None) -> None:
        """See `Labeller`."""
        if a is b:
            return
        if a is None or b is None:
            self.freeze(a if b is None else b, MET)
            return
        if a.shape != b.shape:
            a, b = np.broadcast_arrays(a, b)
        self.said.equal.append((a.reshape(-1), b.reshape(-1), self._at))

    def freeze(self, labels: Array | None, why: str) -> None:
        """See `Labeller`."""
        if labels is not None:
            self.said.freeze.append((labels.reshape(-1), self._at, why))

    def balance(self, rows: Array) -> None:
        """See `Labeller`."""
        self.said.balance.append((rows, self._at))

    def statistic(self, labels: Array | None) -> None:
        """See `Labeller`."""
        if labels is not None:
            self.said.statistic.append((labels.reshape(-1), self._at))

    def at_least(self, labels: Array | None, count: int) -> None:
        """See `Labeller`."""
        if labels is not None:
            self.said.at_least.append((labels.reshape(-1), count))

    def ordered(self, labels: Array | None) -> None:
        """See `Labeller`."""
        if labels is not None:
            self.said.ordered.append(labels.reshape(-1))

    def point(self, value: Value, labels: Array | None) -> None:
        """See `Labeller`."""
        if labels is None:
            return
        self.ordered(labels)
        if value.weight is None:
            self._pointing[value] = labels
            return
        key = self._key(value) or value
        self.equal(self._held.setdefault(key, labels), labels)
        self._holding.setdefault(value, set()).add(self.nodes[self._at])

    def _settle_positions(self) -> None:
        """A tied constant can hold positions counted anew only where all its readers take them for such."""
        for value in [key for key in self._held if isinstance(key, Value)]:
            readers = {node for node in self.nodes if value in node.inputs}
            if value in self.outputs or readers - self._holding[value]:
                self.freeze(self._held.pop(value), f"the constant '{value.name}' is read as numbers elsewhere")

    def pointing(self, value: Value) -> Array | None:
        """See `Labeller`."""
        self._followed.add(value)
        return self._pointing.get(value)

    def stands_alone(self, node: Node) -> bool:
        """See `Labeller`."""
        return self._at < len(self.nodes) and node is self.nodes[self._at] and node not in self._inside

    def vanish(self, node: Node, value: Value, label: int, *, strict: bool = False) -> None:
        """See `Labeller`."""
        if self.stands_alone(node):
            self.presences.pick(value, label, strict=strict)
        else:
            self.freeze(np.array([label]), f"{node.op} picks single indices of this axis")

    def vanishing(self, node: Node, slot: int) -> int | None:
        """See `Labeller`."""
        value = node.inputs[slot]
        return self.presences.single(value) if value is not None and self.stands_alone(node) else None

    def leave_out(self, node: Node, slot: int, label: int) -> None:
        """See `Labeller`."""
        if self.stands_alone(node):
            self.presences.parts[node, slot] = (frozenset([label]),)

    def apart(self, labels: Array) -> None:
        """See `Labeller`."""
        self.said.apart.append((labels, self._at))
