"""Which blocks are built alike: a digest of operators, attributes and shapes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import Any

import numpy as np

from graphprune.ir.graph import Node, Value

_SAME = frozenset({"identity", "dropout", "cast"})


def digest(nodes: Iterable[Node], source: Value) -> str:
    """Equal for two regions of the same operators, wired alike, on weights of the same shapes.

    Nodes that compute nothing do not count: exporters put them here and not there. Numbers with a fraction (rates,
    epsilons, scales) may differ; whatever enters from elsewhere counts by its shape.
    """
    known: dict[Value, str] = {source: f"source {source.shape} {source.dtype}"}
    lines = []
    for node in nodes:
        inputs = [_operand(value, known) for value in node.inputs]
        if idle(node):
            known[node.outputs[0]] = inputs[0]
            continue
        shapes = [value.shape for value in node.outputs]
        bodies = [digest(body.nodes, source) for body in node.bodies]
        line = _hash(f"{node.kind} {node.op} {_plain(node.attrs)} {inputs} {shapes} {bodies}")
        lines.append(line)
        known.update((value, f"{line}.{at}") for at, value in enumerate(node.outputs))
    return _hash("\n".join(sorted(lines)))


def idle(node: Node) -> bool:
    """Whether a node hands on what it is given, at most in another type."""
    return node.kind == "elementwise" and node.attrs["fn"] in _SAME


def _operand(value: Value | None, known: dict[Value, str]) -> str:
    if value is None:
        return "none"
    if value.weight is not None:
        return f"weight {value.shape} {value.dtype} {value.weight.trainable}"
    return known.get(value) or f"elsewhere {value.shape} {value.dtype}"


def _plain(item: Any) -> Any:
    if isinstance(item, dict):
        return sorted((str(k), str(_plain(v))) for k, v in item.items())
    if isinstance(item, (list, tuple)):
        return [_plain(v) for v in item]
    if isinstance(item, np.ndarray):
        return _hash(f"{item.dtype} {item.shape} {item.tobytes().hex()}")
    return "number" if isinstance(item, float) else item


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]
