"""What sparse kernels can run of a model: data, its JSON, and its table in the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from graphprune.ir.graph import Graph
from graphprune.ops.cost import macs

from ..sparsity.eligibility import Finding, Verdict, judge, shares
from ..sparsity.measured import Measured
from ..sparsity.rules import NOTES, RULES, Rule
from .data import jsonable
from .printing import Printed
from .render import count_text, new_table, say

if TYPE_CHECKING:
    from rich.table import Table

#: Rows shown unless every one is asked for.
_MOST = 20


@dataclass(frozen=True)
class EligibleRow:
    """One contracted weight: the N:M patterns that it `met`, its share of `zeros`, whether TensorRT's sparse kernels
    `can` run it (once it has the pattern and the type) and can `now`, and the findings that say why not or what speaks
    against a gain. `torch` says why `to_sparse_semi_structured` cannot store it, `rows` how many rows of data it meets
    at the bound sizes, `measured` what was measured for its shape.
    """

    name: str
    op: str
    shape: tuple[int, ...]
    dtype: str
    macs: int
    met: tuple[str, ...]
    zeros: float
    can: bool
    now: bool
    findings: tuple[Finding, ...]
    torch: str
    rows: int
    measured: str


@dataclass(frozen=True, repr=False)
class EligibilityReport(Printed):
    """What can run sparse in a model; shares are of all its multiply-accumulates (`macs`)."""

    model: str
    macs: int
    can: float
    now: float
    likely: float
    rows: list[EligibleRow]
    rules: list[Rule] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def to_json(self) -> dict[str, Any]:
        """Everything, with the rules that were found to apply and their sources, as JSON-ready data."""
        return {"format": "graphprune-eligibility/1", **jsonable(self)}

    def render(self, console: Console, *, every: bool = False) -> None:
        """Print the table and the summary; `every` weight."""
        shown = sorted(self.rows, key=lambda row: -row.macs)
        shown = shown if every else shown[:_MOST]
        console.print(_table(self, shown))
        for line in _lines(self, len(self.rows) - len(shown)):
            say(console, line)


def eligibility_report(graph: Graph, measured: Measured | None = None) -> EligibilityReport:
    """Judge every contracted weight of a graph."""
    verdicts, total = judge(graph, measured), macs(graph)
    used = {finding.rule for verdict in verdicts for finding in verdict.findings}
    rules = [rule for rule in RULES.values() if rule.name in used]
    share = shares(verdicts, total)
    notes = list(NOTES)
    if measured is None:
        notes.append("no GPU measurements here (docs/measurements/gpu_sparse.json): gains are not judged by them")
    return EligibilityReport(
        graph.name, total, share["can"], share["now"], share["likely"], [_row(v) for v in verdicts], rules, notes
    )


def _row(verdict: Verdict) -> EligibleRow:
    layer = verdict.layer
    return EligibleRow(
        layer.name,
        layer.node.op,
        layer.value.sizes,
        verdict.dtype,
        layer.macs,
        verdict.met,
        verdict.zeros,
        verdict.can,
        verdict.now,
        verdict.findings,
        verdict.torch,
        verdict.rows,
        verdict.measured,
    )


def _table(report: EligibilityReport, rows: Sequence[EligibleRow]) -> Table:
    table = new_table(f"What sparse kernels can run of {report.model}")
    table.add_column("weight", overflow="fold")
    table.add_column("operator", overflow="fold")
    for title in ("shape", "MACs", "type", "pattern"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("eligible", no_wrap=True)
    table.add_column("why not, or what to expect", overflow="fold")
    for row in rows:
        cells = ["x".join(map(str, row.shape)), count_text(row.macs), row.dtype, ", ".join(row.met) or "dense"]
        table.add_row(*map(Text, (row.name, row.op, *cells, _answer(row), _why(row))))
    return table


def _answer(row: EligibleRow) -> str:
    return "yes" if row.now else "not yet" if row.can else "no"


def _why(row: EligibleRow) -> str:
    """What rules it out; else what it lacks and what speaks against a gain; else what was measured."""
    never = [finding.text for finding in row.findings if RULES[finding.rule].level == "never"]
    found = never or [finding.text for finding in row.findings]
    return "; ".join(found) or (row.measured if row.measured != "not measured" else "")


def _lines(report: EligibilityReport, hidden: int) -> list[str]:
    lines = [f"{hidden} more weights are not shown; --all shows each."] if hidden else []
    lines.append(
        f"Of the multiply-accumulates {report.can:.1%} can run on sparse kernels, {report.now:.1%} can as the model is;"
        f" {report.likely:.1%} where nothing speaks against a gain."
    )
    counts = Counter(rule for row in report.rows for rule in {finding.rule for finding in row.findings})
    for rule in report.rules:
        sources = f" ({', '.join(rule.sources)})" if rule.sources else ""
        weights = "1 weight" if counts[rule.name] == 1 else f"{counts[rule.name]} weights"
        lines.append(f"{rule.name.capitalize()}: {weights}. {rule.says}{sources}")
    return [*lines, *(f"Note: {note}." for note in report.notes)]
