"""Nodes of files: what they read, which are needed, and an order in which each follows what it reads."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import FunctionProto, GraphProto, ModelProto, NodeProto

from graphprune.errors import GraphPruneError, InputError

from ..protos import captured, subgraphs


def reads(node: NodeProto) -> list[str]:
    """Names a node reads, those captured by its subgraphs included."""
    inner = [name for graph in subgraphs(node) for name in captured(graph)]
    return [name for name in [*node.input, *inner] if name]


def alive(nodes: list[NodeProto], outputs: Iterable[str]) -> list[NodeProto]:
    """The nodes that outputs of these names need."""
    makers = {name: node for node in nodes for name in node.output if name}
    found: set[int] = set()
    queue = [makers[name] for name in outputs if name in makers]
    while queue:
        node = queue.pop()
        if id(node) not in found:
            found.add(id(node))
            queue += [makers[name] for name in reads(node) if name in makers]
    return [node for node in nodes if id(node) in found]


def in_order(nodes: list[NodeProto]) -> list[NodeProto]:
    """The nodes, each after what it reads: as they came where that is so already, else none moved without need."""
    makers = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    order: list[NodeProto] = []
    state = [0] * len(nodes)
    for root in range(len(nodes)):
        stack = [root]
        while stack:
            i = stack[-1]
            if state[i] == 2:
                stack.pop()
                continue
            before = [makers[n] for n in reads(nodes[i]) if n in makers and state[makers[n]] != 2]
            if before and state[i] == 0:
                stack.extend(reversed(before))
            elif before:
                raise GraphPruneError(f"the nodes form a cycle at '{nodes[i].name}' ({nodes[i].op_type})")
            else:
                order.append(nodes[i])
                state[i] = 2
                stack.pop()
                continue
            state[i] = 1
    return order


def put_in_order(model: ModelProto, name: str) -> bool:
    """Sort a model's nodes in place, in its subgraphs and functions too; whether any moved. Raises InputError."""
    try:
        return sum(_sort(container) for container in (model.graph, *model.functions)) > 0
    except GraphPruneError as error:
        raise InputError(f"{name} is not a valid ONNX model: {error}") from error


def _sort(container: GraphProto | FunctionProto) -> bool:
    moved = sum(_sort(inner) for node in container.node for inner in subgraphs(node)) > 0
    before = list(container.node)
    after = in_order(before)
    if all(a is b for a, b in zip(before, after, strict=True)):
        return moved
    del container.node[:]
    container.node.extend(after)
    return True
