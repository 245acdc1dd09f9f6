"""The table of raisings: how the attributes of a changed node are written back, operator by operator."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from onnx import NodeProto

from graphprune.errors import GraphPruneError
from graphprune.ir.graph import Node, Value

from ..lower.registry import PARAMETERS
from ..protos import attributes, set_attribute
from ..read.facts import Fact
from .writer import Entry, Writer


class Draft:
    """A node being written: the protobuf as it came, with rewired operands, and its canonical attributes."""

    def __init__(self, node: Node, proto: NodeProto, original: NodeProto, writer: Writer) -> None:
        self.node = node
        self.attrs = node.attrs
        self.proto = proto
        self.original = original
        self.writer = writer
        self.op = str(original.op_type)

    @property
    def x(self) -> Value:
        """The first operand."""
        value = self.node.inputs[0]
        assert value is not None
        return value

    @property
    def out(self) -> Value:
        """The first output."""
        return self.node.outputs[0]

    def fact(self, name: str) -> Fact:
        """What was known about an original value."""
        return self.writer.origin.facts.get(name) or Fact(None, None)

    @property
    def x_fact(self) -> Fact:
        """What was known about the original first operand; under the sizes of its body, where it has others."""
        own = self.x.name if self.x.name in self.writer.lent else self.original.input[0]
        return self.fact(own)

    @property
    def out_fact(self) -> Fact:
        """What was known about the original first output."""
        return self.fact(self.original.output[0])

    def raw(self, name: str) -> list[int | Entry] | None:
        """A parameter as it came: numbers, and entries to be computed where they follow the user's input."""
        slot = PARAMETERS.get(self.op, {}).get(name)
        if slot is None or slot >= len(self.original.input) or not self.original.input[slot]:
            given = attributes(self.original).get(name)
            return None if given is None else [int(n) for n in given]
        source = self.original.input[slot]
        small = self.fact(source).small
        if small is None:
            return None
        follows = small.follows.reshape(-1)
        return [Entry(source, i) if follows[i] else int(n) for i, n in enumerate(small.value.reshape(-1))]

    def set(self, name: str, value: Any) -> None:
        """Write an attribute (None removes it)."""
        set_attribute(self.proto, name, value)

    def set_slot(self, slot: int, name: str) -> None:
        """Write an input."""
        self.proto.input.extend([""] * (slot + 1 - len(self.proto.input)))
        self.proto.input[slot] = name
        while self.proto.input and not self.proto.input[-1]:
            del self.proto.input[-1]

    def set_parameter(self, name: str, entries: Sequence[int | Entry]) -> None:
        """Write a parameter where this opset wants it: as an attribute or as an input."""
        if self.writer.has_attribute(self.op, name):
            numbers = [e for e in entries if isinstance(e, int)]
            if len(numbers) != len(entries):
                raise GraphPruneError(f"'{name}' of the node '{self.node.name}' cannot be computed in this opset")
            self.set(name, numbers)
            return
        self.set_slot(PARAMETERS[self.op][name], self.writer.vector(entries, f"{self.out.name}_{name}"))


Raising = Callable[[Draft], None]
_RAISINGS: dict[str, Raising] = {}
_ALWAYS: set[str] = set()

#: Attributes written as they are, by canonical kind: canonical name -> ONNX name.
_PLAIN: dict[str, dict[str, str]] = {
    "conv": {"groups": "group"},
    "batch_norm": {"epsilon": "epsilon"},
    "instance_norm": {"epsilon": "epsilon"},
    "layer_norm": {"epsilon": "epsilon"},
    "group_norm": {"groups": "num_groups", "epsilon": "epsilon"},
    "softmax": {"axis": "axis"},
    "concat": {"axis": "axis"},
    "transpose": {"perm": "perm"},
    "einsum": {"equation": "equation"},
    "attention": {"scale": "scale"},
    "recurrent": {"hidden": "hidden_size"},
    "depth_to_space": {"block": "blocksize"},
    "space_to_depth": {"block": "blocksize"},
}


def raises(*ops: str, always: bool = False) -> Callable[[Raising], Raising]:
    """Register how a changed node of these operators is written; `always`: whether or not it was marked as changed."""

    def register(raising: Raising) -> Raising:
        for op in ops:
            if op in _RAISINGS:
                raise GraphPruneError(f"the ONNX operator '{op}' has two raisings")
            _RAISINGS[op] = raising
            if always:
                _ALWAYS.add(op)
        return raising

    return register


def raise_node(draft: Draft) -> None:
    """Write the node's attributes into its protobuf if they changed."""
    opaque = draft.node.kind in ("unknown", "shape_math", "fill", "axiswise")
    if (opaque or not draft.node.changed) and draft.op not in _ALWAYS:
        return
    for name, foreign in _PLAIN.get(draft.node.kind, {}).items() if draft.node.changed else ():
        value = draft.attrs[name]
        draft.set(foreign, list(value) if isinstance(value, tuple) else value)
    if draft.op in _RAISINGS:
        _RAISINGS[draft.op](draft)


def sizes_changed(value: Value, fact: Fact) -> bool:
    """Whether a value no longer has the sizes it had when the model was read."""
    return value.shape is not None and fact.shape is not None and value.shape != fact.shape
