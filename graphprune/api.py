"""The public functions:

load or capture a model, couple, plan, apply, verify, measure; and `prune`, which does it all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from . import coupling, depth, frontends
from .bench import benchmark
from .calibration import running
from .calibration.samples import Data
from .coupling import Coupling
from .errors import InputError
from .ir.graph import Graph
from .passes.base import Pass
from .passes.cast_precision import CastPrecision
from .passes.permute import Permute
from .passes.pipeline import PassTiming, parse_pipeline, run_pipeline
from .passes.remove_channels import remove_channels
from .passes.sparsify import Sparsify
from .pipelines import proving
from .pipelines.own_class import EXACT, Held, Planning, unrounded, what_to_hold
from .pipelines.sparsify import SparseResult, sparsify
from .pipelines.stages import Clock, Progress, given_back, model_of
from .pruning.budgets import alignment, allocation
from .pruning.budgets.allocation import FLOOR, Options
from .pruning.budgets.targets import Target, Targets, channels, macs, params
from .pruning.criteria import magnitude
from .pruning.plan import Plan
from .report import BlocksReport, EligibilityReport, InspectReport, PassRow, Report
from .report.build import blocks_report, inspection, pruning_report, told
from .report.eligible import eligibility_report
from .sparsity import Masks, load_compact, restore_compact, save_compact
from .sparsity.measured import read_measured
from .verification.proof import Proof

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


def load(model: Any, input_shapes: Any = None, data: Data | None = None, *, submodule: str = "") -> Graph:
    """Read an `.onnx` or `.pt2` file, `package.module:factory`, a transformers folder or an `onnx.ModelProto`; see
    `frontends.load`. A `torch.nn.Module` goes to `capture`. Free sizes that are not given are those of `data`;
    `submodule` as for `capture`.
    """
    if data is None:
        return frontends.load(model, input_shapes, submodule)
    return proving.loaded(model, None, input_shapes, data, submodule)


def capture(module: Any, example_inputs: Any, *, submodule: str = "") -> Graph:
    """Capture a `torch.nn.Module`, or a part of one that cannot be captured whole.

    `example_inputs` is a tensor, a tuple of positional or a dict of keyword arguments. `submodule` is the path of the
    part, as in `named_modules()`: it is captured on what it gets when the module runs on the example.
    """
    return frontends.capture(module, example_inputs, submodule)


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
    roles: Sequence[str] | None = None,
    reduction: str = "sum",
    normalization: str = "mean",
    grouped: str = "within",
    seed: int = 0,
) -> Plan:
    """Couple, score and choose what stays; see `allocation.make_plan` and `magnitude.score` for options and errors.

    `roles` says what may go: by default "channels", "neurons", "heads", "head-width" and "experts" with a router;
    others ("soft-experts", "tokens", "table-rows", "coordinates", or "all") on request.

    Of several targets all are met.
    """
    coupled = graph if isinstance(graph, Coupling) else _coupled(graph, grouped, coupling.requested(graph, include))
    scores = magnitude.score(coupled, criterion, reduction=reduction, normalization=normalization, seed=seed)
    options = Options(include, exclude, overrides or {}, align, floor, uniform, roles)
    return allocation.make_plan(coupled, scores, Targets.of(target), options, criterion)


def apply(graph: Graph | Coupling, plan: Plan) -> Graph:
    """A new graph with only what the plan keeps; raises InputError where the plan does not fit the model."""
    coupled = graph if isinstance(graph, Coupling) else _coupled(graph, plan.grouped, plan.rows, plan.inner)
    return remove_channels(coupled, plan.kept(coupled))


def verify(
    graph: Graph | Coupling,
    pruned: Any,
    plan: Plan,
    *,
    inputs: int = 3,
    seed: int = 0,
    data: Data | None = None,
    strict: bool = False,
) -> Proof:
    """Compare a pruned model (a `Graph` or a foreign model) with the masked original, on made-up inputs or on `data`.

    Raises VerificationError where nothing was proven and `strict` asks for a proof.
    """
    coupled = graph if isinstance(graph, Coupling) else _coupled(graph, plan.grouped, plan.rows, plan.inner)
    proof = proving.compared(coupled, plan.kept(coupled), pruned, inputs=inputs, seed=seed, data=proving.few(data))
    if proof.undecided:
        proving.settle(proof, f"the pruned '{coupled.graph.name}'", strict)
    return proof


def verify_files(
    original: str | Path,
    pruned: str | Path,
    plan: str | Path,
    input_shapes: Any = None,
    data: Data | None = None,
    strict: bool = False,
) -> Proof:
    """Compare two model files under a plan file."""
    made = Plan.load(plan)
    graph = load(original, input_shapes, data)
    other = load(pruned, input_shapes, data)
    proving.same_kind(graph, other, (original, pruned))
    return verify(graph, other, made, data=data, strict=strict)


def emit(graph: Graph) -> Any:
    """The model of a graph in its own framework: an `onnx.ModelProto` or an `nn.Module`."""
    return given_back(frontends.placed(graph, frontends.emit(graph)))


def save(graph: Graph, path: str | Path, plan: Plan | None = None) -> None:
    """Write a graph's model; the file appears whole or not at all.

    A transformers folder that no configuration describes gets the `plan` beside its tensors.
    """
    frontends.save(graph, path, plan="" if plan is None else plan.text, check=running.loading(graph))


def optimize(
    graph: Graph, pipeline: str, verify_each: bool = False, data: str | Path | None = None, strict: bool = False
) -> tuple[Graph, list[PassRow]]:
    """Run a textual pipeline of passes; returns the new graph, and of each pass its time and what it tells.

    `data` is a file of samples (.npz) for the passes that look at some and name none themselves.

    `verify_each` also runs the model before and after every pass, on the samples where there are some: all must compute
    the same, remove-channels, remove-blocks and sparsify what the model computes with that masked or bypassed. Where
    nothing was proven a remark says so; with `strict` that is an error. Raises InputError for a bad pipeline, PassError
    naming the pass that broke the graph.
    """
    check = partial(proving.verify_pass, data=data, strict=strict) if verify_each else None
    passes = _given(parse_pipeline(pipeline), data, verify_each)
    result, timings = run_pipeline(graph, passes, verify_each=check)
    return result, [_pass_row(t) for t in timings]


def _given(passes: list[Pass], data: str | Path | None, verify_each: bool) -> list[Pass]:
    """Passes with the data that they look at."""
    if data is None:
        return passes
    if not (verify_each or any(isinstance(step, _LOOKING) for step in passes)):
        raise InputError(
            "none of the passes looks at data (sparsify, permute, cast-precision), and neither does --verify-each"
        )
    return [replace(s, data=str(data)) if isinstance(s, _LOOKING) and not s.data else s for s in passes]


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
        frontends.save(self.graph, path, self.emitted, self.plan.text, check=running.loading(self.graph))


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
    roles: Sequence[str] | None = None,
    reduction: str = "sum",
    normalization: str = "mean",
    grouped: str = "within",
    seed: int = 0,
    verify: bool = True,
    data: Data | None = None,
    strict: bool = False,
    own_class: str = "prefer",
    keep_class: bool = False,
    input_shapes: Any = None,
    submodule: str = "",
    progress: Progress | None = None,
) -> Result:
    """Prune a model to a target, or to several at once, and prove the result.

    `model` is an `nn.Module` (with `example_inputs`), a `Graph`, or anything `load` takes. `data` are samples that the
    proof runs on: the path of an `.npz` file or a mapping, both with an array for each input (axis 0: samples), or an
    iterable of batches as the model takes them. Without, inputs are made up. With `own_class="require"` a module must
    come back in its own class, which must train where the original does; with `keep_class` less is pruned where that
    is what brings the class back: heads lose width where their number stands in the code, other such sizes stay.
    `submodule` prunes only that part of a module (see `capture`); the result is the whole model with it.
    `roles` says what may go, as for `plan`.

    Raises OwnClassError where the class cannot hold the result, InputError for what cannot be used, TargetError where
    the target is out of reach, VerificationError where the result is not what it should be, or where nothing was proven
    and `strict` asks for a proof.
    """
    clock, goal, data = Clock(progress), Targets.of(target), proving.few(data)
    if data is not None and not verify:
        raise InputError("data serve the proof, which is not to run: leave out data, or verify=False (--no-verify)")
    if own_class not in proving.OWN_CLASS:
        raise InputError(f"own_class must be one of {', '.join(proving.OWN_CLASS)}, not '{own_class}'")
    with clock("reading the model"):
        graph = proving.loaded(model, example_inputs, input_shapes, data, submodule)
        graph = proving.at_running_sizes(graph, model) if verify and data is None else graph
        exclude = (*exclude, *frontends.shared_outside(graph))
    options = Options(include, exclude, overrides or {}, align, floor, uniform, roles)
    how = {"reduction": reduction, "normalization": normalization, "seed": seed}
    planning = Planning(graph, goal, criterion, options, grouped, how, clock)
    held = what_to_hold(planning) if keep_class else Held()
    coupled, made = planning.plan(held)
    prove = partial(proving.prove, seed=seed, tell=progress, data=data) if verify else None
    write = partial(_written, coupled, clock=clock, prove=prove)
    written, kept = write(made), [held.sentence]
    exact = unrounded(planning, held, coupled, made) if getattr(written[1], "form", "") == "graph" else None
    if exact is not None and (other := write(exact))[1].form == "module":
        made, written, kept = exact, other, [*kept, EXACT]
    pruned, emitted, proof = written
    notes = [*allocation.nothing_removed(coupled, made, options), *alignment.slow_kernels(graph, pruned)]
    notes += [*running.unloaded(graph), *filter(None, kept), *told(coupled, made)]
    report = pruning_report(coupled, made, pruned, emitted, proof, clock.seconds, notes)
    if proof is not None:
        proving.settle(proof, f"the pruned '{graph.name}'", strict)
    if own_class == "require":
        proving.require_class(graph, emitted)
    emitted = frontends.placed(pruned, emitted)
    return Result(given_back(emitted), made, report, pruned, coupled, emitted)


def _written(
    coupled: Coupling, made: Plan, *, clock: Clock, prove: Callable[..., tuple[Any, Proof]] | None
) -> tuple[Graph, Any, Proof | None]:
    """The pruned graph, the model written back, and its proof, if there is to be one."""
    keep = made.kept(coupled)
    with clock("rewriting"):
        pruned = remove_channels(coupled, keep)
    with clock("writing the model"):
        # The proof, where there is one, is also the trial of the caller's own class.
        emitted = frontends.emit(pruned, (lambda _: "") if prove is not None else None)
    if prove is None:
        return pruned, emitted, None
    with clock("verifying"):
        emitted, proof = prove(coupled, keep, pruned, emitted)
    return pruned, emitted, proof


def _coupled(graph: Graph, grouped: str, rows: tuple[str, ...] = (), inner: tuple[str, ...] = ()) -> Coupling:
    """The coupling of a graph, computed once for each mode (a graph does not change once it is loaded)."""
    known: dict[Any, Coupling] = graph.__dict__.setdefault("_couplings", {})
    if (grouped, rows, inner) not in known:
        known[grouped, rows, inner] = coupling.couple(graph, grouped=grouped, rows=rows, inner=inner)
    return known[grouped, rows, inner]


def _foreign(graph: Graph) -> Any:
    return model_of(frontends.emit(graph))
