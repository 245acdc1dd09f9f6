"""What a block is called: what the names of its weights, or else of its nodes, have in common."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from graphprune.ir.graph import Node, Value

_NUMBERED = re.compile(r"(.*?)\d+")


def block_name(nodes: Sequence[Node], weights: Sequence[Value]) -> str:
    """The common prefix of its matrices' names, of all its weights' names, of its nodes' names; "" where there is none.

    Names that exporters made up (without a dot or a slash) tell nothing; where a matrix has such a one, vectors tell
    more than the other matrices.
    """
    names = [v.shown for v in weights if "." in v.shown and "::" not in v.shown]
    matrices = [v.shown for v in weights if v.rank > 1]
    matrices = matrices if set(matrices) <= set(names) else []
    paths = [node.name for node in nodes if "/" in node.name]
    for group, dot in ((matrices, "."), (names, "."), (paths, "/")):
        found = common(group, dot)
        if found:
            return found
    return ""


def common(names: Iterable[str], dot: str = ".") -> str:
    """The longest path that all names lie under; the last part of each is its own."""
    paths = [name.split(dot)[:-1] for name in names]
    shared = []
    for parts in zip(*paths, strict=False):
        if len(set(parts)) > 1:
            break
        shared.append(parts[0])
    return dot.join(shared)


def sibling(prefix: str, name: str) -> str | None:
    """The part after `prefix` in a name if it is a number or ends in one, as the children of a list of layers do."""
    start = f"{prefix}." if prefix else ""
    if not name.startswith(start):
        return None
    part = name[len(start) :].partition(".")[0]
    return part if _NUMBERED.fullmatch(part) else None


def stem(part: str) -> str:
    """A numbered name without its number."""
    return part.rstrip("0123456789")


def unique(names: Iterable[str]) -> list[str]:
    """The names, those that come again with a count."""
    seen: dict[str, int] = {}
    found = []
    for name in names:
        seen[name] = seen.get(name, 0) + 1
        found.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return found
