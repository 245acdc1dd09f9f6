"""Parameters and multiply-accumulates that would be left of a graph under a plan."""

from __future__ import annotations

from math import prod

import numpy as np
from scipy.sparse import csr_matrix

from graphprune.coupling import Coupling
from graphprune.ir.graph import Node, Value
from graphprune.ops import Block, Cost
from graphprune.ops.base import Array
from graphprune.ops.cost import costs

#: A factor and the rows of the count matrix it is multiplied by.
_Term = tuple[float, list[int]]


class Counter:
    """Evaluates counts for a mask over components by one sparse product."""

    def __init__(self, coupling: Coupling) -> None:
        self._coupling = coupling
        self._rows: dict[int, int] = {}
        self._arrays: list[Array] = []
        self._single: dict[int, Array] = {}
        self._uses = {(use.value, use.node): use.blocks for use in reversed(coupling.uses)}
        self._copied = _Copies(coupling)
        self._parameters, self._macs = _Terms(self._parameter_terms()), _Terms(self._cost_terms())
        lengths = [a.size for a in self._arrays]
        labels = np.concatenate([a.reshape(-1) for a in self._arrays]) if self._arrays else np.zeros(0, np.int64)
        columns = coupling.component[labels]
        rows = np.repeat(np.arange(len(lengths)), lengths)
        self._matrix = csr_matrix((np.ones(len(rows)), (rows, columns)), shape=(len(lengths), coupling.count))

    def parameters(self, keep: Array) -> int:
        """Elements of trainable weights that stay, copies counted where uses of a shared weight come to differ."""
        return round(self._parameters.evaluate(self._matrix @ keep)) + self._copied.elements(keep)

    def macs(self, keep: Array) -> int:
        """Multiply-accumulates that stay."""
        return round(self._macs.evaluate(self._matrix @ keep))

    def _fate(self, key: Node | Value) -> list[int]:
        """Rows that are 1 while what a node or a weight is good for stays, and 0 afterwards."""
        labels = self._coupling.fates.get(key, ())
        return [self._row(self._single.setdefault(int(label), np.array([label]))) for label in labels]

    def _row(self, labels: Array) -> int:
        """The row that counts what stays of these labels."""
        key = id(labels)
        if key not in self._rows:
            self._rows[key] = len(self._arrays)
            self._arrays.append(labels)
        return self._rows[key]

    def _parameter_terms(self) -> list[_Term]:
        coupling, terms, seen = self._coupling, [], set(self._copied.values)
        for use in coupling.uses:
            weight = use.value.weight
            if weight is None or not weight.trainable or use.value in seen:
                continue
            seen.add(use.value)
            rows = [*self._fate(use.value), *(self._row(b.labels) for b in use.blocks)]
            factor = weight.size / prod(b.labels.size for b in use.blocks)
            if use.columns is not None and coupling.grouped == "within":
                rows.append(self._row(use.columns.labels))
                factor /= use.columns.labels.size
            terms.append((factor, rows))
        rest = [v for v in coupling.graph.weights().values() if v not in seen]
        terms += [(float(v.weight.size), self._fate(v)) for v in rest if v.weight is not None and v.weight.trainable]
        return terms

    def _cost_terms(self) -> list[_Term]:
        terms = []
        for node in self._coupling.graph.flat_nodes:
            terms += [self._cost_term(node, cost) for cost in costs(node)]
        return terms

    def _blocks(self, value: Value, node: Node) -> tuple[Block, ...]:
        if value.weight is not None:
            return self._uses.get((value, node), ())
        return self._coupling.blocks.get(value, ())

    def _cost_term(self, node: Node, cost: Cost) -> _Term:
        """A joint block counts once, on its outermost axis;

        with whole groups removed, filters a group stay as they are.
        """
        factor, rows = cost.factor / cost.groups, self._fate(node)
        for i, (value, axis) in enumerate(cost.axes):
            block = next((b for b in self._blocks(value, node) if axis in b.axes), None)
            whole = cost.groups > 1 and self._coupling.grouped == "whole" and i == len(cost.axes) - 1
            if block is None or whole:
                factor *= value.sizes[axis]
            elif axis == block.axes[0]:
                rows.append(self._row(block.labels))
        return factor, rows


class _Copies:
    """Weights that are one tensor only while all uses keep the same indices of it (see `Weight.tied`).

    What a use keeps is told by a sum of random numbers, one for each index: equal sums, equal slices.
    """

    def __init__(self, coupling: Coupling) -> None:
        uses: dict[Value, list[Array]] = {}
        for use in coupling.uses:
            weight = use.value.weight
            if weight is not None and weight.trainable and not weight.tied and len(use.blocks) <= 1:
                labels = use.blocks[0].labels if use.blocks else np.zeros(weight.size, np.int64)
                uses.setdefault(use.value, []).append(coupling.component[labels])
        shared = {v: parts for v, parts in uses.items() if any((p != parts[0]).any() for p in parts[1:])}
        self.values = frozenset(shared)
        parts = [part for found in shared.values() for part in found]
        lengths = [len(part) for part in parts]
        self._owner = np.repeat(np.arange(len(shared), dtype=np.uint64), [len(found) for found in shared.values()])
        at = np.repeat(np.arange(len(parts)), lengths), np.concatenate(parts) if parts else np.zeros(0, np.int64)
        random = np.random.default_rng(0).integers(1, 1 << 63, max(lengths, default=0), np.uint64)
        marks = np.concatenate([random[:n] for n in lengths]) if parts else np.zeros(0, np.uint64)
        self._marks = csr_matrix((marks, at), shape=(len(parts), coupling.count))
        self._counts = csr_matrix((np.ones(len(marks), np.int64), at), shape=(len(parts), coupling.count))

    def elements(self, keep: Array) -> int:
        """Elements of all tensors that these weights become."""
        if not self.values:
            return 0
        slices = np.stack([self._owner, self._marks @ keep.astype(np.uint64)])
        _, first = np.unique(slices, axis=1, return_index=True)
        return int((self._counts @ keep)[first].sum())


class _Terms:
    """A sum of `factor * product of counts`, evaluated for all terms at once."""

    def __init__(self, terms: list[_Term]) -> None:
        self._factors = np.array([factor for factor, _ in terms])
        self._index = np.full((len(terms), max((len(rows) for _, rows in terms), default=0)), -1)
        for i, (_, rows) in enumerate(terms):
            self._index[i, : len(rows)] = rows

    def evaluate(self, counts: Array) -> float:
        padded = np.append(counts, 1.0)
        return float((self._factors * np.prod(padded[self._index], axis=1)).sum())
