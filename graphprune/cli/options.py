"""The options and arguments that commands share, each with its one help text."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Grouped(StrEnum):
    """How grouped convolutions and group norms lose channels."""

    WITHIN = "within"
    WHOLE = "whole"


class OwnClass(StrEnum):
    """Whether a PyTorch module must come back in its own class."""

    PREFER = "prefer"
    REQUIRE = "require"


Model = Annotated[
    str, typer.Argument(help="An .onnx file, a .pt2 file, package.module:factory, or a transformers folder.")
]
Output = Annotated[Path, typer.Option("--output", "-o", help="Where to write the model.")]
InputShape = Annotated[
    list[str] | None,
    typer.Option(
        "--input-shape",
        help="Shape of an input: 1,3,224,224 (in order) or name=1,3,224,224. Repeatable.",
        metavar="SHAPE",
    ),
]
Submodule = Annotated[
    str,
    typer.Option(
        "--submodule",
        help="Only this part of a PyTorch model (backbone, encoder.layers): for models that cannot be captured whole.",
        metavar="PATH",
        show_default=False,
    ),
]
All = Annotated[bool, typer.Option("--all", help="Show every group and every reason, also those that are alike.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON and nothing else.")]
Seed = Annotated[int, typer.Option("--seed", help="Seed of everything random.")]
Data = Annotated[
    Path | None,
    typer.Option(
        "--data",
        help="Real samples, for the proof and for what looks at data: numpy.savez(FILE, INPUT=array, ...), arrays by"
        " the names of the inputs, with samples along the first axis.",
        metavar="FILE.npz",
    ),
]
Strict = Annotated[bool, typer.Option("--strict", help="Fail (exit code 1) where nothing could be proven.")]
PlanFile = Annotated[Path, typer.Option("--plan", help="The plan (.json) written by prune --plan-out.")]

Target = Annotated[
    list[str],
    typer.Option(
        "--target",
        help="What to keep: channels=0.5, params=0.5, macs=0.5; several are all met.",
        metavar="KEY=VALUE",
    ),
]
Criterion = Annotated[str, typer.Option("--criterion", help="How to score importance.", metavar="NAME")]
Include = Annotated[
    list[str] | None,
    typer.Option("--include", help="Prune only weights or nodes that match. Repeatable.", metavar="GLOB"),
]
Exclude = Annotated[
    list[str] | None, typer.Option("--exclude", help="Leave weights or nodes that match. Repeatable.", metavar="GLOB")
]
Roles = Annotated[
    str | None,
    typer.Option(
        "--roles",
        help="What may go, by commas: channels, neurons, heads, head-width, experts (the default), soft-experts,"
        " tokens, table-rows, coordinates, all.",
        metavar="NAMES",
    ),
]
Align = Annotated[
    int | None,
    typer.Option(
        "--align",
        min=1,
        help="Round kept counts up to a multiple of this (8; channels=: near 8s or 4s).",
        metavar="N",
    ),
]
Floor = Annotated[
    float | None,
    typer.Option("--floor", min=0, max=1, help="Keep at least this share of every group (0.1).", metavar="RATIO"),
]
Uniform = Annotated[
    bool, typer.Option("--uniform", help="Keep equal counts in all layers alike, as deployment stacks expect.")
]
Override = Annotated[
    list[str] | None,
    typer.Option("--override", help="Another share for the groups that match. Repeatable.", metavar="GLOB=RATIO"),
]
Reduction = Annotated[str | None, typer.Option("--reduction", help="How scores add up over a group.", metavar="NAME")]
Normalization = Annotated[
    str | None, typer.Option("--normalization", help="How scores compare between groups.", metavar="NAME")
]
GroupedChoice = Annotated[
    Grouped,
    typer.Option("--grouped", help="Grouped convolutions, group norms: equal counts in each group, or whole groups."),
]
PlanOut = Annotated[Path | None, typer.Option("--plan-out", help="Write the plan (.json).", metavar="FILE")]
ReportOut = Annotated[Path | None, typer.Option("--report", help="Write the full report (.json).", metavar="FILE")]
NoVerify = Annotated[bool, typer.Option("--no-verify", help="Skip the proof against the masked original.")]
OwnClassChoice = Annotated[
    OwnClass | None,
    typer.Option("--own-class", help="PyTorch: fail (exit 1) where the model's own class cannot hold the result."),
]
KeepClass = Annotated[
    bool,
    typer.Option(
        "--keep-class",
        help="PyTorch: prune less where that keeps the model's own class: sizes in its code stay.",
    ),
]
Pattern = Annotated[
    str,
    typer.Option(
        "--pattern",
        help="2:4 or other N:M, 64:2:8 (V:N:M), unstructured:0.5, global:0.5, block:4x4:0.5, row:0.5, column:0.5,"
        " kernel:0.5 (the share of zeros), 4-of-9.",
        metavar="PATTERN",
    ),
]
Method = Annotated[
    str,
    typer.Option(
        "--method",
        help="magnitude; with --data: sparsegpt (the default then) or wanda.",
        metavar="NAME",
        show_default=False,
    ),
]
Seconds = Annotated[
    float | None,
    typer.Option("--seconds", help="How long --permute may search (60).", metavar="N", show_default=False),
]
MasksOut = Annotated[
    Path | None, typer.Option("--masks-out", help="Write the masks (.safetensors), for training.", metavar="FILE")
]
CompactOut = Annotated[
    Path | None,
    typer.Option("--compact", help="Write all weights, N:M ones as values and indices (.safetensors).", metavar="FILE"),
]
