"""The pass that makes a model less deep: residual branches and whole repeated blocks go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from graphprune import depth
from graphprune.depth import Block
from graphprune.depth.selection import Wanted
from graphprune.errors import PassError
from graphprune.ir.graph import Graph, Node, Value

from .base import Pass, register
from .remove_dead import RemoveDead


def remove_blocks(graph: Graph, blocks: Sequence[Block]) -> Graph:
    """A new graph without these blocks (of this very graph); where it runs in training, they go there, too."""
    work = graph.copy()
    _Surgeon(graph, work, blocks).run()
    if graph.training is not None:
        work.training = _from_training(graph.training, blocks)
        _share(work)
    return RemoveDead().run(work)


class _Surgeon:
    """Takes blocks out of a copy of their graph, in one walk along its nodes."""

    def __init__(self, graph: Graph, work: Graph, blocks: Sequence[Block]) -> None:
        twins = dict(zip(graph.nodes, work.nodes, strict=True))
        self._work = work
        self._gone = {twins[node] for block in blocks for node in block.nodes}
        values = {v: w for old, new in twins.items() for v, w in zip(old.outputs, new.outputs, strict=True)}
        values.update(zip(graph.inputs, work.inputs, strict=True))
        self._zero: set[Value] = set()
        self._bypass: dict[Value, Value] = {}
        for block in blocks:
            source, target = values[block.source], values[block.target]
            if block.add is None:
                self._bypass[target] = source
            else:
                self._zero.add(target)
        self._same: dict[Value, Value] = {}
        self._lost: set[Value] = set()

    def run(self) -> None:
        """Leave out what goes, and wire the rest to what stands in."""
        kept = []
        for node in self._work.nodes:
            self._stand_in(node)
            if node in self._gone:
                self._lost.update(v for v in node.outputs if v not in self._same)
            elif self._zero.isdisjoint(node.inputs) or self._shorten(node):
                node.substitute(self._same)
                if self._lost.isdisjoint(node.reads()):
                    kept.append(node)
                else:
                    self._lost.update(node.outputs)
        self._work.nodes = kept
        self._work.outputs = [self._now(v) for v in self._work.outputs]
        if not self._lost.isdisjoint(self._work.outputs):
            raise PassError("an output of the model would be lost with a block")

    def _stand_in(self, node: Node) -> None:
        for value in node.outputs:
            if value in self._bypass:
                self._same[value] = self._now(self._bypass[value])

    def _now(self, value: Value) -> Value:
        return self._same.get(value, value)

    def _shorten(self, node: Node) -> bool:
        """Take operands out of an addition; whether there is still something to add."""
        left = [v for v in node.inputs if v not in self._zero]
        (result,) = node.outputs
        if not left:
            self._zero.add(result)
        elif len(left) == 1 and left[0] is not None:
            self._same[result] = self._now(left[0])
        else:
            node.inputs = left
        return len(left) > 1


def _from_training(training: Graph, blocks: Sequence[Block]) -> Graph | None:
    """The graph in training without the blocks that have the same weights; None where one is not to be found there."""
    known = {_weights(b): b for b in depth.find_blocks(training, stateful=False)}
    wanted = [known.get(_weights(block)) for block in blocks]
    found = [block for block in wanted if block is not None]
    return remove_blocks(training, found) if len(found) == len(blocks) else None


def _weights(block: Block) -> tuple[str, frozenset[str]]:
    trained = (v for v in (*block.weights, *block.shared) if v.weight is not None and v.weight.trainable)
    return block.kind, frozenset(v.name for v in trained)


def _share(graph: Graph) -> None:
    """The graph in training reads the very weight values that the graph itself reads."""
    if graph.training is not None:
        known = {v.name: v for node in graph.nodes for v in node.reads() if v.weight is not None}
        for node in graph.training.nodes:
            node.substitute({v: known[v.name] for v in node.reads() if v.weight is not None and v.name in known})


@register
@dataclass(frozen=True)
class RemoveBlocks(Pass):
    """Take out whole repeated blocks (a transformer layer, a bottleneck) or, with `kind=branch`, residual branches (an
    attention, an MLP). Say how many (`count`), which share stays (`keep`) or which (`names`, globs on the names of
    blocks and of the weights and nodes within); `include` and `exclude` narrow the choice by such globs. The least
    useful go first, by `criterion`: "norm" is the root mean square of a block's matrices and kernels, relative to the
    mean of the blocks built alike.
    """

    name: ClassVar[str] = "remove-blocks"

    count: int | None = None
    keep: float | None = None
    names: tuple[str, ...] = ()
    kind: str = ""
    criterion: str = "norm"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        self._wanted().check()

    def _wanted(self) -> Wanted:
        return Wanted(self.count, self.keep, self.names, self.kind, self.include, self.exclude)

    def choose(self, graph: Graph) -> list[Block]:
        """What the pass removes from a graph; the same each time."""
        return depth.choose(depth.score(depth.find_blocks(graph), self.criterion), self._wanted(), graph.name)

    def run(self, graph: Graph) -> Graph:
        """Remove them."""
        chosen = self.choose(graph)
        return remove_blocks(graph, chosen) if chosen else graph
