"""LSTM, GRU and plain recurrent layers: input width, hidden width and that of an LSTM's projection."""

from __future__ import annotations

import numpy as np

from graphprune.ir.graph import Node, Value

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
    widths = _widths(node, kept)
    if any(node.attrs[name] != width for name, width in widths.items()):
        node.change(**widths)


def _widths(node: Node, kept: Kept) -> dict[str, int]:
    """What the states have: the sequence holds the directions side by side, except in ONNX."""
    out = node.outputs[0]
    width = kept.size(out, out.rank - 1) // (1 if node.attrs.get("onnx") else node.attrs["directions"])
    if not node.attrs.get("proj"):
        return {"hidden": width}
    cell = node.outputs[2]
    return {"hidden": kept.size(cell, cell.rank - 1), "proj": width}


def _contracts(node: Node) -> list[Contraction]:
    """The input's, the state's and the projection's matrix of every layer and direction; only the first layer's for the
    input meet an operand.
    """
    found, order = [], node.attrs["order"]
    x = node.inputs[order.index("x")]
    for slot, name in enumerate(order):
        if name[:5] in ("w_ih.", "w_hh.", "w_hr.") or name in ("W", "R"):
            first = name == "W" or name.startswith("w_ih.0.")
            axis = 2 if name in ("W", "R") else 1
            data = order.index("x") if first else None
            found.append(Contraction(slot, axis, (axis - 1,), data=data, along=x.rank - 1 if x is not None else 0))
    return found


@operator("recurrent", cost=_cost, rewrite=_rewrite, recurs=True, bears=True, contracts=_contracts)
def recurrent(node: Node, labeller: Labeller) -> None:
    """The hidden units are one set of labels for all layers and directions (they are stored in one state tensor);
    the rows of every gate follow them. A projection makes them what the layer hands on, to itself too; its width is one
    set of labels for the same reason.
    """
    named = _named(node)
    if "W" in named:
        _onnx(node, named, labeller)
    else:
        _torch(node, named, labeller)


def _tie_gates(rows: Array | None, hidden: Array, labeller: Labeller) -> None:
    if rows is None:
        labeller.equal(None, hidden)
    else:
        labeller.equal(rows.reshape(-1, len(hidden)), np.broadcast_to(hidden, (len(rows) // len(hidden), len(hidden))))


def _tie_projection(weight: Value, passed: Array, hidden: Array, labeller: Labeller) -> None:
    labeller.equal(labeller.axis(weight, 0), passed)
    labeller.equal(labeller.axis(weight, 1), hidden)


def _states(node: Node, named: dict[str, Value], passed: Array, hidden: Array, labeller: Labeller) -> None:
    """h is what the layer hands on, c the hidden units."""
    widths = {"h0": passed, "c0": hidden}
    for name in ("h0", "c0"):
        if name in named:
            for axis in range(named[name].rank - 1):
                labeller.freeze(labeller.axis(named[name], axis), "layers and batch of a recurrent state are fixed")
            labeller.equal(labeller.axis(named[name], named[name].rank - 1), widths[name])
    for output, labels in zip(node.outputs[1:], (passed, hidden), strict=False):
        labeller.put(output, {output.rank - 1: labels})


def _passed(node: Node, hidden: Array, labeller: Labeller) -> Array:
    """The labels of what a layer hands on: the hidden units, or a projection of them.

    PyTorch takes states of equal widths for no projection, so the wider stays wider than the narrower has ever been.
    """
    width = node.attrs["proj"]
    if not width:
        return hidden
    passed = labeller.fresh(width)
    narrow, wide = sorted((passed, hidden), key=len)
    labeller.at_least(wide, len(narrow) + 1)
    return passed


def _torch(node: Node, named: dict[str, Value], labeller: Labeller) -> None:
    x, out = named["x"], node.outputs[0]
    hidden = labeller.fresh(node.attrs["hidden"])
    passed = _passed(node, hidden, labeller)
    labels = labeller.axis(x, x.rank - 1, touched=True)
    directions = node.attrs["directions"]
    for layer in range(node.attrs["layers"]):
        for direction in range(directions):
            tag = f"{layer}.{direction}"
            labeller.equal(labels, labeller.axis(named[f"w_ih.{tag}"], 1))
            labeller.equal(passed, labeller.axis(named[f"w_hh.{tag}"], 1))
            if f"w_hr.{tag}" in named:
                _tie_projection(named[f"w_hr.{tag}"], passed, hidden, labeller)
            for part in ("w_ih", "w_hh", "b_ih", "b_hh"):
                if f"{part}.{tag}" in named:
                    _tie_gates(labeller.axis(named[f"{part}.{tag}"], 0), hidden, labeller)
        labels = np.tile(passed, directions)
    _states(node, named, passed, hidden, labeller)
    passing = {a: labeller.axis(x, a) for a in range(x.rank - 1)}
    for steps in passing.values():
        labeller.freeze(steps, "a recurrent layer runs over this axis")
    labeller.put(out, {out.rank - 1: labels})


def _onnx(node: Node, named: dict[str, Value], labeller: Labeller) -> None:
    x, out = named["x"], node.outputs[0]
    hidden = labeller.fresh(node.attrs["hidden"])
    labeller.equal(labeller.axis(x, 2, touched=True), labeller.axis(named["W"], 2))
    labeller.equal(labeller.axis(named["R"], 2), hidden)
    for name in ("W", "R", "B", "P"):
        if name in named:
            labeller.freeze(labeller.axis(named[name], 0), "directions are left alone")
            _tie_gates(labeller.axis(named[name], 1), hidden, labeller)
    for axis in (0, 1):
        labeller.freeze(labeller.axis(x, axis), "a recurrent layer runs over this axis")
    _states(node, named, hidden, hidden, labeller)
    labeller.put(out, {out.rank - 1: hidden})
