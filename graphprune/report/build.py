"""Reports from the compiler's own objects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import numpy as np

from graphprune.ir.graph import Graph, Value
from graphprune.ops import cost
from graphprune.pruning.plan import Plan
from graphprune.verification.proof import Proof

from .. import frontends
from ..coupling import Coupling, on_request
from ..depth import Block
from .data import BlockRow, BlocksReport, FrozenRow, GroupRow, InspectReport, Measure, Report, UnknownRow

#: What reports call each form of output.
FORMS = {
    "module": "own class",
    "graph": "fx GraphModule",
    "checkpoint": "transformers checkpoint",
    "tensors": "tensors without a configuration",
}


#: Said of a graph module that holds the example's sizes.
_FIXED = "the GraphModule takes inputs of the example's sizes only, its batch included"


def inspection(coupled: Coupling) -> InspectReport:
    """What can be pruned in a model, and what cannot and why."""
    graph, rows = coupled.graph, _group_rows(coupled, None)
    return InspectReport(
        graph.name,
        len(graph.nodes),
        graph.parameter_count(),
        cost.macs(graph),
        rows,
        _frozen_rows(coupled),
        _unknown_rows(coupled),
        _touched(coupled),
        {value.label: name for name, value in graph.weights().items() if value.label},
        _assumed(graph),
        _ways(graph),
    )


def blocks_report(graph: Graph, blocks: Sequence[Block]) -> BlocksReport:
    """The removable blocks of a graph."""
    kinds: dict[tuple[str, str], int] = {}
    rows = []
    for block in blocks:
        number = kinds.setdefault((block.kind, block.structure), len(kinds))
        weights = [v.shown for v in (*block.weights, *block.shared)]
        rows.append(
            BlockRow(
                block.name,
                block.kind,
                number,
                len(block.nodes),
                block.parameters,
                block.macs,
                block.score,
                weights,
                block.source.name,
                block.target.name,
                block.outer,
            )
        )
    return BlocksReport(graph.name, graph.parameter_count(), cost.macs(graph), rows)


def pruning_report(
    coupled: Coupling,
    made: Plan,
    pruned: Graph,
    emitted: Any,
    proof: Proof | None,
    seconds: dict[str, float],
    notes: Sequence[str] = (),
) -> Report:
    """What one pruning did; `emitted` is what the frontend wrote, `notes` are sentences of whoever chose the plan."""
    graph = coupled.graph
    form = FORMS.get(getattr(emitted, "form", ""), "ONNX")
    return Report(
        model=graph.name,
        target=made.target,
        criterion=made.criterion,
        before=measure(graph, frontends.original_bytes(graph)),
        after=measure(pruned, frontends.written_bytes(pruned)),
        groups=_group_rows(coupled, made),
        frozen=_frozen_rows(coupled),
        unknown=_unknown_rows(coupled),
        proof=proof,
        output_form=form,
        output_reason=getattr(emitted, "reason", ""),
        notes=[
            *notes,
            *graph.notes,
            *_ways(graph),
            *_interface(graph, pruned),
            *([_FIXED] if not getattr(emitted, "dynamic", True) else []),
            *([proof.detail] if proof is not None and proof.passed and proof.detail else []),
        ],
        seconds=seconds,
        kept_ids={name: ids.tolist() for name, ids in pruned.kept_rows.items()},
        assumed=_assumed(graph),
        alerts=list(getattr(emitted, "alerts", ())),
    )


def told(coupled: Coupling, made: Plan) -> list[str]:
    """Outputs that are a statistic over what lost components: they are not what they were."""
    return [
        f"the output '{output}' is a {fn} over {group.role} ({group.label or group.name}): its value changes with"
        " what is removed"
        for group, own in zip(coupled, made.groups, strict=True)
        if own.kept < group.size
        for output, fn in coupled.told.get(group.index, {}).items()
    ]


def _assumed(graph: Graph) -> dict[str, dict[str, int]]:
    return {name: dict(sizes) for name, sizes in graph.assumed.items()}


def _ways(graph: Graph) -> list[str]:
    """At which sizes the ways through branches that small inputs choose were looked at."""
    ways = [_way(case.values, case.shapes) for case in graph.cases]
    return [f"small inputs choose among branches, of which each was looked at: {'; '.join(ways)}"] if ways else []


def _way(values: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> str:
    chosen = ", ".join(f"{name} = {array.reshape(-1)[0]}" for name, array in values.items())
    sizes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in shapes.items() if shape)
    return f"{chosen} with {sizes}" if sizes else chosen


def _interface(before: Graph, after: Graph) -> list[str]:
    """What a caller must know: caches that became smaller."""
    sides = (("input", before.inputs, after.inputs), ("output", before.outputs, after.outputs))
    return [
        f"the {side} '{was.name}' has {now.sizes[axis]} instead of {was.sizes[axis]} indices on axis {axis}"
        for side, old, new in sides
        for was, now in zip(old, new, strict=True)
        for axis in sorted(was.follows)
        if was.sizes[axis] != now.sizes[axis]
    ]


def measure(graph: Graph, size: int | None = None) -> Measure:
    """Size and cost of a graph's model; without a size of its file, that of its weights."""
    if size is None:
        size = sum(v.weight.stored_bytes for v in graph.weights().values() if v.weight is not None)
    return Measure(graph.parameter_count(), cost.macs(graph), size)


def _group_rows(coupled: Coupling, made: Plan | None) -> list[GroupRow]:
    covered = _covered(coupled)
    rows = []
    for group, members in zip(coupled.groups, coupled.members, strict=True):
        own = None if made is None else made.groups[group.index]
        rows.append(
            GroupRow(
                group.label or group.name,
                group.size,
                group.size if own is None else own.kept,
                group.exact,
                members,
                on_request(group.role) if own is None else own.reason,
                group.role,
                group.width,
                covered[group.index],
            )
        )
    return rows


def _covered(coupled: Coupling) -> list[int]:
    """Elements of trainable weights that lie on an index of each group; an element may lie on two groups."""
    covered = np.zeros(len(coupled.groups))
    seen = set()
    for use, axis, components in coupled.axes():
        weight = use.value.weight
        if weight is None or not weight.trainable or (use.value, axis) in seen:
            continue
        seen.add((use.value, axis))
        owner = coupled.group_of[components]
        np.add.at(covered, owner[owner >= 0], weight.size / len(components))
    return [round(count) for count in covered]


def _touched(coupled: Coupling) -> int:
    """Elements of trainable weights that lie on an index of some group."""
    still: dict[Value, dict[int, float]] = {}
    for use, axis, components in coupled.axes():
        if use.value.weight is not None and use.value.weight.trainable:
            still.setdefault(use.value, {}).setdefault(axis, float((coupled.group_of[components] < 0).mean()))
    return sum(round(prod(v.sizes) * (1 - prod(shares.values()))) for v, shares in still.items())


def _frozen_rows(coupled: Coupling) -> list[FrozenRow]:
    return [
        FrozenRow(f.weight, f.axis, f.indices, f.node, f.reason, f.cause, f.op, f.scope) for f in coupled.frozen_axes()
    ]


def _unknown_rows(coupled: Coupling) -> list[UnknownRow]:
    return [UnknownRow(u.op, u.count, u.first, u.why, u.sizes) for u in coupled.unknown()]
