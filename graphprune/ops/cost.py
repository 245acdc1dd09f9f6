"""Multiply-accumulates of a graph as it is; what a plan would leave of them is counted in `graphprune.pruning.cost`."""

from __future__ import annotations

from collections.abc import Iterable
from math import prod

from graphprune.ir.graph import Graph, Node

from . import lookup
from .base import Cost


def macs(graph: Graph) -> int:
    """Multiply-accumulates of one run at the bound sizes:

    convolutions, matrix products, attention, recurrent layers.
    """
    return macs_of(graph.flat_nodes)


def macs_of(nodes: Iterable[Node]) -> int:
    """Multiply-accumulates of some nodes of a graph."""
    total = 0.0
    for node in nodes:
        for cost in costs(node):
            total += cost.factor * prod(v.sizes[a] for v, a in cost.axes) / cost.groups
    return round(total)


def costs(node: Node) -> list[Cost]:
    """What is known of a node's cost: nothing where a shape is not known or its rule fails (coupling says so)."""
    rule = lookup(node.kind).cost
    if rule is None or any(v is not None and v.shape is None for v in (*node.inputs, *node.outputs)):
        return []
    try:
        return rule(node)
    except Exception:
        return []
