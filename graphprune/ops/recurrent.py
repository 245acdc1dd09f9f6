"""LSTM, GRU and plain recurrent layers: input width and hidden width."""

from __future__ import annotations

import numpy as np

from ..graph import Node, Value
from .base import Array, Contraction, Cost, Kept, Labeller, operator


def _named(node: Node) -> dict[str, Value]:
    return {name: v for name, v in zip(node.attrs["order"], node.inputs, strict=False) if v is not None}


def _cost(node: Node) -> list[Cost]:
    named = _named(node)
    x = named["x"]
    steps = float(np.prod(x.sizes[:-1]))
    matrices = [v for name, v in named.items() if name[:2] in ("w_",) or name in ("W", "R")]
    return [Cost(steps, tuple((v, a) for a in range(v.rank))) for v in matrices]


def _rewrite(node: Node, kept: Kept) -> None:
    out, hidden = node.outputs[0], node.attrs["hidden"]
    state = node.outputs[1] if len(node.outputs) > 1 else None
    size = hidden
    if node.attrs.get("onnx"):
        size = kept.size(out, out.rank - 1)
    elif state is not None:
        size = kept.size(out, out.rank - 1) // node.attrs["directions"]
    if size != hidden:
        node.change(hidden=size)


def _contracts(node: Node) -> list[Contraction]:
    """The input's and the state's matrix of every layer and direction; only the first layer's meet an operand."""
    found, order = [], node.attrs["order"]
    x = node.inputs[order.index("x")]
    for slot, name in enumerate(order):
        if name[:5] in ("w_ih.", "w_hh.") or name in ("W", "R"):
            first = name == "W" or name.startswith("w_ih.0.")
            axis = 2 if name in ("W", "R") else 1
            data = order.index("x") if first else None
            found.append(Contraction(slot, axis, (axis - 1,), data=data, along=x.rank - 1 if x is not None else 0))
    return found


@operator("recurrent", cost=_cost, rewrite=_rewrite, recurs=True, bears=True, contracts=_contracts)
def recurrent(node: Node, labeller: Labeller) -> None:
    """The hidden units are one set of labels for all layers and directions (they are stored in one state tensor);
    the rows of every gate follow them.
    """
    named = _named(node)
    if node.attrs.get("proj") or "P" in named:
        _freeze_all(node, labeller)
    elif "W" in named:
        _onnx(node, named, labeller)
    else:
        _torch(node, named, labeller)


def _freeze_all(node: Node, labeller: Labeller) -> None:
    for value in node.inputs:
        for block in labeller.blocks(value) if value is not None else ():
            labeller.freeze(block.labels, "a recurrent layer with a projection or peepholes is left alone")
    for output in node.outputs:
        labeller.put(output, {})


def _tie_gates(rows: Array | None, hidden: Array, labeller: Labeller) -> None:
    if rows is None:
        labeller.equal(None, hidden)
    else:
        labeller.equal(rows.reshape(-1, len(hidden)), np.broadcast_to(hidden, (len(rows) // len(hidden), len(hidden))))


def _states(node: Node, named: dict[str, Value], hidden: Array, labeller: Labeller) -> None:
    for name in ("h0", "c0"):
        if name in named:
            for axis in range(named[name].rank - 1):
                labeller.freeze(labeller.axis(named[name], axis), "layers and batch of a recurrent state are fixed")
            labeller.equal(labeller.axis(named[name], named[name].rank - 1), hidden)
    for output in node.outputs[1:]:
        labeller.put(output, {output.rank - 1: hidden})


def _torch(node: Node, named: dict[str, Value], labeller: Labeller) -> None:
    x, out = named["x"], node.outputs[0]
    hidden = labeller.fresh(node.attrs["hidden"])
    labels = labeller.axis(x, x.rank - 1, touched=True)
    directions = node.attrs["directions"]
    for layer in range(node.attrs["layers"]):
        for direction in range(directions):
            tag = f"{layer}.{direction}"
            labeller.equal(labels, labeller.axis(named[f"w_ih.{tag}"], 1))
            labeller.equal(hidden, labeller.axis(named[f"w_hh.{tag}"], 1))
            for part in ("w_ih", "w_hh", "b_ih", "b_hh"):
                if f"{part}.{tag}" in named:
                    _tie_gates(labeller.axis(named[f"{part}.{tag}"], 0), hidden, labeller)
        labels = np.tile(hidden, directions)
    _states(node, named, hidden, labeller)
    passing = {a: labeller.axis(x, a) for a in range(x.rank - 1)}
    for steps in passing.values():
        labeller.freeze(steps, "a recurrent layer runs over this axis")
    labeller.put(out, {out.rank - 1: labels})


def _onnx(node: Node, named: dict[str, Value], labeller: Labeller) -> None:
    x, out = named["x"], node.outputs[0]
    hidden = labeller.fresh(node.attrs["hidden"])
    labeller.equal(labeller.axis(x, 2, touched=True), labeller.axis(named["W"], 2))
    labeller.equal(labeller.axis(named["R"], 2), hidden)
    for name in ("W", "R", "B"):
        if name in named:
            labeller.freeze(labeller.axis(named[name], 0), "directions are left alone")
            _tie_gates(labeller.axis(named[name], 1), hidden, labeller)
    for axis in (0, 1):
        labeller.freeze(labeller.axis(x, axis), "a recurrent layer runs over this axis")
    _states(node, named, hidden, labeller)
    labeller.put(out, {out.rank - 1: hidden})
