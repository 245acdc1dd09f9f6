"""What was found, done, proven and gained: plain data, its JSON, and its tables in the terminal."""

from __future__ import annotations

from .data import (
    BlockRow,
    BlocksReport,
    FrozenRow,
    GroupRow,
    InspectReport,
    Measure,
    PassesReport,
    PassRow,
    Report,
    SparseReport,
    SparseRow,
    UnknownRow,
    jsonable,
    write_json,
)
from .eligible import EligibilityReport, EligibleRow
from .render import render_bench, render_inspect, render_passes, render_proof, render_report

__all__ = [
    "BlockRow",
    "BlocksReport",
    "EligibilityReport",
    "EligibleRow",
    "FrozenRow",
    "GroupRow",
    "InspectReport",
    "Measure",
    "PassRow",
    "PassesReport",
    "Report",
    "SparseReport",
    "SparseRow",
    "UnknownRow",
    "jsonable",
    "render_bench",
    "render_inspect",
    "render_passes",
    "render_proof",
    "render_report",
    "write_json",
]
