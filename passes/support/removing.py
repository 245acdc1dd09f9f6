"""Whole values that vanish with a component leave the graph, and with them what only they were made of."""

from __future__ import annotations

from graphprune.coupling import Coupling
from graphprune.coupling.slicing import Survivors
from graphprune.ir.graph import Graph, Node, Value

from ..remove_dead import dead_nodes


def leave_out(coupling: Coupling, graph: Graph, survivors: Survivors) -> None:
    """Take values that are gone out of a copy of the coupling's graph, in place; sums and stacks do without them."""
    if not any(map(survivors.gone, coupling.presences.values)) and not any(
        survivors.left_out(node, slot) for node, slot in coupling.presences.parts
    ):
        return
    _leave_out(coupling.graph, graph, survivors)
    if coupling.graph.training is not None and graph.training is not None:
        _leave_out(coupling.graph.training, graph.training, survivors)


def _leave_out(before: Graph, after: Graph, survivors: Survivors) -> None:
    kept, same = [], dict[Value, Value]()
    for old, new in zip(before.nodes, after.nodes, strict=True):
        new.substitute(same)
        if old.outputs and all(map(survivors.gone, old.outputs)):
            continue
        new.outputs = [now for was, now in zip(old.outputs, new.outputs, strict=True) if not survivors.gone(was)]
        if _shorten(old, new, survivors, same):
            kept.append(new)
    after.nodes = kept
    after.outputs = [same.get(value, value) for value in after.outputs]
    dead = set(dead_nodes(after))
    after.nodes = [node for node in after.nodes if node not in dead]


def _shorten(old: Node, new: Node, survivors: Survivors, same: dict[Value, Value]) -> bool:
    """Take operands out of a node; whether it still does anything. A sum of one is that one."""
    left = [value for slot, value in enumerate(new.inputs) if not survivors.left_out(old, slot)]
    if len(left) == len(new.inputs):
        return True
    new.inputs = left
    if new.kind != "elementwise":
        new.change()
    elif len(left) == 1 and left[0] is not None:
        same[new.outputs[0]] = left[0]
        return False
    return True
