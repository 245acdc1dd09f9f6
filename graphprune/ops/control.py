"""Control flow: what crosses into a body and out of it carries its labels; what is irregular is frozen.

The nodes of a body state their own rules in the same walk, and values of the outer graph that they read are the same
`Value`s there. So only what changes its name at the border needs a rule: inputs and outputs of bodies.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphprune.ir.graph import Graph, Node, Value

from .base import Labeller, operator

#: Inputs of a Loop before its carried values (trip count, condition); of its body (iteration, condition); the body's
#: condition comes first among its outputs.
_BEFORE, _BODY_BEFORE, _BODY_FIRST = 2, 2, 1


def _freeze(value: Value | None, labeller: Labeller) -> None:
    for block in labeller.blocks(value) if value is not None else ():
        labeller.freeze(block.labels, "it crosses the border of a body and changes its shape there")


def _own_axis(axis: int, missing: int | None) -> int:
    """The axis of the longer shape."""
    return axis if missing is None or axis < missing else axis + 1


def _fits(small: Value | None, large: Value, missing: int | None) -> bool:
    if small is None or small.shape is None or large.shape is None:
        return False
    sizes = list(large.sizes)
    if missing is not None:
        if not 0 <= missing < len(sizes):
            return False
        del sizes[missing]
    return tuple(sizes) == small.sizes


def _enter(source: Value | None, inner: Value, missing: int | None, labeller: Labeller) -> None:
    """Give a body's input the labels of what is handed in, without its axis `missing`, which must stay whole."""
    labeller.put(inner, {})
    if source is None or not _fits(inner, source, missing):
        _freeze(source, labeller)
        return
    labeller.resolve(source)
    if missing is not None:
        labeller.freeze(labeller.axis(source, missing), "a scan runs over it")
    labeller.put(inner, {a: labeller.axis(source, _own_axis(a, missing)) for a in range(inner.rank)})


def _leave(inner: Value, out: Value, missing: int | None, labeller: Labeller) -> None:
    """Give an output the labels of the body's output; its axis `missing` is new."""
    labeller.put(out, {})
    if not _fits(inner, out, missing):
        _freeze(inner, labeller)
        return
    labeller.resolve(inner)
    labeller.put(out, {_own_axis(a, missing): labeller.axis(inner, a) for a in range(inner.rank)})


def _meet(values: Sequence[Value], labeller: Labeller) -> None:
    """All of these are one value at different times, or by different ways."""
    first = values[0]
    if any(value.shape is None or value.shape != first.shape for value in values):
        for value in values:
            _freeze(value, labeller)
        return
    for value in values:
        labeller.resolve(value)
    for axis in range(first.rank):
        for value in values[1:]:
            labeller.equal(labeller.axis(first, axis), labeller.axis(value, axis))


@operator("if")
def branch(node: Node, labeller: Labeller) -> None:
    """The branches' outputs meet."""
    for i, out in enumerate(node.outputs):
        ways = [body.outputs[i] for body in node.bodies]
        _meet(ways, labeller)
        _leave(ways[0], out, None, labeller)


def _states(node: Node, body: Graph, count: int, skip: tuple[int, int, int]) -> list[tuple[Value | None, Value, Value]]:
    """(initial, entering, leaving) of each carried value; `skip` is what lies before them on each side."""
    initial = node.inputs[skip[0] : skip[0] + count]
    return list(
        zip(initial, body.inputs[skip[1] : skip[1] + count], body.outputs[skip[2] : skip[2] + count], strict=True)
    )


def _enter_loop(node: Node, labeller: Labeller) -> None:
    for value in node.bodies[0].inputs[:_BODY_BEFORE]:
        labeller.put(value, {})
    for initial, entering, _ in _loop_states(node):
        _enter(initial, entering, None, labeller)


def _loop_states(node: Node) -> list[tuple[Value | None, Value, Value]]:
    return _states(node, node.bodies[0], node.attrs["carried"], (_BEFORE, _BODY_BEFORE, _BODY_FIRST))


@operator("loop", enter=_enter_loop, recurs=True)
def loop(node: Node, labeller: Labeller) -> None:
    """What is carried is one value through all rounds; what is collected gains an axis in front."""
    carried = node.attrs["carried"]
    for (_, entering, leaving), out in zip(_loop_states(node), node.outputs, strict=False):
        _meet([entering, leaving], labeller)
        _leave(entering, out, None, labeller)
    for inner, out in zip(node.bodies[0].outputs[_BODY_FIRST + carried :], node.outputs[carried:], strict=False):
        _leave(inner, out, 0, labeller)


def _enter_scan(node: Node, labeller: Labeller) -> None:
    carried = node.attrs["carried"]
    for initial, entering, _ in _scan_states(node):
        _enter(initial, entering, None, labeller)
    inner = node.bodies[0].inputs[carried:]
    for source, value, axis in zip(node.inputs[carried:], inner, node.attrs["input_axes"], strict=True):
        _enter(source, value, axis, labeller)


def _scan_states(node: Node) -> list[tuple[Value | None, Value, Value]]:
    return _states(node, node.bodies[0], node.attrs["carried"], (0, 0, 0))


@operator("scan", enter=_enter_scan, recurs=True)
def scan(node: Node, labeller: Labeller) -> None:
    """States as in a loop; scanned inputs lose their axis inside, collected outputs gain one."""
    carried, axes = node.attrs["carried"], node.attrs["output_axes"]
    for (_, entering, leaving), out in zip(_scan_states(node), node.outputs, strict=False):
        _meet([entering, leaving], labeller)
        _leave(entering, out, None, labeller)
    inner = node.bodies[0].outputs[carried:]
    for value, out, axis in zip(inner, node.outputs[carried:], axes, strict=False):
        _leave(value, out, axis, labeller)
