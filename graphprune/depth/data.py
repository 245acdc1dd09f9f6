"""A removable block: what goes, what stands in for it, and how much that is."""

from __future__ import annotations

from dataclasses import dataclass, field

from graphprune.ir.graph import Node, Value

BRANCH, BLOCK = "branch", "block"
KINDS = (BRANCH, BLOCK)


@dataclass(frozen=True, eq=False)
class Block:
    """Something that may go without a change of shapes; names are those of the graph it was found in.

    A "branch" is what lies between `source` and the addition `add`, whose operand `target` it computes: without it the
    addition hands on its other operands. A "block" is everything between `source` and `target`, two values of one
    shape: without it `target` is `source`. `nodes` go with it, and so do `weights`, which nothing else reads (`shared`
    are the others it reads). `structure` is equal for blocks that are built alike; `outer` says that other blocks lie
    within. `score` is relative to blocks of its structure: the smaller, the less it matters.
    """

    name: str
    kind: str
    source: Value
    target: Value
    add: Node | None
    nodes: tuple[Node, ...] = field(repr=False)
    weights: tuple[Value, ...] = field(repr=False)
    shared: tuple[Value, ...] = field(repr=False)
    structure: str
    parameters: int
    macs: int
    outer: bool = False
    score: float = 1.0

    def names(self) -> set[str]:
        """Every name it answers to: its own, its weights' and its nodes'."""
        weights = (*self.weights, *self.shared)
        return {self.name, *(n for v in weights for n in (v.name, v.shown)), *(node.name for node in self.nodes)}

    def __str__(self) -> str:
        return f"{self.kind} {self.name}: {self.source.name} to {self.target.name}, {len(self.nodes)} nodes"
