"""Which operators of a model may compute in another floating-point type, as their ONNX definitions say; and what they
sum up in the type of their input.
"""

from __future__ import annotations

from math import prod
from typing import Any

import numpy as np
from onnx import NodeProto, defs

from graphprune.ir.graph import Graph, Node, Value

from ...summing import Summing
from ..origin import Source
from ..protos import attributes, domain

_WIDE = np.dtype(np.float32)

#: Reductions, by what they add up.
_POWERS = {"mean": 1.0, "sum": 1.0, "l1": 1.0, "l2": 2.0, "sumsq": 2.0, "var": 2.0, "std": 2.0}


def computes_in(graph: Graph, node: Node, dtype: np.dtype[Any]) -> bool:
    """Whether everything that is float32 at this node may be of another type instead.

    No where an operand has to be float32, where a result does not follow the operands' type (an attribute says it), and
    where a parameter that is no operand would have to change its type along.
    """
    if node.source is None:
        return True  # what passes make takes any type
    source: Source = node.source
    proto, wanted = source.proto, f"tensor({dtype.name})"
    if domain(proto) or not defs.has(proto.op_type, graph.origin.opset, ""):
        return False
    schema = defs.get_schema(proto.op_type, graph.origin.opset, "")
    slots = zip(source.slots, node.inputs, strict=False)
    read = [_formal(schema.inputs, s) for s, v in slots if s >= 0 and v is not None and v.dtype == _WIDE]
    letters = {formal.type_str for formal in read}
    made = [_formal(schema.outputs, j) for j, v in enumerate(node.outputs) if v.dtype == _WIDE]
    if any(wanted not in formal.types for formal in (*read, *made)) or any(f.type_str not in letters for f in made):
        return False
    others = [slot for slot, name in enumerate(proto.input) if name and slot not in source.slots]
    return all(_formal(schema.inputs, slot).type_str not in letters for slot in others)


def _formal(formals: Any, position: int) -> Any:
    """What is said of an operand; the last one may stand for many."""
    return formals[min(position, len(formals) - 1)]


def sums(node: Node) -> Summing | None:
    """What the operator sums up in the type of its first input; nothing where a larger type does it: products are added
    in float32, and so are layer norms.
    """
    x = node.inputs[0] if node.inputs else None
    if x is None or x.shape is None:
        return None
    if node.kind == "reduce":
        power = _POWERS.get(node.attrs["fn"])
        return None if power is None else Summing(power, tuple(node.attrs["axes"]))
    if node.kind == "cumsum":
        return Summing(1.0, (node.attrs["axis"],))
    if node.kind == "instance_norm":
        return _spatial(x, 2.0)
    if node.kind == "group_norm":
        return Summing(2.0, tuple(range(1, x.rank)), prod(x.sizes[1:]) // node.attrs["groups"])
    return None if node.source is None else _by_name(node.source.proto, x)


def _by_name(proto: NodeProto, x: Value) -> Summing | None:
    """What pools and norms that share a kind with others add up."""
    attrs = attributes(proto)
    power = float(attrs.get("p", 2)) if "Lp" in proto.op_type else 1.0
    match proto.op_type:
        case "GlobalAveragePool" | "GlobalLpPool":
            return _spatial(x, power)
        case "AveragePool" | "LpPool":
            return _spatial(x, power, prod(attrs.get("kernel_shape", ())))
        case "LpNormalization":
            return Summing(power, (int(attrs.get("axis", -1)) % x.rank,))
        case "LRN":
            return Summing(2.0, (1,), int(attrs["size"]))
    return None


def _spatial(x: Value, power: float, terms: int | None = None) -> Summing:
    return Summing(power, tuple(range(2, x.rank)), terms)
