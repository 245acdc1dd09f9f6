"""Calls whose result nobody uses: no part of what a model computes, but its class makes them, and their sizes must fit.

Examples are a pooler beside mean pooling, and the last residual convolution of a stack that only hands on its skips.
"""

from __future__ import annotations

from collections.abc import Sequence

from graphprune.ir.graph import Node, Value


def idle_nodes(nodes: Sequence[Node], kept: Sequence[Node]) -> list[Node]:
    """Of the nodes that are not kept those that hang together with one that reads a tensor of the module which the kept
    ones leave aside.
    """
    live = set(kept)
    known = {value for node in kept for value in node.reads()}
    part: dict[Value, int] = {}
    same: list[int] = []

    def first(at: int) -> int:
        while same[at] != at:
            same[at] = at = same[same[at]]
        return at

    dead = [node for node in nodes if node not in live]
    for at, node in enumerate(dead):
        same.append(at)
        for value in node.reads():
            if value in part:
                same[first(part[value])] = first(at)
        part.update(dict.fromkeys(node.outputs, at))
    wanted = {first(at) for at, node in enumerate(dead) if _reads_more(node, known)}
    return [node for at, node in enumerate(dead) if first(at) in wanted]


def _reads_more(node: Node, known: set[Value]) -> bool:
    return any(v.weight is not None and v.weight.tied and v not in known for v in node.reads())
