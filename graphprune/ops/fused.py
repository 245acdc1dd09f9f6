"""One foreign operator that does the work of several canonical ones: attention with its projections, a residual
addition with its norm, a quantised product.

It is described, not taken apart: the node stays one node, and its steps are nodes of canonical kinds on values that
only it has. Its rules are theirs, one after the other, so a new fused operator needs a description and no rule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from graphprune.errors import GraphPruneError
from graphprune.ir.graph import Node, Value

from .base import Cost, Kept, Labeller, lookup, operator


@dataclass(frozen=True)
class In:
    """Input `index` of the fused node."""

    index: int


@dataclass(frozen=True)
class Out:
    """Output `index` of the fused node."""

    index: int


#: What a step reads or makes: an operand of the fused node, or a value between steps.
Ref = In | Out | Value


@dataclass(frozen=True, eq=False)
class Step:
    """One canonical operator inside a fused one."""

    kind: str
    inputs: tuple[Ref | None, ...]
    output: Ref | tuple[Ref, ...]
    attrs: dict[str, Any]

    @property
    def outputs(self) -> tuple[Ref, ...]:
        """All that it makes."""
        return self.output if isinstance(self.output, tuple) else (self.output,)


def inner(node: Node) -> list[Node]:
    """The steps of a fused node as nodes (with attributes of their own); any other node alone.

    They have no names: nothing inside the operator can be chosen differently.
    """
    if node.kind != "fused":
        return [node]

    def value(ref: Ref | None) -> Value | None:
        if isinstance(ref, In):
            return node.inputs[ref.index] if ref.index < len(node.inputs) else None
        return node.outputs[ref.index] if isinstance(ref, Out) else ref

    steps: Sequence[Step] = node.attrs["steps"]
    return [
        Node(
            step.kind,
            "",
            [value(ref) for ref in step.inputs],
            [v for v in map(value, step.outputs) if v is not None],
            dict(step.attrs),
            node.op,
        )
        for step in steps
    ]


def reader(node: Node, slot: int) -> tuple[Node, int]:
    """The canonical node that reads input `slot` first, and where: inside a fused node, or the node itself."""
    if node.kind == "fused":
        for step, made in zip(node.attrs["steps"], inner(node), strict=True):
            if In(slot) in step.inputs:
                return made, step.inputs.index(In(slot))
    return node, slot


def value_inside(node: Node, name: str) -> Value:
    """A value between the steps of a fused node, by the name that its description gave it."""
    for step in node.attrs["steps"]:
        for ref in step.outputs:
            if isinstance(ref, Value) and ref.name == name:
                return ref
    raise GraphPruneError(f"'{node.name}' ({node.op}) has no value '{name}' inside")


def _cost(node: Node) -> list[Cost]:
    rules = [(step, lookup(step.kind).cost) for step in inner(node)]
    return [cost for step, rule in rules if rule is not None for cost in rule(step)]


def _rewrite(node: Node, kept: Kept) -> None:
    """Each step by its own rule; values between steps get their new sizes."""
    renewed: dict[Value, Value] = {}
    steps, changed = [], False
    for step, made in zip(node.attrs["steps"], inner(node), strict=True):
        rule = lookup(step.kind).rewrite
        if rule is not None:
            rule(made, kept)
        if made.attrs.get("take"):
            raise GraphPruneError("what is kept inside it would have to be rearranged")
        for ref in step.outputs:
            if isinstance(ref, Value):
                shape = kept.shape(ref)
                renewed[ref] = Value(ref.name, shape, ref.dtype, ref.dynamic)
                changed |= shape != ref.shape
        changed |= made.changed
        steps.append(replace(step, attrs=made.attrs))
    if changed:
        node.change(steps=tuple(_renewed(step, renewed) for step in steps))


def _renewed(step: Step, values: dict[Value, Value]) -> Step:
    def new(ref: Ref | None) -> Any:
        return values.get(ref, ref) if isinstance(ref, Value) else ref

    return replace(step, inputs=tuple(map(new, step.inputs)), output=tuple(map(new, step.outputs)))


@operator("fused", rewrite=_rewrite, cost=_cost)
def fused(node: Node, labeller: Labeller) -> None:
    """The rules of the steps, in order. An operand that no step reads says how, not what: it must stay as it is."""
    read = {ref for step in node.attrs["steps"] for ref in step.inputs if isinstance(ref, In)}
    for step in inner(node):
        lookup(step.kind).couple(step, labeller)
    for index, value in enumerate(node.inputs):
        if value is not None and value.weight is None and In(index) not in read:
            for block in labeller.blocks(value):
                labeller.freeze(block.labels, f"{node.op} reads it whole")
