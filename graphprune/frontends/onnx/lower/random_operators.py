"""Which operators draw random numbers."""

from __future__ import annotations

from onnx import NodeProto

from graphprune.ir.graph import Node

from ..protos import domain

GENERATED = frozenset("RandomNormal RandomNormalLike RandomUniform RandomUniformLike".split())
_RANDOM = GENERATED | {"Bernoulli", "Multinomial", "Dropout"}


def draws_here(node: Node) -> bool:
    """Whether a node draws random numbers."""
    proto = node.source.proto
    if not draws(proto):
        return False
    return proto.op_type != "Dropout" or node.attrs.get("fn") == "random_dropout" or node.kind == "unknown"


def draws(proto: NodeProto) -> bool:
    """Whether an operator gives other numbers each time it is run. Dropout may: where it is told to."""
    return proto.op_type in _RANDOM and not domain(proto) and (proto.op_type != "Dropout" or len(proto.input) > 2)
