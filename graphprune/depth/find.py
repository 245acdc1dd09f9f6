"""From a graph to its removable blocks."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from graphprune.ir.graph import Graph, Node, Value
from graphprune.ops import cost

from .branches import Branch, find_branches
from .data import BLOCK, BRANCH, Block
from .naming import block_name, unique
from .structure import digest
from .trunk import Step, find_units
from .wiring import TooMuchError, Wiring, weights_of


def find_blocks(graph: Graph, *, stateful: bool = True) -> list[Block]:
    """The whole repeated blocks of a graph, then its residual branches, each in the order of the graph.

    With `stateful` False, batch norms that follow the data as they train do not stand in the way.
    """
    wiring = Wiring(graph, stateful=stateful)
    branches = find_branches(wiring)
    units = find_units(wiring, branches)
    blocks = [_of_unit(wiring, unit) for unit in sorted(units, key=lambda u: wiring.made[u[-1].target])]
    return _named(_nested(blocks)) + _named(_nested([_of_branch(wiring, branch) for branch in branches]))


def _of_branch(wiring: Wiring, branch: Branch) -> Block:
    add = wiring.nodes[branch.add]
    target = add.inputs[branch.slot]
    assert target is not None
    nodes = [wiring.nodes[n] for n in sorted(branch.region)]
    return _block(wiring, BRANCH, branch.source, target, add, set(branch.region), digest(nodes, branch.source))


def _of_unit(wiring: Wiring, unit: Sequence[Step]) -> Block:
    source, target = unit[0].source, unit[-1].target
    region = {n for step in unit for n in step.region}
    with suppress(TooMuchError):
        region = wiring.bypass(source, target)
    return _block(wiring, BLOCK, source, target, None, region, " ".join(step.structure for step in unit))


def _block(
    wiring: Wiring, kind: str, source: Value, target: Value, add: Node | None, region: set[int], structure: str
) -> Block:
    nodes = tuple(wiring.nodes[n] for n in sorted(region))
    used = dict.fromkeys(v for node in nodes for v in weights_of(node))
    own = tuple(v for v in used if region.issuperset(wiring.weight_readers(v)))
    shared = tuple(v for v in used if v not in own)
    trained = [v for v in own if v.weight is not None and v.weight.trainable]
    parameters = sum(v.weight.size for v in trained if v.weight is not None)
    name = block_name(nodes, trained or shared) or f"{source.name}..{target.name}"
    macs = cost.macs_of(inner for node in nodes for inner in _with_bodies(node))
    return Block(name, kind, source, target, add, nodes, own, shared, structure, parameters, macs)


def _with_bodies(node: Node) -> list[Node]:
    return [*(inner for body in node.bodies for inner in body.flat_nodes), node]


def _nested(blocks: list[Block]) -> list[Block]:
    """Mark those that others lie within."""
    inner = {node: 0 for block in blocks for node in block.nodes}
    for block in blocks:
        for node in block.nodes:
            inner[node] += 1
    return [replace(b, outer=_holds(b, blocks, inner)) for b in blocks]


def _holds(block: Block, blocks: list[Block], inner: dict[Node, int]) -> bool:
    if all(inner[node] == 1 for node in block.nodes):
        return False
    own = set(block.nodes)
    return any(other is not block and len(other.nodes) < len(own) and own.issuperset(other.nodes) for other in blocks)


def _named(blocks: list[Block]) -> list[Block]:
    names = unique(block.name for block in blocks)
    return [replace(block, name=name) for block, name in zip(blocks, names, strict=True)]
