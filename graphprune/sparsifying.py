"""Make the weights of a model sparse, prove the result and say what it cost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from . import counting, coupling, frontends, sparsity
from .errors import InputError, VerificationError
from .graph import Graph
from .passes.permute import Permute, Reordered
from .proof import Proof, Reference
from .report import SparseReport, SparseRow
from .report.build import FORMS
from .sparsity import Layer, Left, Masks, Outcome
from .sparsity.permuting import SECONDS
from .stages import Clock, Progress, model_of, read_model, tried


@dataclass
class SparseResult:
    """What `sparsify` made. `model` is of the caller's kind; `masks` say which entries stay."""

    model: Any
    masks: Masks
    report: SparseReport
    graph: Graph
    emitted: Any = field(repr=False)

    def save(self, path: str | Path) -> None:
        """Write the model: `.onnx`, or for PyTorch also `.pt2` and `.safetensors`; a folder's as a folder."""
        frontends.save(self.graph, path, self.emitted)


def sparsify(
    model: Any,
    example_inputs: Any = None,
    *,
    pattern: str = "2:4",
    method: str = "magnitude",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    permute: bool = False,
    seconds: float = SECONDS,
    seed: int = 0,
    verify: bool = True,
    input_shapes: Any = None,
    progress: Progress | None = None,
) -> SparseResult:
    """Set the least important entries of each contracted weight to zero in a pattern.

    `model` is as for `prune`, `pattern` as `sparsity.parse` takes it. N:M runs along the axis that products are summed
    over; `permute` first lets coupled channels trade places so that it keeps more (a search of about `seconds`).
    Raises InputError for what cannot be used, VerificationError where the result is not what it should be.
    """
    clock, wanted = Clock(progress), sparsity.parse(pattern)
    if method not in sparsity.METHODS:
        raise InputError(f"there is no method '{method}'; there are {', '.join(sparsity.METHODS)}")
    with clock("reading the model"):
        graph = read_model(model, example_inputs, input_shapes)
    layers, left = sparsity.choose(graph, wanted, include, exclude)
    order = None
    if permute:
        with clock("reordering channels"):
            step = Permute(pattern, tuple(include), tuple(exclude), seconds, seed)
            order = step.reordered(graph, clock.say)
        layers, left = sparsity.choose(order.graph, wanted, include, exclude)
    start = graph if order is None else order.graph
    with clock("making weights sparse"):
        made = sparsity.make_sparse(start, layers, wanted, sparsity.METHODS[method](), clock.say)
    with clock("writing the model"):
        emitted = frontends.emit(made.graph, (lambda _: "") if verify else None)
    proof = None
    if verify:
        with clock("verifying"):
            emitted, proof = _prove(graph, made, order, emitted, seed)
    report = _report(graph, made, left, method, emitted, proof, clock.seconds)
    report = replace(report, reordered=[] if order is None else order.gains)
    if proof is not None and not proof.passed:
        raise VerificationError(
            f"the sparse '{graph.name}' differs from the masked original by {proof.max_error:.2g} "
            f"(allowed: {proof.tolerance:.2g}){': ' + proof.detail if proof.detail else ''}"
        )
    return SparseResult(model_of(emitted), made.masks, report, made.graph, emitted)


def _prove(graph: Graph, made: Outcome, order: Reordered | None, emitted: Any, seed: int) -> tuple[Any, Proof]:
    """The model, and its comparison with the original whose weights are masked where it runs, in their old order."""
    coupled = coupling.couple(graph) if order is None else order.coupling
    masks = made.masks if order is None else order.original(made.masks)
    reference = Reference(coupled, np.ones(coupled.count, bool), seed=seed, masks=masks)
    return tried(reference, made.graph, emitted)


def _report(
    graph: Graph,
    made: Outcome,
    left: Sequence[Left],
    method: str,
    emitted: Any,
    proof: Proof | None,
    seconds: dict[str, float],
) -> SparseReport:
    rows = [_row(row.layer, row.zeros, row.magnitude) for row in made.rows]
    rows += [
        SparseRow(row.value.shown, row.node.op if row.node is not None else "", row.value.sizes, 0, reason=row.reason)
        for row in left
    ]
    return SparseReport(
        graph.name,
        made.masks.pattern,
        method,
        graph.parameter_count(),
        counting.macs(graph),
        rows,
        proof=proof,
        output_form=FORMS.get(getattr(emitted, "form", ""), "ONNX"),
        output_reason=getattr(emitted, "reason", ""),
        notes=[proof.detail] if proof is not None and proof.detail else [],
        seconds=seconds,
    )


def _row(layer: Layer, zeros: int, magnitude: float) -> SparseRow:
    shape = layer.value.sizes
    return SparseRow(layer.name, layer.node.op, shape, layer.macs, zeros / prod(shape), magnitude)
