"""The commands. Each checks its command line, calls `graphprune.api` and prints; nothing is computed here."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from graphprune.errors import InputError, VerificationError

from .. import report as reports
from . import options as opt
from .files import check_file, check_model, check_outputs, model_suffixes
from .parse import parse_overrides, parse_shapes, parse_targets
from .progress import working

_PIPED_WIDTH = 120
_JSON_FILE = (".json",)

app = typer.Typer(
    name="graphprune",
    help="Make trained neural networks smaller: prune, prove and measure PyTorch and ONNX models.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _api() -> Any:
    """The API, imported when a command needs it: `--help` must not wait for the frameworks."""
    return import_module("graphprune.api")


def _console() -> Console:
    """Stdout; wide enough for weight names where it is not a terminal."""
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        return Console(width=_PIPED_WIDTH)
    return console


def _print_json(data: Any) -> None:
    typer.echo(json.dumps(reports.jsonable(data), indent=2))


def _show(report: Any, as_json: bool, **how: bool) -> None:
    """Print a report: its tables, or JSON and nothing else."""
    if as_json:
        _print_json(report.to_json())
    else:
        report.render(_console(), **how)


def _check_data(path: Path | None) -> None:
    """The file of --data, where it is given."""
    if path is not None:
        check_file(path)


def _write_report(report: Any, path: Path | None) -> None:
    """The file of --report, where it is wanted."""
    if path is not None:
        reports.write_json(report.to_json(), path)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"graphprune {version('graphprune')}")
        raise typer.Exit


@app.callback()
def root(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Make trained neural networks smaller: prune, prove and measure PyTorch and ONNX models."""


@app.command()
def inspect(
    model: opt.Model,
    blocks: Annotated[bool, typer.Option("--blocks", help="Show blocks and branches for remove-blocks.")] = False,
    sparsity: Annotated[bool, typer.Option("--sparsity", help="Show what sparse tensor cores can run.")] = False,
    input_shape: opt.InputShape = None,
    submodule: opt.Submodule = "",
    grouped: opt.GroupedChoice = opt.Grouped.WITHIN,
    every: opt.All = False,
    as_json: opt.Json = False,
) -> None:
    """Show what can be pruned: the coupled groups, what is frozen and why."""
    shapes = parse_shapes(input_shape or [])
    if blocks and sparsity:
        raise InputError("--blocks and --sparsity show different things; give one of them")
    check_model(model)
    with working("reading the model") as progress:
        graph = _api().load(model, shapes, submodule=submodule)
        progress("looking for blocks" if blocks else "looking at weights" if sparsity else "coupling")
        if blocks or sparsity:
            report = _api().inspect_blocks(graph) if blocks else _api().inspect_sparsity(graph)
        else:
            report = _api().inspect(graph, grouped=grouped.value)
    _show(replace(report, model=model), as_json, every=every)


@app.command()
def prune(
    model: opt.Model,
    output: opt.Output,
    target: opt.Target,
    criterion: opt.Criterion = "l2",
    data: opt.Data = None,
    include: opt.Include = None,
    exclude: opt.Exclude = None,
    roles: opt.Roles = None,
    align: opt.Align = None,
    floor: opt.Floor = None,
    uniform: opt.Uniform = False,
    override: opt.Override = None,
    reduction: opt.Reduction = None,
    normalization: opt.Normalization = None,
    grouped: opt.GroupedChoice = opt.Grouped.WITHIN,
    input_shape: opt.InputShape = None,
    submodule: opt.Submodule = "",
    seed: opt.Seed = 0,
    plan_out: opt.PlanOut = None,
    report_out: opt.ReportOut = None,
    no_verify: opt.NoVerify = False,
    strict: opt.Strict = False,
    own_class: opt.OwnClassChoice = None,
    keep_class: opt.KeepClass = False,
    as_json: opt.Json = False,
) -> None:
    """Remove whole channels, heads and neurons, prove the result and write it."""
    targets = parse_targets(target)
    chosen = {
        "include": tuple(include or ()),
        "exclude": tuple(exclude or ()),
        "roles": roles and tuple(roles.split(",")),
        "align": align,
        "floor": floor,
        "uniform": uniform or None,
        "data": data,
        "strict": strict or None,
        "own_class": own_class and own_class.value,
        "keep_class": keep_class or None,
        "overrides": parse_overrides(override or []),
        "reduction": reduction,
        "normalization": normalization,
        "input_shapes": parse_shapes(input_shape or []),
        "submodule": submodule or None,
    }
    check_model(model)
    _check_data(data)
    outputs = [("--plan-out", plan_out, _JSON_FILE), ("--report", report_out, _JSON_FILE)]
    check_outputs([model], [("--output", output, model_suffixes(model)), *outputs])
    with working("pruning") as progress:
        result = _api().prune(
            model,
            target=targets,
            criterion=criterion,
            grouped=grouped.value,
            seed=seed,
            verify=not no_verify,
            progress=progress,
            **{name: value for name, value in chosen.items() if value is not None},
        )
        report = replace(result.report, model=model)
        progress("writing")
        result.save(output)
        if plan_out is not None:
            result.plan.save(plan_out)
        _write_report(report, report_out)
    _show(report, as_json)


@app.command()
def sparsify(
    model: opt.Model,
    output: opt.Output,
    pattern: opt.Pattern = "2:4",
    method: opt.Method = "",
    permute: Annotated[bool, typer.Option("--permute", help="Reorder channels first, to lose less.")] = False,
    seconds: opt.Seconds = None,
    data: opt.Data = None,
    include: opt.Include = None,
    exclude: opt.Exclude = None,
    masks_out: opt.MasksOut = None,
    compact: opt.CompactOut = None,
    input_shape: opt.InputShape = None,
    seed: opt.Seed = 0,
    report_out: opt.ReportOut = None,
    no_verify: opt.NoVerify = False,
    strict: opt.Strict = False,
    every: opt.All = False,
    as_json: opt.Json = False,
) -> None:
    """Set weights to zero in a pattern that hardware skips (2:4), prove the result and write it."""
    shapes = parse_shapes(input_shape or [])
    if seconds is not None and not permute:
        raise InputError("--seconds says how long --permute may search; give both")
    check_model(model)
    _check_data(data)
    outputs = [
        ("--output", output, model_suffixes(model)),
        ("--masks-out", masks_out, (".safetensors",)),
        ("--compact", compact, (".safetensors",)),
        ("--report", report_out, _JSON_FILE),
    ]
    check_outputs([model], outputs)
    with working("making weights sparse") as progress:
        result = _api().sparsify(
            model,
            pattern=pattern,
            method=method,
            data=data,
            include=tuple(include or ()),
            exclude=tuple(exclude or ()),
            permute=permute,
            **({} if seconds is None else {"seconds": seconds}),
            seed=seed,
            verify=not no_verify,
            strict=strict,
            input_shapes=shapes,
            progress=progress,
        )
        report = replace(result.report, model=model)
        progress("writing")
        if compact is not None:  # first: what it refuses leaves nothing behind
            _api().save_compact(result, compact)
        result.save(output)
        if masks_out is not None:
            result.masks.save(masks_out)
        _write_report(report, report_out)
    _show(report, as_json, every=every)


@app.command("opt")
def optimize(
    model: opt.Model,
    output: opt.Output,
    passes: Annotated[
        str,
        typer.Option("--passes", help="Passes in order: fold-batchnorm,remove-channels{macs=0.5}.", metavar="PIPELINE"),
    ],
    verify_each: Annotated[bool, typer.Option("--verify-each", help="Prove every pass.")] = False,
    data: opt.Data = None,
    strict: opt.Strict = False,
    input_shape: opt.InputShape = None,
    report_out: opt.ReportOut = None,
    every: opt.All = False,
    as_json: opt.Json = False,
) -> None:
    """Run a pipeline of passes over a model and write the result."""
    shapes = parse_shapes(input_shape or [])
    check_model(model)
    _check_data(data)
    check_outputs([model], [("--output", output, model_suffixes(model)), ("--report", report_out, _JSON_FILE)])
    with working("running passes"):
        graph, rows = _api().optimize(_api().load(model, shapes, data), passes, verify_each, data, strict)
        _api().save(graph, output)
        report = reports.PassesReport(model, rows)
        _write_report(report, report_out)
    _show(report, as_json, every=every)


@app.command()
def verify(
    original: opt.Model,
    pruned: Annotated[str, typer.Argument(help="The pruned model.")],
    plan: opt.PlanFile,
    data: opt.Data = None,
    input_shape: opt.InputShape = None,
    strict: opt.Strict = False,
    as_json: opt.Json = False,
) -> None:
    """Check that a pruned model computes what the original does with the removed parts masked."""
    shapes = parse_shapes(input_shape or [])
    check_model(original)
    check_model(pruned)
    check_file(plan)
    _check_data(data)
    with working("verifying"):
        proof = _api().verify_files(original, pruned, plan, shapes, data)
    if as_json:
        _print_json(proof)
    else:
        reports.render_proof(proof, _console())
    if proof.failed:
        raise VerificationError(f"'{pruned}' differs from the masked '{original}' by up to {proof.max_error:.2g}")
    if strict and proof.undecided:
        raise VerificationError(f"'{pruned}' is {proof.sentence}")


@app.command()
def bench(
    models: Annotated[list[str], typer.Argument(help="Models to compare with the first one.", metavar="MODEL...")],
    runtime: Annotated[
        str | None,
        typer.Option(
            "--runtime",
            help="What to time on (onnxruntime; folders: pytorch); options: tensorrt{sparse=false}.",
            metavar="NAME",
        ),
    ] = None,
    threads: Annotated[int, typer.Option("--threads", min=1, help="Number of threads.", metavar="N")] = 1,
    input_shape: opt.InputShape = None,
    layers: Annotated[
        bool, typer.Option("--layers", help="Show each layer's kernel (tensorrt), or the slowest nodes.")
    ] = False,
    as_json: opt.Json = False,
) -> None:
    """Time models side by side, in turns."""
    shapes = parse_shapes(input_shape or [])
    for model in models:
        check_model(model)
    with working("timing") as progress:
        settings = {"runtime": runtime, "threads": threads, "input_shapes": shapes, "layers": layers}
        timings = _api().benchmark(models, **settings, progress=progress)
    if as_json:
        _print_json(timings)
    else:
        reports.render_bench(timings, _console())


@app.command()
def apply(
    model: opt.Model,
    plan: opt.PlanFile,
    output: opt.Output,
    data: opt.Data = None,
    input_shape: opt.InputShape = None,
    submodule: opt.Submodule = "",
    no_verify: opt.NoVerify = False,
    strict: opt.Strict = False,
) -> None:
    """Prune a fresh copy of a model by a saved plan, prove the result and write it."""
    shapes = parse_shapes(input_shape or [])
    check_model(model)
    check_file(plan)
    _check_data(data)
    if data is not None and no_verify:
        raise InputError("--data serves the proof, which --no-verify leaves out; give one of them")
    check_outputs([model, plan], [("--output", output, model_suffixes(model))])
    with working("applying the plan") as progress:
        made = _api().Plan.load(plan)
        graph = _api().load(model, shapes, data, submodule=submodule)
        pruned = _api().apply(graph, made)
        progress("verifying")
        proof = None if no_verify else _api().verify(graph, pruned, made, data=data, strict=strict)
        if proof is not None and proof.failed:
            raise VerificationError(f"'{model}' pruned by '{plan}' {proof.sentence}")
        _api().save(pruned, output, made)
    typer.echo(f"wrote {Path(output)}")
    if proof is not None:
        reports.render_proof(proof, _console())


@app.command()
def restore(
    model: opt.Model,
    compact: Annotated[Path, typer.Option("--compact", help="What sparsify --compact wrote.", metavar="FILE")],
    output: opt.Output,
    input_shape: opt.InputShape = None,
) -> None:
    """Put compactly stored sparse weights into a fresh copy of a model."""
    shapes = parse_shapes(input_shape or [])
    check_model(model)
    check_file(compact)
    check_outputs([model, compact], [("--output", output, model_suffixes(model))])
    with working("restoring the weights"):
        _api().save(_api().restore_compact(model, compact, shapes), output)
    typer.echo(f"wrote {Path(output)}")
