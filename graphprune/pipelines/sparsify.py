"""Make the weights of a model sparse, prove the result and say what it cost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from graphprune import coupling, frontends, sparsity
from graphprune.calibration import running
from graphprune.calibration.samples import Data, Samples
from graphprune.coupling import Coupling
from graphprune.errors import BackendError, VerificationError
from graphprune.ir.graph import Graph, Weight
from graphprune.ops import cost
from graphprune.ops.base import Array
from graphprune.passes.permute import Permute, Reordered
from graphprune.report import SparseReport, SparseRow
from graphprune.report.build import FORMS
from graphprune.report.causes import assumed_lines
from graphprune.sparsity import Calibrated, Left, Made, Masks, Method, Outcome
from graphprune.sparsity.permuting import SECONDS
from graphprune.verification.proof import Proof, Reference

from .proving import loaded, settle
from .stages import Clock, Progress, model_of, tried

#: What a model is compared with where the values of what stays changed, too.
_UPDATED = "the original with the updated weights, masked (not with its own weights)"


@dataclass
class SparseResult:
    """What `sparsify` made. `masks` say which entries stay."""

    masks: Masks
    report: SparseReport
    graph: Graph = field(repr=False)
    emitted: Any = field(repr=False)

    @cached_property
    def model(self) -> Any:
        """The model, of the caller's kind. An ONNX model that no proof needed is made now: it holds all weights."""
        return model_of(frontends.emit(self.graph) if self.emitted is None else self.emitted)

    def save(self, path: str | Path) -> None:
        """Write the model: `.onnx`, or for PyTorch also `.pt2` and `.safetensors`; a folder's as a folder."""
        frontends.save(self.graph, path, self.emitted, check=running.loading(self.graph))


def sparsify(
    model: Any,
    example_inputs: Any = None,
    *,
    pattern: str = "2:4",
    method: str = "",
    data: Data | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    permute: bool = False,
    seconds: float = SECONDS,
    seed: int = 0,
    verify: bool = True,
    strict: bool = False,
    input_shapes: Any = None,
    progress: Progress | None = None,
) -> SparseResult:
    """Set the least important entries of each contracted weight to zero in a pattern.

    `model` is as for `prune`, `pattern` as `sparsity.parse` takes it. N:M runs along the axis that products are summed
    over; `permute` first lets coupled channels trade places so that it keeps more (a search of about `seconds`).

    `data` are calibration data for the methods `sparsegpt` (the default with data) and `wanda`: the path of an `.npz`
    file or a mapping, both with an array for each input (axis 0: samples), or an iterable of batches as the model takes
    them. `sparsegpt` also changes the values of what stays. The proof runs on the first of them.

    Raises InputError for what cannot be used, VerificationError where the result is not what it should be, or where
    nothing was proven and `strict` asks for a proof.
    """
    clock, wanted = Clock(progress), sparsity.parse(pattern)
    data = list(data) if isinstance(data, Iterator) else data
    with clock("reading the model"):
        graph = loaded(model, example_inputs, input_shapes, data)
    method, maker = sparsity.make_method(graph, method, data)
    layers, left = sparsity.choose(graph, wanted, include, exclude)
    order = None
    if permute:
        with clock("reordering channels"):
            step = Permute(pattern, tuple(include), tuple(exclude), seconds, seed)
            order = step.reordered(graph, clock.say, maker.samples if isinstance(maker, Calibrated) else None)
        layers, left = sparsity.choose(order.graph, wanted, include, exclude)
    start = graph if order is None else order.graph
    with clock("making weights sparse"):
        made = sparsity.make_sparse(start, layers, wanted, maker, clock.say)
    emitted, proof = None, None
    if verify:
        with clock("verifying"):
            samples = maker.samples if isinstance(maker, Calibrated) else data
            emitted, proof = _prove(graph, made, order, seed, clock.say, samples)
    elif graph.frontend != "onnx":  # of which weights stay in their file until it is saved
        with clock("writing the model"):
            emitted = frontends.emit(made.graph)
    notes = _data_notes(maker, method, data, made, verify)
    report = _report(graph, made, left, method, emitted, proof, clock.seconds, notes)
    judged = "magnitude times the norm of its data" if isinstance(maker, Calibrated) else "magnitude"
    report = replace(report, reordered=[] if order is None else order.gains, reordered_by=judged)
    if proof is not None:
        settle(proof, f"the sparse '{graph.name}'", strict)
    return SparseResult(made.masks, report, made.graph, emitted)


def _prove(
    graph: Graph, made: Outcome, order: Reordered | None, seed: int, say: Progress, data: Data | Samples | None
) -> tuple[Any, Proof]:
    """The model, and its comparison with the original whose weights are masked where it runs, in their old order.

    Where values that stay changed as well, no mask makes them of the original's: then the original gets those values,
    and entries that are to be zero are looked for beside. Models whose weights lie in files are run part by part, and
    then there is no model in memory.
    """
    if made.updated:
        _expect_zeros(made)
        graph = _with_new_values(graph, made, order)
    coupled = order.coupling if order is not None and not made.updated else coupling.couple(graph)
    emitted, proof = _by_parts(coupled, made, order, seed, say, data) or _whole(coupled, made, order, seed, data)
    return emitted, replace(proof, against=_UPDATED) if made.updated else proof


def _whole(
    coupled: Coupling, made: Outcome, order: Reordered | None, seed: int, data: Data | Samples | None
) -> tuple[Any, Proof]:
    masks = made.masks if order is None else order.original(made.masks)
    emitted = frontends.emit(made.graph, lambda _: "")
    reference = Reference(coupled, np.ones(coupled.count, bool), seed=seed, masks=masks, data=data)
    return tried(reference, made.graph, emitted)


def _by_parts(
    coupled: Coupling, made: Outcome, order: Reordered | None, seed: int, say: Progress, data: Data | Samples | None
) -> tuple[None, Proof] | None:
    """The proof of an ONNX model with external data; nothing for other models, and where a part does not run alone."""
    graph = coupled.graph
    if graph.frontend != "onnx" or not any(v.weight.lazy for v in graph.weights().values() if v.weight is not None):
        return None
    twin = graph.copy()
    values = twin.weights()
    for name in made.masks:
        weight = values[name].weight
        assert weight is not None
        values[name].weight = _masked(weight, name, made, order)
    try:
        reference = Reference(coupled, np.ones(coupled.count, bool), seed=seed, masked=twin, progress=say, data=data)
        return None, reference.compare(made.graph)
    except BackendError:
        return None


def _masked(weight: Weight, name: str, made: Outcome, order: Reordered | None) -> Weight:
    """A weight of the original with its zeros; one that lies in a file is masked when it is read."""

    def cut(array: Array) -> Array:
        return np.where(_placed(made.masks[name], name, order), array, np.zeros((), array.dtype))

    return weight.sliced(cut, weight.shape) if weight.plain else weight.masked([_placed(made.masks[name], name, order)])


def _placed(array: Array, name: str, order: Reordered | None) -> Array:
    """An array laid out as a weight of the sparse graph, as it lies in the original."""
    return array if order is None else order.original({name: array})[name]


def _expect_zeros(made: Outcome) -> None:
    weights = made.graph.weights()
    for name in made.masks:
        weight = weights[name].weight
        assert weight is not None
        if np.count_nonzero(weight.array()[~made.masks[name]]):
            raise VerificationError(f"entries of '{name}' that its mask sets to zero are none")


def _with_new_values(graph: Graph, made: Outcome, order: Reordered | None) -> Graph:
    """The original with the values of the sparse graph, as they lie there."""
    twin, source = graph.copy(), made.graph.weights()
    values = twin.weights()
    for name in made.masks:
        weight, before = source[name].weight, values[name].weight
        assert weight is not None and before is not None
        if order is None:
            values[name].weight = weight
        elif before.plain:
            values[name].weight = weight.sliced(partial(_placed, name=name, order=order), before.shape)
    return twin


def _data_notes(method: Method, name: str, data: Data | None, made: Outcome, verify: bool) -> list[str]:
    """What the data were used for, and what that means for the proof."""
    if not isinstance(method, Calibrated):
        return [f"the method {name} looks at no data"] if data is not None else []
    notes = [f"{name} looked at {method.samples.count} samples", method.samples.note]
    if made.updated and verify:
        notes.append(
            f"{name} changed the values of what stays, so that the model was compared with the original that has these"
            f" values, masked; zeros were looked for in each of the {len(made.rows)} weights, where its mask has them"
        )
    return [note for note in notes if note]


def _report(
    graph: Graph,
    made: Outcome,
    left: Sequence[Left],
    method: str,
    emitted: Any,
    proof: Proof | None,
    seconds: dict[str, float],
    more: Sequence[str],
) -> SparseReport:
    rows = [_row(row) for row in made.rows]
    rows += [
        SparseRow(row.value.shown, row.node.op if row.node is not None else "", row.value.sizes, 0, reason=row.reason)
        for row in left
    ]
    notes = [
        *more,
        *assumed_lines(graph.assumed),
        *([proof.detail] if proof is not None and proof.passed and proof.detail else []),
    ]
    return SparseReport(
        graph.name,
        made.masks.pattern,
        method,
        graph.parameter_count(),
        cost.macs(graph),
        rows,
        proof=proof,
        output_form=FORMS.get(getattr(emitted, "form", ""), "ONNX"),
        output_reason=getattr(emitted, "reason", ""),
        notes=notes,
        seconds=seconds,
    )


def _row(row: Made) -> SparseRow:
    layer, told = row.layer, row.told
    shape = layer.value.sizes
    share = row.zeros / prod(shape)
    return SparseRow(
        layer.name, layer.node.op, shape, layer.macs, share, row.magnitude, note=told.note, error=told.error
    )
