"""Which operators of a model may compute in another floating-point type, as their ONNX definitions say."""

from __future__ import annotations

from typing import Any

import numpy as np
from onnx import defs

from ...graph import Graph, Node
from .origin import Source
from .protos import domain

_WIDE = np.dtype(np.float32)


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
