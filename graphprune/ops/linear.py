"""Contractions: matmul in all its forms, einsum, scaled dot-product attention."""

from __future__ import annotations

import numpy as np

from graphprune.ir.graph import Node, Value

from .base import Absence, Contraction, Cost, Kept, Labeller, Statistic, operator
from .broadcast import Operand, meet


def _matmul_axes(node: Node) -> tuple[int | None, int, int, int | None]:
    """(row axis of a, contracted axis of a, contracted axis of b, column axis of b); vectors lack row or column."""
    a, b = node.inputs[0], node.inputs[1]
    assert a is not None and b is not None
    row, inner = (a.rank - 2, a.rank - 1) if a.rank > 1 else (None, 0)
    if row is not None and node.attrs.get("trans_a"):
        row, inner = inner, row
    depth, column = (b.rank - 2, b.rank - 1) if b.rank > 1 else (0, None)
    if column is not None and node.attrs.get("trans_b"):
        depth, column = column, depth
    return row, inner, depth, column


def _matmul_cost(node: Node) -> list[Cost]:
    a, out = node.inputs[0], node.outputs[0]
    assert a is not None
    inner = _matmul_axes(node)[1]
    return [Cost(1.0, ((a, inner), *((out, axis) for axis in range(out.rank))))]


def _matmul_contracts(node: Node) -> list[Contraction]:
    row, inner, depth, column = _matmul_axes(node)
    rows, columns = (() if axis is None else (axis,) for axis in (row, column))
    a, b = (value.rank if value is not None else 0 for value in node.inputs[:2])
    pairs = tuple((a - n, b - n) for n in range(min(a, b), 2, -1))
    return [
        Contraction(1, depth, columns, data=0, along=inner, each=tuple((own, other) for other, own in pairs)),
        Contraction(0, inner, rows, data=1, along=depth, each=pairs),
    ]


def _absent_factor(node: Node, slot: int) -> Absence | None:
    """A product with nothing is nothing, unless a bias is added."""
    return "result" if slot < 2 and (len(node.inputs) < 3 or node.inputs[2] is None) else None


@operator("matmul", bears=True, cost=_matmul_cost, contracts=_matmul_contracts, absent=_absent_factor)
def matmul(node: Node, labeller: Labeller) -> None:
    """The inner axes are equal; rows, columns and batch axes pass to the result."""
    a, b, out = node.inputs[0], node.inputs[1], node.outputs[0]
    assert a is not None and b is not None
    labeller.resolve(a)
    labeller.resolve(b)
    row, inner, depth, column = _matmul_axes(node)
    labeller.equal(labeller.axis(a, inner), labeller.axis(b, depth)) if a.sizes[inner] > 1 else None
    tail = (row is not None) + (column is not None)
    batch = out.rank - tail
    own_a, own_b = max(a.rank - 2, 0), max(b.rank - 2, 0)
    operands = [
        Operand(a, tuple(i - (batch - own_a) if i >= batch - own_a else None for i in range(batch))),
        Operand(b, tuple(i - (batch - own_b) if i >= batch - own_b else None for i in range(batch))),
    ]
    labels: dict[int, np.ndarray | None] = {}
    if row is not None:
        labels[batch] = labeller.axis(a, row)
    if column is not None:
        labels[out.rank - 1] = labeller.axis(b, column)
    blocks = meet(operands, batch, labeller)
    labeller.put_blocks(out, blocks)
    labeller.put(out, labels)
    if len(node.inputs) > 2 and node.inputs[2] is not None:
        _add_bias(node.inputs[2], out, labeller)


def _add_bias(bias: Value, out: Value, labeller: Labeller) -> None:
    missing = out.rank - bias.rank
    operands = [
        Operand(out, tuple(range(out.rank))),
        Operand(bias, tuple(None if a < missing else a - missing for a in range(out.rank))),
    ]
    labeller.put_blocks(out, meet(operands, out.rank, labeller))


def _einsum_terms(node: Node) -> tuple[list[str], str]:
    left, right = node.attrs["equation"].split("->")
    return left.split(","), right


def _einsum_cost(node: Node) -> list[Cost]:
    terms, _ = _einsum_terms(node)
    seen: dict[str, tuple[Value, int]] = {}
    for term, value in zip(terms, node.inputs, strict=True):
        assert value is not None
        for axis, letter in enumerate(term):
            if letter not in seen or value.sizes[axis] > 1:
                seen[letter] = (value, axis)
    return [Cost(1.0, tuple(seen.values()))] if len(terms) > 1 else []


def _einsum_contracts(node: Node) -> list[Contraction]:
    """Where two operands share letters that the result lacks; of several, the last axis is that along which products
    are neighbours.
    """
    terms, result = _einsum_terms(node)
    inner = {c for c in terms[0] if c in terms[-1] and c not in result}
    if len(terms) != 2 or not inner or any(len(set(term)) < len(term) for term in terms):
        return []

    def operand(own: int, other: int) -> Contraction:
        rows = tuple(i for i, c in enumerate(terms[own]) if c in result and c not in terms[other])
        each = tuple((i, terms[other].index(c)) for i, c in enumerate(terms[own]) if c in result and c in terms[other])
        *before, axis = (i for i, c in enumerate(terms[own]) if c in inner)
        along = terms[other].index(terms[own][axis])
        return Contraction(own, axis, rows, tuple(before), data=other, along=along, each=each)

    return [operand(1, 0), operand(0, 1)]


@operator(
    "einsum",
    bears=True,
    cost=_einsum_cost,
    contracts=_einsum_contracts,
    absent=lambda node, slot: "result",
)
def einsum(node: Node, labeller: Labeller) -> None:
    """Every letter is one axis, whichever operands it occurs in."""
    terms, result = _einsum_terms(node)
    found: dict[str, list[np.ndarray | None]] = {}
    for term, value in zip(terms, node.inputs, strict=True):
        assert value is not None
        labeller.resolve(value)
        for axis, letter in enumerate(term):
            labels = labeller.axis(value, axis)
            if term.count(letter) > 1:
                labeller.freeze(labels, "an einsum takes a diagonal over this axis")
                labels = None
            if value.sizes[axis] > 1:
                found.setdefault(letter, []).append(labels)
    for labels_of in found.values():
        for other in labels_of[1:]:
            labeller.equal(labels_of[0], other)
    labeller.put(node.outputs[0], {i: (found.get(c) or [None])[0] for i, c in enumerate(result)})


def _attention_cost(node: Node) -> list[Cost]:
    query, key, value = node.inputs[0], node.inputs[1], node.inputs[2]
    assert query is not None and key is not None and value is not None
    heads = tuple((query, axis) for axis in range(query.rank - 2))
    pairs = query.sizes[-2] * key.sizes[-2]
    return [
        Cost(float(pairs), (*heads, (query, query.rank - 1))),
        Cost(float(pairs), (*heads, (value, value.rank - 1))),
    ]


def _rewrite_attention(node: Node, kept: Kept) -> None:
    query = node.inputs[0]
    assert query is not None
    if kept.size(query, query.rank - 1) != query.sizes[-1]:
        node.change(scale=node.attrs["scale"])  # the scale stays what it was for the original width


@operator("attention", cost=_attention_cost, rewrite=_rewrite_attention)
def attention(node: Node, labeller: Labeller) -> None:
    """Heads of query, key and value go together; the width of a head is contracted between query and key."""
    query, key, value = node.inputs[0], node.inputs[1], node.inputs[2]
    assert query is not None and key is not None and value is not None
    out = node.outputs[0]
    for operand in (query, key, value):
        labeller.resolve(operand)
    labeller.equal(labeller.axis(query, query.rank - 1), labeller.axis(key, key.rank - 1))
    for operand in (query, key, value):
        labeller.freeze(labeller.axis(operand, operand.rank - 2), "attention runs over this axis")
    heads = _attention_heads(node, labeller)
    labels: dict[int, np.ndarray | None] = {out.rank - 1: labeller.axis(value, value.rank - 1)}
    if out.rank > 2:
        labels[out.rank - 3] = heads
    for axis in range(out.rank - 3):
        labels[axis] = labeller.axis(query, axis)
        for operand in (key, value):
            if operand.sizes[axis] > 1:
                labeller.equal(labels[axis], labeller.axis(operand, axis))
    labeller.put(out, labels)


def _attention_heads(node: Node, labeller: Labeller) -> np.ndarray | None:
    query = node.inputs[0]
    assert query is not None
    if query.rank < 3:
        return None
    heads = labeller.axis(query, query.rank - 3)
    count = query.sizes[-3]
    for operand in node.inputs[1:3]:
        assert operand is not None
        own = operand.sizes[-3]
        if own > 1:
            theirs = labeller.axis(operand, operand.rank - 3)
            labeller.equal(heads, theirs if theirs is None or own == count else np.repeat(theirs, count // own))
    mask = node.inputs[3] if len(node.inputs) > 3 else None
    if mask is not None:
        labeller.resolve(mask)
        for axis in range(mask.rank):
            theirs = labeller.axis(mask, axis)
            if mask.rank - axis == 3 and mask.sizes[axis] > 1:
                labeller.equal(heads, theirs)
            else:
                labeller.freeze(theirs, "attention runs over this axis")
    return heads


def _grouped_matmul_cost(node: Node) -> list[Cost]:
    x, out = node.inputs[1], node.outputs[0]
    assert x is not None
    return [Cost(1.0, ((x, 0), (x, 1), (out, 1)))]


@operator("grouped_matmul", bears=True, cost=_grouped_matmul_cost, statistic=lambda _: Statistic((0,), whole=True))
def grouped_matmul(node: Node, labeller: Labeller) -> None:
    """Rows of `x`, sorted by matrix, times a matrix each: rows before `ends[0]` take the first of `weight`, and so on.

    A matrix goes with its end. Ends are running numbers of rows, which zeros in place of those that went would break:
    the masked original runs on the matrices left.
    """
    ends, x, weight = node.inputs[:3]
    assert ends is not None and x is not None and weight is not None
    for value in (ends, x, weight):
        labeller.resolve(value)
    labeller.freeze(labeller.axis(x, 0), "each row has a matrix of its own")
    labeller.equal(labeller.axis(ends, 0), labeller.axis(weight, 0))
    labeller.equal(labeller.axis(x, 1), labeller.axis(weight, 1))
    labeller.put(node.outputs[0], {1: labeller.axis(weight, 2)})
