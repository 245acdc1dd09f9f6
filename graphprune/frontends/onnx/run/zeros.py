"""Which number stands for zero in quantised values."""

from __future__ import annotations

from graphprune.ir.graph import Graph, Value

from ..origin import Source
from ..quantized import Encoded

#: Where operators read (or, negative, as which output they make) the zero point of their first output.
_SLOTS = {
    "QuantizeLinear": 2,
    "QLinearConv": 7,
    "QLinearMatMul": 7,
    "QLinearAdd": 7,
    "QLinearMul": 7,
    "QGemm": 8,
    "QLinearConcat": 1,
    "QLinearSigmoid": 4,
    "QLinearLeakyRelu": 4,
    "QLinearSoftmax": 4,
    "QLinearGlobalAveragePool": 4,
    "QLinearAveragePool": 4,
    "QLinearReduceMean": 4,
    "QLinearWhere": 8,
    "DynamicQuantizeLinear": ~2,
}
#: Kinds whose result holds elements of their first operand.
_MOVES = frozenset(
    {"concat", "split", "slice", "select", "gather", "flip", "pad", "reshape", "transpose", "expand", "tile", "spatial"}
)


def zero_points(graph: Graph) -> dict[str, str]:
    """For each quantised value the name of its zero point; values not listed are zero at 0."""
    found: dict[str, str] = {}
    for node in graph.flat_nodes:
        source = node.source
        if not isinstance(source, Source):
            continue
        _note_weight(node.inputs[0] if node.inputs else None, found)
        proto, slot = source.proto, _SLOTS.get(node.op)
        names = proto.output if slot is not None and slot < 0 else proto.input
        at = None if slot is None else slot if slot >= 0 else ~slot
        if at is not None and at < len(names) and names[at]:
            found[node.outputs[0].name] = names[at]
        elif at is None and node.kind in _MOVES and node.inputs[0] is not None and node.inputs[0].name in found:
            found.update({v.name: found[node.inputs[0].name] for v in node.outputs if v.dtype.kind in "iu"})
    return found


def _note_weight(value: Value | None, found: dict[str, str]) -> None:
    """A quantised table whose rows are looked up brings its own zero point."""
    weight = value.weight if value is not None else None
    if value is not None and isinstance(weight, Encoded) and weight.node is None and len(weight.parts) > 2:
        zero = weight.parts[2]
        if zero is not None:
            found[value.name] = zero.name
