"""Reports in the terminal. Every table has a title and a sentence that tells a stranger how to read it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from textwrap import wrap
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from ..runtimes.base import LayerChoice
from ..runtimes.timing import Comparison, Timing, describe
from .causes import assumed_lines, frozen_lines, unknown_lines
from .data import BlocksReport, GroupRow, InspectReport, PassRow, Report
from .groups import groups_table

if TYPE_CHECKING:
    from graphprune.verification.proof import Proof

_SLOWEST = 20
#: Names that are longer are shortened, to so many letters of their beginning and their end.
_LONG_NAME, _HEAD, _TAIL = re.compile(r"\S{101,}"), 39, 60
#: A width that no table needs.
_WHOLE = 100_000
#: Different remarks of one pass that are shown unless every one is asked for.
_REMARKS = 12


def render_report(report: Report, console: Console) -> None:
    """The table before/after, then what was coupled, frozen, unknown and proven."""
    for line in report.alerts:
        say(console, f"{line}.", style="bold")
    console.print(_gain_table(report))
    for line in _report_lines(report):
        say(console, line)
    say_unproven(report.proof, console)


def _gain_table(report: Report) -> Table:
    table = new_table(f"{report.model} pruned to {report.target} by {report.criterion}")
    table.add_column("")
    for title in ("before", "after", "ratio"):
        table.add_column(title, justify="right")
    before, after = report.before, report.after
    rows: list[tuple[str, float | None, float | None, Callable[[Any], str]]] = [
        ("parameters", before.parameters, after.parameters, count_text),
        ("multiply-accumulates", before.macs, after.macs, count_text),
        ("size", before.bytes, after.bytes, size_text),
        ("latency (median)", before.latency_s, after.latency_s, latency_text),
    ]
    for title, old, new, text in rows:
        if old is not None and new is not None:
            table.add_row(title, text(old), text(new), f"{new / old:.3f}" if old else "-")
    return table


def _report_lines(report: Report) -> list[str]:
    lines = [
        _groups_line(report.groups),
        *role_lines(report.groups),
        *unknown_lines(report.unknown),
        *frozen_lines(report.frozen),
    ]
    lines.append(proof_line(report.proof))
    if report.output_form:
        lines.append(f"Output: {report.output_form}" + (f" ({report.output_reason})." if report.output_reason else "."))
    for name, ids in report.kept_ids.items():
        lines.append(
            f"Ids in '{name}' are counted anew: {len(ids):,} stay, old ids in the report (--report, kept_ids)."
        )
    lines += assumed_lines(report.assumed)
    if report.seconds:
        stages = ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in report.seconds.items())
        lines.append(f"Time: {stages}.")
    return lines + [f"Note: {note}" for note in report.notes]


def _groups_line(groups: Sequence[GroupRow]) -> str:
    touched = sum(group.kept < group.size for group in groups)
    exact = sum(group.exact for group in groups)
    return (
        f"Coupled groups: {len(groups)}, of which {touched} lost components; {exact} exact (removing equals zeroing),"
        f" {len(groups) - exact} renormalizing (a statistic is taken over what is kept)."
    )


def role_lines(groups: Sequence[GroupRow]) -> list[str]:
    """What is left alone for what it is, one line for each role."""
    apart: dict[str, list[str]] = {}
    for group in groups:
        if "on request" in group.reason and group.kept == group.size:
            apart.setdefault(group.reason, []).append(group.name)
    return [f"Left alone: {_names(names)}({reason})." for reason, names in apart.items()]


def render_inspect(report: InspectReport, console: Console, *, every: bool = False) -> None:
    """The coupled groups, how to read them, then what is frozen and why, unknown operators and totals."""
    table = new_table(f"Coupled groups of {report.model}")
    folded = groups_table(table, report, console.width, every)
    console.print(table)
    for line in (*_legend(report, folded), _totals(report), *role_lines(report.groups), *unknown_lines(report.unknown)):
        say(console, line)
    for line in (*assumed_lines(report.assumed), *(f"Note: {note}" for note in report.notes)):
        say(console, line)
    for line in frozen_lines(report.frozen, every=every):
        say(console, line)


def _legend(report: InspectReport, folded: bool) -> list[str]:
    """How to read the table, as far as the table needs it."""
    lines = [
        "Each row is a group: axes of weights whose indices hang together. w[0] is the first axis of weight w (of a"
        " PyTorch layer its outputs), w[1] the second (its inputs). Removing one component of a group takes one index,"
        " or a block of them, from each of its axes.",
        "role: what a component is; --roles says which kinds may go.",
        "exact: removing is the same as setting to zero. renormalizing: a norm, mean or softmax runs over the axis, and"
        " is taken over what is left.",
        "A parameter may lie on two groups, one for its rows and one for its columns, so that the parameters add up to"
        " more than the model has. --include and --exclude take the names shown.",
    ]
    if any(group.width > 1 for group in report.groups):
        lines.insert(1, "12 x 64: twelve components, each a block of 64 indices, as attention heads are.")
    if folded:
        lines.insert(1, "x3: three groups that differ by a layer number, their parameters together; --all shows each.")
    return lines


def render_blocks(report: BlocksReport, console: Console) -> None:
    """One line per block, with what it costs and what it is worth."""
    table = new_table(f"Removable blocks of {report.model}")
    table.add_column("name", overflow="fold")
    table.add_column("kind", no_wrap=True)
    for title in ("alike", "parameters", "share", "MACs", "score"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in report.blocks:
        share = f"{row.parameters / report.parameters:.1%}" if report.parameters else "-"
        counts = [count_text(row.parameters), share, count_text(row.macs), f"{row.score:.3f}"]
        cells = [row.name, row.kind + (" around others" if row.outer else ""), f"{row.structure}", *counts]
        table.add_row(*map(Text, cells))
    console.print(table)
    say(
        console,
        "A block is a whole repeated layer; a branch is added to the value it is computed from. Those of one number"
        " under 'alike' are built alike, and 'score' compares the size of their weights with the mean of these: the"
        " smallest go first.",
    )


def _totals(report: InspectReport) -> str:
    exact = sum(group.exact for group in report.groups)
    components = sum(group.size for group in report.groups)
    line = (
        f"Total: {len(report.groups)} groups ({exact} exact, {len(report.groups) - exact} renormalizing) with"
        f" {components:,} components; {report.nodes:,} nodes, {report.parameters:,} parameters,"
        f" {report.macs:,} multiply-accumulates."
    )
    if report.prunable_parameters is None or not report.parameters:
        return line
    return f"{line} {report.prunable_parameters / report.parameters:.1%} of the parameters are in some group."


def proof_line(proof: Proof | None) -> str:
    """The verification result in one sentence."""
    if proof is None:
        return "Verification: not run."
    line = (
        f"Verification {proof.verdict}: largest error {proof.max_error:.2g} of how much the outputs vary, against"
        f" {proof.against} (allowed {proof.tolerance:.2g}) on {proof.inputs} {proof.on}"
    )
    if proof.exact_groups or proof.renormalizing_groups:
        line += f", {proof.exact_groups} exact and {proof.renormalizing_groups} renormalizing groups"
    return f"{line}. {'' if proof.undecided else proof.detail}".rstrip()


def render_proof(proof: Proof, console: Console) -> None:
    """The verification result."""
    say(console, proof_line(proof))
    say_unproven(proof, console)


def say_unproven(proof: Proof | None, console: Console) -> None:
    """Where nothing was proven, that, last and in bold."""
    if proof is not None and proof.undecided:
        say(console, f"{proof.sentence}.", style="bold")


def render_passes(rows: Sequence[PassRow], console: Console, *, every: bool = False) -> None:
    """One line per pass: its time, and whether it changed anything; then what it tells."""
    table = new_table("Passes, in the order they ran")
    table.add_column("pass")
    table.add_column("ms", justify="right")
    table.add_column("changed")
    words = {True: "yes", False: "no", None: ""}
    for row in rows:
        table.add_row(Text(row.name), f"{1e3 * row.seconds:.1f}", words[row.changed])
    console.print(table)
    for line in (line for row in rows for line in _remark_lines(row, every)):
        say(console, line, style="bold" if ": NOT PROVEN" in line else "")


def _remark_lines(row: PassRow, every: bool) -> list[str]:
    """Remarks of one text together, the most frequent first; all apart where every one is asked for."""
    if every:
        return [f"{row.name}: {f'{r.about} ' if r.about else ''}{r.text}." for r in row.remarks]
    about: dict[str, list[str]] = {}
    for remark in row.remarks:
        about.setdefault(remark.text, []).append(remark.about)
    texts = sorted(about, key=lambda text: -len(about[text]))
    lines = [f"{row.name}: {_names(about[text])}{text}." for text in texts[:_REMARKS]]
    hidden = sum(len(about[text]) for text in texts[_REMARKS:])
    return [*lines, *([f"{row.name}: {hidden} more remarks are not shown; --all shows each."] if hidden else [])]


def _names(names: Sequence[str]) -> str:
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return f"{names[0]}{more} " if names[0] else ""


def render_bench(comparison: Comparison, console: Console) -> None:
    """Latency side by side, with sizes where they are known.

    Where a terminal is too narrow for the table, each model has lines of its own; in a file or pipe nothing is folded.
    """
    rows = comparison.rows
    titles, cells = _bench_cells(rows)
    table = new_table("Latency, measured in turns")
    for title in titles:
        table.add_column(title, justify="left" if title == titles[0] else "right", no_wrap=True)
    for row in cells:
        table.add_row(*map(Text, row))
    width = Measurement.get(console, console.options.update(width=_WHOLE), table).maximum
    if console.is_terminal and width > console.width:
        for row in cells:
            facts = [f"{title} {cell}" for title, cell in zip(titles[1:], row[1:], strict=True) if cell]
            say(console, f"{row[0]}: {', '.join(facts)}.")
    else:
        whole = console if width <= console.width else Console(file=console.file, width=width)
        whole.print(table)
    say(console, "Ratio: to the first model, pair by pair, median; below 1 is faster.")
    say(console, describe(comparison.environment) + ".")
    for timing in rows:
        for note in timing.notes:
            say(console, f"{timing.name}: {note}.")
    for timing in rows:
        if timing.layers:
            render_layers(timing.name, timing.layers, console)


def _bench_cells(rows: Sequence[Timing]) -> tuple[list[str], list[list[str]]]:
    """The titles of the columns and the cells of each model; sizes are left out where none is known."""
    extras = {
        "parameters": [_optional(row.parameters, count_text) for row in rows],
        "MACs": [_optional(row.macs, count_text) for row in rows],
        "file": [_optional(row.file_bytes, size_text) for row in rows],
        "peak memory": [_optional(row.peak_bytes, size_text) for row in rows],
    }
    shown = {title: cells for title, cells in extras.items() if any(cells)}
    made = []
    for i, row in enumerate(rows):
        times = [f"{1e3 * seconds:.3f}" for seconds in (row.median, row.p90, row.p99)]
        ratios = [f"{row.ratio:.3f}", f"{row.ratio_low:.3f} to {row.ratio_high:.3f}"]
        made.append([row.name, *times, *ratios, *(cells[i] for cells in shown.values())])
    return ["model", "median ms", "p90 ms", "p99 ms", "ratio", "95 % interval", *shown], made


def render_layers(model: str, layers: Sequence[LayerChoice], console: Console) -> None:
    """What a runtime made of each layer: its kernel, and whether that is a sparse one; or how long the nodes take."""
    if any(row.seconds is not None for row in layers):
        _render_slowest(model, layers, console)
        return
    sparse, eligible = sum(row.sparse for row in layers), sum(bool(row.eligible) for row in layers)
    table = new_table(f"{model}: {sparse} of {len(layers)} layers run sparse kernels, {eligible} are eligible")
    for title in ("layer", "kind", "kernel"):
        table.add_column(title, overflow="fold")
    for title in ("precision", "eligible", "sparse"):
        table.add_column(title, no_wrap=True)
    words = {True: "yes", False: "no", None: ""}
    for row in layers:
        cells = [Text(text) for text in (row.name, row.kind, row.kernel, row.precision)]
        table.add_row(*cells, words[row.eligible], words[row.sparse])
    console.print(table)


def _render_slowest(model: str, layers: Sequence[LayerChoice], console: Console) -> None:
    """The nodes that take longest, with their part of the whole run."""
    slowest = sorted(layers, key=lambda row: row.seconds or 0.0, reverse=True)[:_SLOWEST]
    table = new_table(f"{model}: the {len(slowest)} slowest of {len(layers)} nodes")
    for title in ("node", "operator", "on"):
        table.add_column(title, overflow="fold")
    for title in ("input type", "ms", "share"):
        table.add_column(title, justify="right", no_wrap=True)
    for row in slowest:
        cells = [Text(text) for text in (row.name, row.kind, row.kernel, row.precision)]
        share = "" if row.share is None else f"{row.share:.1%}"
        table.add_row(*cells, f"{1e3 * (row.seconds or 0.0):.3f}", share)
    console.print(table)


def size_text(count: int) -> str:
    """Bytes as MB, kB or B (powers of ten)."""
    for unit, scale in (("MB", 1_000_000), ("kB", 1_000)):
        if count >= scale:
            return f"{count / scale:,.2f} {unit}"
    return f"{count} B"


def count_text(count: int) -> str:
    """A whole number with its thousands apart."""
    return f"{count:,}"


def latency_text(seconds: float) -> str:
    """Seconds as milliseconds."""
    return f"{1e3 * seconds:.2f} ms"


def _optional(number: int | None, text: Callable[[int], str]) -> str:
    return "" if number is None else text(number)


class _Table(Table):
    """A table in which very long names are shortened (see `shorter`)."""

    def add_row(self, *cells: Any, **how: Any) -> None:
        """Add a row."""
        shown = [Text(shorter(c.plain), c.style) if isinstance(c, Text) else shorter(c) for c in cells]
        super().add_row(*shown, **how)


def new_table(title: str) -> Table:
    """A table in the style of all reports."""
    return _Table(title=Text(shorter(title)), title_justify="left", title_style="bold", box=box.SIMPLE_HEAD)


def shorter(text: str) -> str:
    """Text whose names are of a length that can be read: of a longer one the middle goes, for a `*`, so that it still
    is what --include takes.
    """
    return _LONG_NAME.sub(lambda name: f"{name[0][:_HEAD]}*{name[0][-_TAIL:]}", text)


def say(console: Console, line: str, style: str = "") -> None:
    """Print text in which square brackets are just brackets; what is wrapped stays indented."""
    line = shorter(line)
    indent = " " * (len(line) - len(line.lstrip()) + 2)
    for part in wrap(line, console.width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False):
        console.print(Text(part, style), soft_wrap=True)
