"""Rules that turn out not to fit a node, found before labels are walked."""

from __future__ import annotations

from pathlib import Path

from graphprune.ir.graph import Graph, Node
from graphprune.ops import inner, lookup


def what_failed(error: Exception) -> str:
    """What a rule raised and where, for somebody who will mend it."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    where = "" if at is None else f" at {Path(at.tb_frame.f_code.co_filename).name}:{at.tb_lineno}"
    return f"{type(error).__name__}{where}" + (f": {error}" if str(error) else "")


def failing(graph: Graph) -> dict[Node, str]:
    """Nodes whose cost or statistics cannot be told: their rules do not fit them, whatever is stated of labels."""
    failed = {}
    for node in graph.all_nodes:
        try:
            if all(v is None or v.shape is not None for v in (*node.inputs, *node.outputs)):
                _tell(node)
        except Exception as error:
            failed[node] = what_failed(error)
    return failed


def _tell(node: Node) -> None:
    for step in inner(node):
        rule = lookup(step.kind)
        if rule.cost is not None:
            rule.cost(step)
        if rule.statistic is not None and step.inputs[0] is not None:
            rule.statistic(step)
