"""What several passes need to rewrite a graph."""

from __future__ import annotations

from graphprune.graph import Graph


def fresh_name(graph: Graph, base: str) -> str:
    """`base`, with a number where a value has that name already."""
    taken = {value.name for value in graph.values()}
    name, count = base, 1
    while name in taken:
        count += 1
        name = f"{base}.{count}"
    return name
