"""Weights too large to be there at once: an operator runs on some indices of one of their axes at a time.

Which operators can: those where an index of that axis of an operand meets only the same index of other operands, and
makes that index of the result. `_LETTERS` says for a kind which axes are the same, as the terms of an einsum do. Pieces
of the result are then joined; or, where nothing but the weight is read, made when they are asked for in turn. Looking
into a table and products of sorted rows with a matrix each need a few indices only. For anything else the weight is put
together.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from graphprune.ir.graph import Node, Weight

from ..arrays import shared
from ..lower.aliasing import mutates

#: Bytes of a weight that is no longer taken whole, and of the pieces that it is taken in (but at least one index).
PART = 1 << 27

#: Runs the operator on its inputs.
Run = Callable[[list[Any]], Sequence[Any]]
Letters = tuple[Hashable, ...]


@dataclass(frozen=True)
class Parts:
    """A tensor of which some indices (`read`, from a start to a stop) of one axis can be made without the others."""

    axis: int
    count: int
    step: int
    read: Callable[[int, int], torch.Tensor]

    def pieces(self) -> Iterator[tuple[int, torch.Tensor]]:
        """Where each piece begins, and the piece."""
        for start in range(0, self.count, self.step):
            yield start, self.read(start, min(start + self.step, self.count))

    def whole(self) -> torch.Tensor:
        """All of it."""
        return torch.cat([piece for _, piece in self.pieces()], self.axis)

    def masked(self, masks: Sequence[torch.Tensor], mask: Callable[[Any, Any], torch.Tensor]) -> Parts:
        """Each piece masked (by `mask`) with what the masks have for it."""

        def read(start: int, stop: int) -> torch.Tensor:
            own = [_between(m, self.axis, start, stop) for m in masks]
            return mask(own, self.read(start, stop))

        return Parts(self.axis, self.count, self.step, read)

    def taken(self, axis: int, indices: torch.Tensor) -> Parts:
        """Some indices of an axis, as `index_select`; neighbours are read together."""
        if axis != self.axis:
            return Parts(self.axis, self.count, self.step, lambda a, b: self.read(a, b).index_select(axis, indices))

        def read(start: int, stop: int) -> torch.Tensor:
            wanted = indices[start:stop]
            runs = torch.tensor_split(wanted, ((wanted.diff() != 1).nonzero().reshape(-1) + 1).tolist())
            found = [self.read(int(run[0]), int(run[-1]) + 1) for run in runs]
            return found[0] if len(found) == 1 else torch.cat(found, axis)

        return Parts(axis, len(indices), self.step, read)


def in_parts(weight: Weight, device: torch.device | None) -> Parts | None:
    """A weight that lies in a file, to be taken in pieces; None where it is small or can only be read whole."""
    read_rows = weight.read_rows
    if not weight.lazy or read_rows is None or weight.stored_bytes <= PART:
        return None

    def read(start: int, stop: int) -> torch.Tensor:
        return shared(read_rows(start, stop)).to(device or "cpu")

    return Parts(0, weight.shape[0], weight.rows_in(PART), read)


def run_in_parts(node: Node, given: Sequence[list[Any]], run: Run) -> list[Sequence[Any]]:
    """What an operator makes of the inputs of each of several runs, where some (weights, in all runs the same) are
    `Parts`. Each piece is read once for all runs.
    """
    slots = [slot for slot, item in enumerate(given[0]) if isinstance(item, Parts)]
    if len(slots) == 1 and len(node.outputs) == 1 and not mutates(getattr(node.source, "target", None)):
        way = _WAYS.get(node.kind, _by_letters)
        found = way(node, slots[0], given, lambda inputs: run(inputs)[0])
        if found is not None:
            return [[result] for result in found]
    whole = {slot: given[0][slot].whole() for slot in slots}
    return [run([whole.get(slot, item) for slot, item in enumerate(inputs)]) for inputs in given]


def _between(tensor: torch.Tensor, axis: int, start: int, stop: int) -> torch.Tensor:
    return tensor if tensor.shape[axis] == 1 else tensor.narrow(axis, start, stop - start)


def _by_letters(
    node: Node, slot: int, given: Sequence[list[Any]], run: Callable[[list[Any]], Any]
) -> Sequence[Any] | None:
    """Piece by piece along an axis that goes through to the result; None where it does not."""
    parts: Parts = given[0][slot]
    rule = _LETTERS.get(node.kind)
    terms = rule(node) if rule is not None else None
    if terms is None:
        return None
    letter = terms[slot][parts.axis]
    *operands, result = [[axis for axis, own in enumerate(term) if own == letter] for term in terms]
    if len(result) != 1 or len(operands[slot]) != 1 or any(len(axes) > 1 for axes in operands):
        return None
    if all(item is None for at, item in enumerate(given[0]) if at != slot):
        made = Parts(result[0], parts.count, parts.step, lambda a, b: run(_put(given[0], slot, parts.read(a, b))))
        return [made] * len(given)
    others = {at: axes[0] for at, axes in enumerate(operands) if axes and at != slot and given[0][at] is not None}
    if any(given[0][at].shape[axis] not in (1, parts.count) for at, axis in others.items()):
        return None
    return _joined(slot, others, result[0], given, run)


def _joined(
    slot: int, others: dict[int, int], result: int, given: Sequence[list[Any]], run: Callable[[list[Any]], Any]
) -> list[torch.Tensor]:
    parts: Parts = given[0][slot]
    found: list[list[torch.Tensor]] = [[] for _ in given]
    for start, piece in parts.pieces():
        stop = start + piece.shape[parts.axis]
        for pieces, inputs in zip(found, given, strict=True):
            own = _put(inputs, slot, piece)
            for at, axis in others.items():
                own[at] = _between(own[at], axis, start, stop)
            pieces.append(run(own))
    return [torch.cat(pieces, result) for pieces in found]


def _put(inputs: list[Any], slot: int, item: Any) -> list[Any]:
    return [item if at == slot else own for at, own in enumerate(inputs)]


def _looked_up(
    node: Node, slot: int, given: Sequence[list[Any]], run: Callable[[list[Any]], Any]
) -> Sequence[Any] | None:
    """Only the rows of a table that are looked up are read."""
    parts: Parts = given[0][slot]
    if slot != 0 or parts.axis != node.attrs["axis"] or node.attrs["indices"] is not None:
        return None
    found = []
    for table, ids, *rest in given:
        counted = torch.where(ids < 0, ids + parts.count, ids)
        rows, places = counted.unique(return_inverse=True)  # type: ignore[no-untyped-call]
        few: Parts = table.taken(parts.axis, rows)
        found.append(run([few.read(0, few.count), places.to(ids.dtype), *rest]))
    return found


def _picked(node: Node, slot: int, given: Sequence[list[Any]], run: Callable[[list[Any]], Any]) -> Sequence[Any] | None:
    """One index alone is read, where the axis is that of the pieces."""
    parts: Parts = given[0][slot]
    if parts.axis != node.attrs["axis"]:
        return _by_letters(node, slot, given, run)
    at = node.attrs["index"]
    return [parts.read(at, at + 1).squeeze(parts.axis)] * len(given)


def _grouped(
    node: Node, slot: int, given: Sequence[list[Any]], run: Callable[[list[Any]], Any]
) -> Sequence[Any] | None:
    """Sorted rows times a matrix each: one matrix after the other, and none that has no rows."""
    parts: Parts = given[0][slot]
    if slot != 2 or parts.axis != 0:
        return None
    ends = [[0, *inputs[0].tolist()] for inputs in given]
    found: list[list[torch.Tensor]] = [[] for _ in given]
    for at in range(parts.count):
        if not any(own[at] < own[at + 1] for own in ends):
            continue
        matrix = parts.read(at, at + 1)
        for (counts, x, _), own, pieces in zip(given, ends, found, strict=True):
            rows = x[own[at] : own[at + 1]]
            if len(rows):
                pieces.append(run([counts.new_tensor([len(rows)]), rows, matrix])[: len(rows)])
    return [_rows(pieces, len(inputs[1]), parts) for pieces, inputs in zip(found, given, strict=True)]


def _rows(pieces: list[torch.Tensor], count: int, parts: Parts) -> torch.Tensor:
    """Joined, with zeros for rows of no matrix (of which nothing is said)."""
    like = pieces[0] if pieces else parts.read(0, 1)[0, :0]
    rest = count - sum(map(len, pieces))
    return torch.cat([*pieces, like.new_zeros(rest, like.shape[-1])])


_WAYS = {"gather": _looked_up, "select": _picked, "grouped_matmul": _grouped}


def _same(node: Node) -> list[Letters]:
    """Axes as numpy aligns them: from the last one on."""
    rank = node.outputs[0].rank
    return [*(() if v is None else tuple(range(rank - v.rank, rank)) for v in node.inputs), tuple(range(rank))]


def _transpose(node: Node) -> list[Letters]:
    perm = tuple(node.attrs["perm"])
    return [tuple(range(len(perm))), perm]


def _select(node: Node) -> list[Letters]:
    axes = tuple(range(node.outputs[0].rank + 1))
    return [axes, tuple(a for a in axes if a != node.attrs["axis"])]


def _slice(node: Node) -> list[Letters]:
    cut = {axis for axis, *_ in node.attrs["slices"]}
    axes = range(node.outputs[0].rank)
    return [tuple(axes), tuple(("cut", a) if a in cut else a for a in axes)]


def _matmul(node: Node) -> list[Letters]:
    a, b, *more = node.inputs
    assert a is not None and b is not None
    rank = max(a.rank, b.rank)

    def term(own: int, first: str, second: str, turned: bool) -> Letters:
        last = (second, first) if turned else (first, second)
        return (*range(rank - own, rank - 2), *last) if own > 1 else ("k",)

    rows, columns = ("m",) if a.rank > 1 else (), ("n",) if b.rank > 1 else ()
    out = (*range(rank - 2), *rows, *columns)
    terms = [term(a.rank, "m", "k", node.attrs.get("trans_a", False))]
    terms.append(term(b.rank, "k", "n", node.attrs.get("trans_b", False)))
    return [*terms, *(() if v is None or not v.rank else out[-v.rank :] for v in more), out]


def _einsum(node: Node) -> list[Letters]:
    left, _, right = node.attrs["equation"].partition("->")
    return [*map(tuple, left.split(",")), tuple(right)]


_LETTERS: dict[str, Callable[[Node], list[Letters]]] = {
    "elementwise": _same,
    "transpose": _transpose,
    "select": _select,
    "slice": _slice,
    "matmul": _matmul,
    "einsum": _einsum,
}
