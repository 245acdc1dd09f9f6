"""Reports: what a reader sees, and the same as JSON."""

from __future__ import annotations

import io
import json
import stat
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from graphprune import report as reports
from graphprune.errors import InputError
from graphprune.pruning.selection import matches
from graphprune.report.render import shorter
from graphprune.runtimes import Comparison, Environment, Timing
from graphprune.verification.proof import Proof

GROUPS = [
    reports.GroupRow(
        "g0", 64, 32, True, ["conv1.weight[0]", "layer1.0.conv1.weight[1]", "bn1.weight[0]"], "l2", "channels", 1, 9408
    ),
    reports.GroupRow("g1", 12, 12, False, ["blocks.0.attn.qkv.weight[0]"], role="heads", width=64, parameters=1000),
]
FROZEN = [
    reports.FrozenRow("fc.weight", 0, 1000, "", "it makes the output 'logits'", "output"),
    reports.FrozenRow("head.weight", 1, 24, "nms", "it meets what a box is", "unknown", "NonMaxSuppression", "detect"),
]
UNKNOWN = [reports.UnknownRow("NonMaxSuppression", 2, "/nms")]
PROOF = Proof("passed", 2e-6, 1e-4, 3, 1, 1)
REPORT = reports.Report(
    model="resnet[18].onnx",
    target="macs=0.5",
    criterion="l2",
    before=reports.Measure(11_689_512, 1_814_073_344, 46_804_382, 0.0324),
    after=reports.Measure(5_844_756, 907_036_672, 23_402_191, 0.0178),
    groups=GROUPS,
    frozen=FROZEN,
    unknown=UNKNOWN,
    proof=PROOF,
    output_form="own class",
    output_reason="its outputs agree with the fx graph's",
    notes=["a note"],
    seconds={"couple": 0.04},
)
INSPECTION = reports.InspectReport("net.onnx", 49, 11_689_512, 1_814_073_344, GROUPS, FROZEN, UNKNOWN, 11_000_000)


def shown(item: reports.Report | reports.InspectReport, width: int = 200, **options: bool) -> str:
    out = io.StringIO()
    item.render(Console(file=out, width=width), **options)
    return out.getvalue()


def test_the_report_shows_gain_groups_frozen_unknown_and_proof() -> None:
    text = shown(REPORT)
    for line in (
        "resnet[18].onnx pruned to macs=0.5 by l2",
        "Coupled groups: 2, of which 1 lost components; 1 exact (removing equals zeroing), 1 renormalizing",
        "Frozen: 1,024 indices on 2 axes of 2 weights must stay because of",
        "fc.weight[0] (1,000 indices): it makes the output 'logits'",
        "head.weight[1] (24 indices): it meets what a box is, at nms (NonMaxSuppression in detect)",
        "NonMaxSuppression x2 (first: /nms)",
        "Verification passed: largest error 2e-06 of how much the outputs vary, against the masked original (allowed",
        "Output: own class (its outputs agree with the fx graph's).",
        "Note: a note",
    ):
        assert line in text
    rows = {line.split("  ")[1].strip(): line.split() for line in text.splitlines() if "  " in line.strip()}
    assert rows["parameters"][-3:] == ["11,689,512", "5,844,756", "0.500"]
    assert rows["size"][-5:] == ["46.80", "MB", "23.40", "MB", "0.500"]
    assert rows["latency (median)"][-5:] == ["32.40", "ms", "17.80", "ms", "0.549"]


def test_without_latency_and_proof() -> None:
    bare = replace(REPORT, before=replace(REPORT.before, latency_s=None), proof=None, unknown=[], frozen=[])
    text = shown(bare)
    assert "latency" not in text
    for line in ("Verification: not run.", "Unknown operators: none.", "Frozen: nothing."):
        assert line in text


def test_the_inspection_has_a_line_per_group() -> None:
    lines = shown(INSPECTION).splitlines()
    rows = [line.split() for line in lines if line.startswith(("  g0", "  g1"))]
    assert rows[0][:6] == ["g0", "64", "channels", "exact", "9.41", "k"]
    assert rows[0][6:] == ["3", "conv1.weight[0],", "layer1.0.conv1.weight[1],", "bn1.weight[0]"]
    assert rows[1] == ["g1", "12", "x", "64", "heads", "renormalizing", "1.00", "k", "1", "blocks.0.attn.qkv.weight[0]"]
    assert any(line.startswith("Each row is a group: axes of weights") for line in lines)
    assert any(line.startswith("12 x 64: twelve components") for line in lines)
    assert any("so that the parameters add up to more than the model has" in line for line in lines)
    assert any(line.startswith("Total: 2 groups (1 exact, 1 renormalizing) with 76 components") for line in lines)


LAYERS = [
    reports.GroupRow(name, size, size, True, [name, f"encoder.layers.{i}.mlp.3.weight[1]"], parameters=1_000_000)
    for i in range(12)
    for name, size in ((f"encoder.layers.{i}.mlp.0.weight[0]", 3072), (f"encoder.layers.{i}.attn.weight[0]", 12))
]


def test_layers_that_are_alike_are_one_row_unless_asked_for() -> None:
    report = replace(INSPECTION, groups=LAYERS)
    rows = [line for line in shown(report).splitlines() if line.startswith("  encoder")]
    assert len(rows) == 2
    assert rows[0].split() == [
        *("encoder.layers.{0-11}.mlp.0.weight[0]", "x12", "3,072", "channels", "exact", "12.0", "M", "2"),
        "encoder.layers.{0-11}.mlp.3.weight[1]",
    ]
    assert "x3: three groups that differ by a layer number" in shown(report)
    everything = shown(report, every=True)
    assert sum(line.startswith("  encoder.layers.11.mlp.0.weight[0]  ") for line in everything.splitlines()) == 1
    assert "{0-11}" not in everything and "x3: three groups" not in everything
    assert len(report.to_json()["groups"]) == 24


@pytest.mark.parametrize("width", [60, 80, 120])
def test_nothing_is_wider_than_the_terminal_and_no_name_is_cut_off(width: int) -> None:
    text = shown(replace(INSPECTION, groups=LAYERS + GROUPS), width)
    assert max(map(len, text.splitlines())) <= width
    first = "".join(line[:40].split("  ")[1] for line in text.splitlines() if line.startswith("  ")).replace(" ", "")
    assert "encoder.layers.{0-11}.mlp.0.weight[0]" in first
    assert any(line.startswith("  that the parameters") or "that the parameters" in line for line in text.splitlines())


def test_a_model_without_groups_is_reported_too() -> None:
    text = shown(replace(INSPECTION, groups=[], prunable_parameters=0))
    assert "Total: 0 groups" in text and "0.0% of the parameters are in some group" in text


def test_causes_that_a_user_can_do_something_about_come_first() -> None:
    order = ["output", "input", "position", "lookup", "constant", "operator", "sizes", "unknown"]
    rows = [reports.FrozenRow(f"w{cause}", 0, 9, "n", f"why {cause}", cause) for cause in order]
    lines = shown(replace(INSPECTION, frozen=rows)).splitlines()
    assert [line.split()[-3] for line in lines if "why" in line] == [f"{cause}," for cause in reversed(order)]
    assert sum("(nothing to do):" in line for line in lines) == 4


def test_the_same_reason_is_given_once_and_layers_are_one_name() -> None:
    rows = [
        reports.FrozenRow(f"blocks.{i}.table", 0, 169, f"add_{3 * i}", "it meets positions", "position", "Add")
        for i in range(4)
    ]
    rows += [reports.FrozenRow(f"head.{name}", 0, 10, "", "it makes 'y'", "output") for name in ("weight", "bias")]
    text = shown(replace(INSPECTION, frozen=rows))
    assert "    blocks.{0-3}.table[0] x4 (676 indices): it meets positions, at add_{0,3,6,9} (Add)\n" in text
    assert "    head.weight[0], head.bias[0] (20 indices): it makes 'y'\n" in text


def test_many_reasons_are_summed_up() -> None:
    rows = [reports.FrozenRow(f"w{i}", 0, i + 1, f"n{i}", f"why{'x' * i}") for i in range(20)]
    text = shown(replace(INSPECTION, frozen=rows))
    assert "w19[0] (20 indices): why" in text
    assert "w0[0] (1 index): why" not in text
    assert "and 12 more reasons (inspect --all shows them)" in text
    assert "w0[0] (1 index): why" in shown(replace(INSPECTION, frozen=rows), every=True)


@pytest.mark.parametrize("item", [REPORT, INSPECTION])
def test_json_holds_everything(item: reports.Report | reports.InspectReport) -> None:
    data = json.loads(json.dumps(item.to_json(), allow_nan=False))
    assert data["format"] in ("graphprune-report/1", "graphprune-inspect/1")
    assert data["groups"][0]["members"] == GROUPS[0].members
    assert data["frozen"][1]["node"] == "nms"
    assert data["unknown"] == [{"op": "NonMaxSuppression", "count": 2, "first_node": "/nms", "why": "", "sizes": False}]


def test_numpy_and_infinite_numbers_are_json() -> None:
    proof = replace(PROOF, verdict="FAILED", max_error=float("inf"), inputs=np.int64(3))  # type: ignore[arg-type]
    assert reports.jsonable(proof)["max_error"] is None
    assert json.dumps(reports.jsonable({"a": np.arange(2), "b": (np.float32(0.5),)})) == '{"a": [0, 1], "b": [0.5]}'


def test_json_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "report.json"
    path.write_text("old")
    with pytest.raises(TypeError):
        reports.write_json({"a": object()}, path)
    assert path.read_text() == "old"
    reports.write_json({"a": 1}, path)
    assert json.loads(path.read_text()) == {"a": 1}
    assert stat.S_IMODE(path.stat().st_mode) & stat.S_IRUSR
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]
    with pytest.raises(InputError, match="'.*nowhere/report.json' cannot be written: No such file"):
        reports.write_json({}, tmp_path / "nowhere" / "report.json")


ENVIRONMENT = Environment("onnxruntime", "1.31", 1, "a cpu", 2, 30, {"x": (1, 3)})


def test_the_bench_table_shows_sizes_where_known() -> None:
    rows = (
        Timing("a[0].onnx", 0.0101, 0.011, 0.012, peak_bytes=1_500_000, parameters=1000, macs=5000, file_bytes=4000),
        Timing("b.onnx", 0.005, 0.006, 0.007, 0.5, 0.49, 0.51),
    )
    out = io.StringIO()
    reports.render_bench(Comparison(rows, ENVIRONMENT), Console(file=out, width=200))
    text = out.getvalue()
    for part in (
        "a[0].onnx",
        "10.100",
        "0.490 to 0.510",
        "1.50 MB",
        "5,000",
        "4.00 kB",
        "1 thread(s), a cpu, 30 interleaved",
    ):
        assert part in text


def test_passes_are_listed_with_their_time() -> None:
    out = io.StringIO()
    rows = [reports.PassRow("fold-batchnorm", 0.0123, True), reports.PassRow("remove-channels{macs=0.5}", 0.5, False)]
    reports.render_passes(rows, Console(file=out, width=200))
    assert ["fold-batchnorm", "12.3", "yes"] in [line.split() for line in out.getvalue().splitlines()]
    assert "remove-channels{macs=0.5}" in out.getvalue()


@pytest.mark.parametrize("item", [REPORT, INSPECTION], ids=["report", "inspection"])
def test_reports_print_as_their_tables(item: reports.Report | reports.InspectReport) -> None:
    text = str(item)
    assert all(len(line) <= 120 for line in text.splitlines()) and "\x1b" not in text
    assert "Frozen: " in text and "Report(" not in text
    assert len(repr(item)) < 100


def test_parameters_that_never_run_are_named() -> None:
    """Stages that a caller left aside are in no count; without a word they would be missed in the file's size."""
    import torch
    from torch import nn

    import graphprune as gp

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(4, 16), nn.Linear(16, 4)
            self.aux = nn.Linear(16, 3)
            self.stages = nn.ModuleList([nn.Linear(16, 16), nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 8))])
            self.scale = nn.Parameter(torch.ones(5))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
            h = self.stages[0](self.a(x).relu())
            return (self.b(h), self.aux(h)) if self.training else (self.b(h),)

    result = gp.prune(Net(), torch.randn(3, 4), target="channels=0.5")
    [note] = [note for note in result.report.notes if "never used" in note]
    assert note.startswith("these parameters are never used: 'scale', 'stages.1', 213 of 684 (31%)")


LONG = "/encoder" + "/block" * 50 + "/weight"


def test_very_long_names_are_shortened_in_the_middle() -> None:
    """What is shown is a glob that means the name."""
    rows = [reports.GroupRow(f"{LONG}[0]", 8, 4, True, [f"{LONG}[0]", "b[1]"], "", "channels", 1, 100)]
    frozen = [reports.FrozenRow(LONG, 1, 8, LONG, "it meets the input", "input", "MatMul")]
    item = reports.InspectReport("net.onnx", 3, 100, 100, rows, frozen, [], 100)
    name = shorter(LONG)
    assert len(name) == 100 and matches({LONG}, [name])
    shown = "".join(str(item).split())
    assert shown.count(LONG[:39] + "*") >= 2 and "/block" * 20 not in shown
    assert LONG in json.dumps(item.to_json())


@pytest.mark.parametrize("width", [60, 200])
def test_bench_never_cuts_a_name_into_pieces(width: int) -> None:
    rows = tuple(
        Timing(name, 1e-3, 2e-3, 3e-3, 1.0, 0.9, 1.1, parameters=10**6, macs=10**7, file_bytes=10**6, peak_bytes=10**7)
        for name in ("a_model_of_some_size.onnx", "a_model_of_some_size_pruned.onnx")
    )
    for terminal in (True, False):
        console = Console(file=io.StringIO(), width=width, force_terminal=terminal, color_system=None)
        reports.render_bench(Comparison(rows, ENVIRONMENT), console)
        assert isinstance(console.file, io.StringIO)
        text = console.file.getvalue()
        assert all(row.name in text for row in rows) and "1.000" in text
        lines = [line.rstrip() for line in text.splitlines()]
        assert all(len(line) <= width for line in lines) or not terminal
        if not terminal:  # one line a model, whatever the width
            assert sum("1.000" in line and "0.900 to 1.100" in line for line in lines) == 2
