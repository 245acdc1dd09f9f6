"""Coupling a graph: walks and solves until the best choices are found, and names what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from graphprune.errors import InputError
from graphprune.ir.graph import Graph, Node, uncollected
from graphprune.ops.joining import STACKED

from .axes import Axes
from .components import solve
from .couple import Coupling
from .failing import failing
from .labeller import Walk
from .roles import Roles
from .search import best
from .tables import Table, find_tables


@uncollected()
def couple(graph: Graph, *, grouped: str = "within", rows: Sequence[str] = (), inner: Sequence[str] = ()) -> Coupling:
    """Find the coupled groups of a graph.

    `rows` names tables (embeddings) whose rows may go although the caller's ids pick them. `grouped` says what grouped
    convolutions and group norms allow: "within" (equal counts in each group, chosen group by group) or "whole" (whole
    groups only). Where a split axis ends up frozen, the other factor of the split is tried; at the splits named by
    `inner` (nodes) it is taken: the width of heads, say, not whole heads.
    """
    if grouped not in ("within", "whole"):
        raise InputError(f"grouped must be 'within' or 'whole', not '{grouped}'")
    attempt = partial(_attempt, graph, grouped, find_tables(graph, rows, graph.pinned), failing(graph))
    always = frozenset(inner)
    found = best(lambda flipped: attempt(flipped | always))
    found.inner = tuple(inner)
    _name_roles(found)
    return found


def _name_roles(coupling: Coupling) -> None:
    """Say of each group what it is, and which outputs are a statistic over it: those are not what they were."""
    graph = coupling.graph
    axes = Axes(graph, coupling.blocks, coupling.uses, coupling.component, coupling.ordered)
    roles = Roles(axes, coupling.component[coupling.presences.labels()], coupling.tables)
    for output, fn, components in axes.told(graph.outputs):
        for index in np.unique(coupling.group_of[components]).tolist():
            if index >= 0:
                coupling.told.setdefault(index, {}).setdefault(output.name, fn)
    coupling.groups = [
        replace(group, role=roles.of(group.components), exact=group.exact and group.index not in coupling.told)
        for group in coupling.groups
    ]


def _attempt(
    graph: Graph, grouped: str, tables: Sequence[Table], failed: Mapping[Node, str], flipped: frozenset[str]
) -> tuple[Coupling, dict[str, frozenset[int]]]:
    """One walk (again as long as rules turn out to fail) and one solve; also the reshapes whose active factor ended up
    frozen or as one piece, with its components.
    """
    while True:
        walk = Walk(graph, grouped=grouped, flipped=flipped, tables=tables, failed=failed)
        walk.run()
        if len(walk.failed) == len(failed):
            break
        failed = walk.failed
    solution, causes = solve(walk.said, walk.count)
    stuck: dict[str, frozenset[int]] = {}
    found = Coupling(graph, walk, solution, causes)
    whole = np.unique(solution.component[walk.presences.labels()])
    picked = set()
    for origin, labels in walk.said.resolved:
        components = solution.component[labels]
        if origin and (solution.frozen[components].all() or (components == components[0]).all()):
            stuck[origin] = stuck.get(origin, frozenset()) | frozenset(np.unique(components).tolist())
        elif origin and not origin.endswith(STACKED) and np.isin(components, whole).any():
            picked.add(origin)
    found.picked = frozenset(picked)
    return found, stuck
