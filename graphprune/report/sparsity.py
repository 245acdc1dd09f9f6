"""Sparse weights in the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

from .data import SparseReport, SparseRow
from .render import count_text, new_table, proof_line, say, say_unproven

if TYPE_CHECKING:
    from rich.table import Table

#: Rows shown unless every one is asked for.
_MOST = 20


def render_sparse(report: SparseReport, console: Console, *, every: bool = False) -> None:
    """What became sparse (the weights with most multiply-accumulates first), what did not and why, and the proof."""
    done = sorted((row for row in report.rows if not row.reason), key=lambda row: -row.macs)
    shown = done if every else done[:_MOST]
    console.print(_table(report, shown))
    for line in _lines(report, done, len(done) - len(shown), every):
        say(console, line)
    say_unproven(report.proof, console)


def _table(report: SparseReport, rows: Sequence[SparseRow]) -> Table:
    table = new_table(f"{report.model} made {report.pattern} sparse by {report.method}")
    table.add_column("weight", overflow="fold")
    table.add_column("operator", overflow="fold")
    told = any(row.error is not None for row in rows)
    for title in ("shape", "MACs", "zeros", "magnitude left", *(["output lost"] if told else [])):
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        cells = ["x".join(map(str, row.shape)), count_text(row.macs), f"{row.sparsity:.1%}", f"{row.magnitude:.1%}"]
        cells += ["" if row.error is None else f"{row.error:.2%}"] if told else []
        table.add_row(*map(Text, (row.name, row.op, *cells)))
    return table


def _lines(report: SparseReport, done: Sequence[SparseRow], hidden: int, every: bool) -> list[str]:
    share = sum(row.macs for row in done) / report.macs if report.macs else 0.0
    lines = [f"{hidden} more weights are not shown; --all shows each."] if hidden else []
    lines.append(f"Sparse: {len(done)} weights, which do {share:.1%} of the multiply-accumulates.")
    left = [row for row in report.rows if row.reason]
    if every:
        lines += [f"Left dense: {row.name} {list(row.shape)}: {row.reason}." for row in left]
    else:
        reasons = Counter(row.reason for row in left)
        first = {row.reason: row.name for row in reversed(left)}
        lines += [f"Left dense: {count} ({first[why]}, ..): {why}." for why, count in reasons.most_common()]
    lines += _noted(done)
    if report.reordered:
        lines.append(_reordered_line(report))
    lines.append(proof_line(report.proof))
    if report.output_form:
        lines.append(f"Output: {report.output_form}" + (f" ({report.output_reason})." if report.output_reason else "."))
    stages = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in report.seconds.items())
    return [*lines, f"Time: {stages}.", *(f"Note: {note}" for note in report.notes)]


def _reordered_line(report: SparseReport) -> str:
    """What permuting channels brought: of what the pattern loses against the best entries anywhere."""
    lost = sum(gain.free - gain.before for gain in report.reordered)
    won = sum(gain.after - gain.before for gain in report.reordered)
    share = f", {won / lost:.1%} of what the pattern loses against as many entries anywhere" if lost > 0 else ""
    mean = won / len(report.reordered)
    return (
        f"Reordered: {len(report.reordered)} sets of channels, which keeps {mean:.2%} more of the weights that"
        f" contract them, by {report.reordered_by}{share}."
    )


def _noted(rows: Sequence[SparseRow]) -> list[str]:
    """Weights that were judged otherwise than asked, by reason."""
    notes = Counter(row.note for row in rows if row.note)
    first = {row.note: row.name for row in reversed(rows)}
    return [f"Judged {note}: {count} ({first[note]}, ..)." for note, count in notes.most_common()]
