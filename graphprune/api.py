"""The public functions:

load or capture a model, couple, plan, apply, verify, measure; and `prune`, which does it all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from . import alignment, budgets, coupling, criteria, depth, frontends
from . import proof as proving
from .budgets import FLOOR, Options
from .coupling import Coupling
from .errors import InputError, VerificationError
from .graph import Graph
from .measuring import benchmark
from .passes.base import Pass
from .passes.cast_precision import CastPrecision
from .passes.permute import Permute
from .passes.pipeline import PassTiming, parse_pipeline, run_pipeline
from .passes.remove_blocks import RemoveBlocks
from .passes.remove_channels import RemoveChannels, remove_channels
from .passes.sparsify import Sparsify
from .plans import Plan
from .report import BlocksReport, EligibilityReport, InspectReport, PassRow, Report
from .report.build import blocks_report, inspection, pruning_report
from .report.eligible import eligibility_report
from .sparsifying import SparseResult, sparsify
from .sparsity import Masks, load_compact, restore_compact, save_compact
from .sparsity.measured import read_measured
from .stages import Clock, Progress, model_of, tried
from .targets import Target, Targets, channels, macs, params

__all__ = [
    "Masks",
    "Plan",
    "Result",
    "SparseResult",
    "apply",
    "benchmark",
    "blocks",
    "capture",
    "channels",
    "couple",
    "emit",
    "inspect",
    "inspect_sparsity",
    "load",
    "load_compact",
    "macs",
    "optimize",
    "params",
    "plan",
    "prune",
    "restore_compact",
    "save",
    "save_compact",
    "sparsify",
    "verify",
    "verify_files",
]


#: Passes that look at data.
_LOOKING = (Sparsify, Permute, CastPrecision)


def load(model: Any, input_shapes: Any = None) -> Graph:
    """Read an `.onnx` or `.pt2` file, `package.module:factory`, a transformers folder or an `onnx.ModelProto`; see
    `frontends.load`. A `torch.nn.Module` goes to `capture`.
    """
    return frontends.load(model, input_shapes)


def capture(module: Any, example_inputs: Any) -> Graph:
    """Capture a `torch.nn.Module`;

    `example_inputs` is a tensor, a tuple of positional or a dict of keyword arguments.
    """
    return frontends.capture(module, example_inputs)


def couple(graph: Graph, *, grouped: str = "within") -> Coupling:
    """The coupled groups of a graph: iterate, print, look at."""
    return coupling.couple(graph, grouped=grouped)


def blocks(graph: Graph, criterion: str | depth.Score = "norm", *, kind: str = "") -> list[depth.Block]:
    """What `remove-blocks` may take out: whole repeated blocks, then residual branches, in the order of the graph.

    `criterion` scores them: a name, or a function from a block to a number. `kind` is "block", "branch" or "" (both).
    """
    found = depth.score(depth.find_blocks(graph), criterion)
    return [block for block in found if kind in ("", block.kind)]


def plan(
    graph: Graph | Coupling,
    target: Target | str | Sequence[Target | str],
    criterion: str = "l2",
    *,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    overrides: Mapping[str, float] | None = None,
    align: int | None = None,
    floor: float = FLOOR,
    uniform: bool = False,
    reduction: str = "sum",
    normalization: str = "mean",
    grouped: str = "within",
    seed: int = 0,
) -> Plan:
    """Couple, score and choose what stays; see `budgets.make_plan` and `criteria.score` for options and errors.

    Of several targets all are met.
    """
    coupled = graph if isinstance(graph, Coupling) else _coupled(graph, grouped, coupling.requested(graph, include))
    scores = criteria.score(coupled, criterion, reduction=reduction, normalization=normalization, seed=seed)
    options = Options(include, exclude, overrides or {}, align, floor, uniform)
    return budgets.make_plan(coupled, scores, Targets.of(target), options, criterion)


def apply(graph: Graph | Coupling, plan: Plan) -> Graph:
    """A new graph with only what the plan keeps; raises InputError where the plan does not fit the model."""
    coupled = graph if isinstance(graph, Coupling) else _coupled(graph, plan.grouped, plan.rows)
    return remove_channels(coupled, plan.kept(coupled))


def verify(graph: Graph | Coupling, pruned: Any, plan: Plan, *, inputs: int = 3, seed: int = 0) -> proving.Proof:
    """Compare a pruned model (a `Graph` or a foreign model) with the masked original."""
    coupled = graph if isinstance(graph, Coupling) else _coupled(graph, plan.grouped, plan.rows)
    keep = plan.kept(coupled)
    proof = proving.verify(
        coupled, keep, _foreign(pruned) if isinstance(pruned, Graph) else pruned, inputs=inputs, seed=seed
    )
    if proof.detail and isinstance(pruned, Graph):
        with proving.livened(coupled.graph) as changed:
            if changed:
                model = _foreign(remove_channels(coupled, keep))
                proof = proving.verify(coupled, keep, model, inputs=inputs, seed=seed)
    return proof


def verify_files(original: str | Path, pruned: str | Path, plan: str | Path, input_shapes: Any = None) -> proving.Proof:
    """Compare two model files under a plan file."""
    made = Plan.load(plan)
    graph = load(original, input_shapes)
    other = load(pruned, input_shapes)
    if other.frontend != graph.frontend:
        raise InputError(
            f"'{original}' and '{pruned}' are of different kinds; compare ONNX with ONNX or PyTorch with PyTorch"
        )
    return verify(graph, other, made)


def emit(graph: Graph) -> Any:
    """The model of a graph in its own framework: an `onnx.ModelProto` or an `nn.Module`."""
    return _foreign(graph)


def save(graph: Graph, path: str | Path, plan: Plan | None = None) -> None:
    """Write a graph's model; the file appears whole or not at all.

    A transformers folder that no configuration describes gets the `plan` beside its tensors.
    """
    frontends.save(graph, path, plan="" if plan is None else plan.text)


def optimize(
    graph: Graph, pipeline: str, verify_each: bool = False, data: str | Path | None = None
) -> tuple[Graph, list[PassRow]]:
    """Run a textual pipeline of passes; returns the new graph, and of each pass its time and what it tells.

    `data` is a file of calibration data (.npz) for the passes that look at some and name none themselves.

    `verify_each` also runs the model before and after every pass: all must compute the same, remove-channels,
    remove-blocks and sparsify what the model computes with that masked or bypassed. Raises InputError for a bad
    pipeline, PassError naming the pass that broke the graph.
    """
    check = _verify_pass if verify_each else None
    result, timings = run_pipeline(graph, _given(parse_pipeline(pipeline), data), verify_each=check)
    return result, [_pass_row(t) for t in timings]


def _given(passes: list[Pass], data: str | Path | None) -> list[Pass]:
    """Passes with the data that they look at."""
    if data is None:
        return passes
    if not any(isinstance(step, _LOOKING) for step in passes):
        raise InputError("none of the passes looks at data: sparsify, permute and cast-precision do")
    return [replace(s, data=str(data)) if isinstance(s, _LOOKING) and not s.data else s for s in passes]


def _verify_pass(before: Graph, after: Graph, step: Pass) -> None:
    """Compare the models before and after a pass; raises VerificationError where they differ."""
    sparse = step.make(before) if isinstance(step, Sparsify) else None
    if isinstance(step, RemoveChannels):
        coupled, made = step.plan(before)
        keep = made.kept(coupled)
    else:
        before = sparse.graph if sparse is not None and sparse.updated else before
        coupled = coupling.couple(before)
        keep = np.ones(coupled.count, bool)
    without = step.choose(before) if isinstance(step, RemoveBlocks) else ()
    masks = sparse.masks if sparse is not None else None
    if isinstance(step, CastPrecision) and not step.keep_io:
        after = replace(step, keep_io=True).run(before)  # both take the same inputs then
    proof = proving.verify(coupled, keep, _foreign(after), without=without, masks=masks)
    allowed = proving.TOLERANCES[step.to] if isinstance(step, CastPrecision) else proof.tolerance
    if not proof.passed and not proof.max_error <= allowed:
        why = f": {proof.detail}" if proof.detail else ""
        raise VerificationError(f"the outputs differ by {proof.max_error:.2g} (allowed: {allowed:.2g}){why}")


def _pass_row(timing: PassTiming) -> PassRow:
    return PassRow(timing.name, timing.seconds, timing.changed, list(timing.remarks))


def inspect_blocks(graph: Graph, criterion: str | depth.Score = "norm") -> BlocksReport:
    """What `blocks` finds, as a report."""
    return blocks_report(graph, blocks(graph, criterion))


def inspect_sparsity(graph: Graph, measurements: str | Path | None = None) -> EligibilityReport:
    """Which weights sparse tensor cores can run, and why not the others.

    `measurements` is a file as `benchmarks/gpu_sparse.py` writes it; where none is given, that of this project, if it
    is there. Raises InputError where it does not hold that.
    """
    return eligibility_report(graph, read_measured(None if measurements is None else Path(measurements)))


def inspect(graph: Graph, *, grouped: str = "within") -> InspectReport:
    """What can be pruned in a model, and what cannot and why."""
    return inspection(_coupled(graph, grouped))


@dataclass
class Result:
    """What `prune` made. `model` is of the caller's kind; `coupling` and `graph` are for a closer look."""

    model: Any
    plan: Plan
    report: Report
    graph: Graph = field(repr=False)
    coupling: Coupling = field(repr=False)
    emitted: Any = field(repr=False)

    def save(self, path: str | Path) -> None:
        """Write the model: `.onnx`, or for PyTorch also `.pt2` and `.safetensors`; a folder's as a folder."""
        frontends.save(self.graph, path, self.emitted, self.plan.text)


def prune(
    model: Any,
    example_inputs: Any = None,
    *,
    target: Target | str | Sequence[Target | str],
    criterion: str = "l2",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    overrides: Mapping[str, float] | None = None,
    align: int | None = None,
    floor: float = FLOOR,
    uniform: bool = False,
    reduction: str = "sum",
    normalization: str = "mean",
    grouped: str = "within",
    seed: int = 0,
    verify: bool = True,
    input_shapes: Any = None,
    progress: Progress | None = None,
) -> Result:
    """Prune a model to a target, or to several at once, and prove the result.

    `model` is an `nn.Module` (with `example_inputs`), a `Graph`, or anything `load` takes. Raises InputError for what
    cannot be used, TargetError where the target is out of reach, VerificationError where the result is not what it
    should be.
    """
    clock, goal = Clock(progress), Targets.of(target)
    with clock("reading the model"):
        graph = frontends.read(model, example_inputs, input_shapes)
    with clock("coupling"):
        coupled = coupling.couple(graph, grouped=grouped, rows=coupling.requested(graph, include))
    with clock("planning"):
        scores = criteria.score(coupled, criterion, reduction=reduction, normalization=normalization, seed=seed)
        options = Options(include, exclude, overrides or {}, align, floor, uniform)
        made = budgets.make_plan(coupled, scores, goal, options, criterion)
        keep = made.kept(coupled)
    with clock("rewriting"):
        pruned = remove_channels(coupled, keep)
    with clock("writing the model"):
        # The proof, where there is one, is also the trial of the caller's own class.
        emitted = frontends.emit(pruned, (lambda _: "") if verify else None)
    proof = None
    if verify:
        with clock("verifying"):
            emitted, proof = _prove(coupled, keep, pruned, emitted, seed, progress)
    notes = [*budgets.nothing_removed(coupled, made, options), *alignment.slow_kernels(graph, pruned)]
    report = pruning_report(coupled, made, pruned, emitted, proof, clock.seconds, notes)
    if proof is not None and not proof.passed:
        raise VerificationError(
            f"the pruned '{graph.name}' differs from the masked original by {proof.max_error:.2g} "
            f"(allowed: {proof.tolerance:.2g}){': ' + proof.detail if proof.detail else ''}"
        )
    return Result(model_of(emitted), made, report, pruned, coupled, emitted)


def _prove(
    coupled: Coupling, keep: np.ndarray, pruned: Graph, emitted: Any, seed: int, progress: Progress | None
) -> tuple[Any, proving.Proof]:
    """The model and its proof, which also decides whether the caller's own class will do.

    Where outputs do not depend on inputs because a weight is all zero, it is the proof of a model without such weights.
    """
    emitted, proof = tried(proving.Reference(coupled, keep, seed=seed, progress=progress), pruned, emitted)
    if not proof.detail:
        return emitted, proof
    with proving.livened(coupled.graph) as changed:
        if not changed:
            return emitted, proof
        live = remove_channels(coupled, keep)
        again, proof = tried(proving.Reference(coupled, keep, seed=seed), live, frontends.emit(live))
    if getattr(again, "form", None) != getattr(emitted, "form", None):
        emitted = frontends.of(pruned).emit(pruned, own_class=False)
    return emitted, proof


def _coupled(graph: Graph, grouped: str, rows: tuple[str, ...] = ()) -> Coupling:
    """The coupling of a graph, computed once for each mode (a graph does not change once it is loaded)."""
    known: dict[Any, Coupling] = graph.__dict__.setdefault("_couplings", {})
    if (grouped, rows) not in known:
        known[grouped, rows] = coupling.couple(graph, grouped=grouped, rows=rows)
    return known[grouped, rows]


def _foreign(graph: Graph) -> Any:
    return model_of(frontends.emit(graph))
