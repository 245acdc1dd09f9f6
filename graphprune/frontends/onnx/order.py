"""Written nodes: what they read, which are needed, and an order in which each follows what it reads."""

from __future__ import annotations

from collections.abc import Iterable

from onnx import NodeProto

from ...errors import GraphPruneError
from .protos import captured, subgraphs


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
    """Stable topological order."""
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
                raise GraphPruneError(f"the written nodes form a cycle at '{nodes[i].name}'")
            else:
                order.append(nodes[i])
                state[i] = 2
                stack.pop()
                continue
            state[i] = 1
    return order
