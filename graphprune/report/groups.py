"""The table of coupled groups: one row for each, or one for those that are alike up to a layer number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

from rich.console import JustifyMethod
from rich.table import Table
from rich.text import Text

from .data import GroupRow, InspectReport
from .folding import fold

#: Narrower terminals show how many axes go together, but not which of them; wider ones the first few.
_WIDE, _OTHERS = 100, 4
#: Columns that only terminals from this width on have room for.
_FROM = {"axes": _WIDE, "role": 72}
#: What the table draws around its columns and between them, and the narrowest last column worth showing.
_EDGE, _GAP, _LEAST = 1, 3, 20


@dataclass(frozen=True)
class _Row:
    """Groups that are shown in one row, under one name."""

    name: str
    groups: Sequence[GroupRow]

    def cells(self) -> list[str]:
        first, count = self.groups[0], len(self.groups)
        return [
            self.name,
            f"x{count}" if count > 1 else "",
            f"{first.size:,}" if first.width == 1 else f"{first.size:,} x {first.width}",
            first.role,
            "exact" if first.exact else "renormalizing",
            short_count(sum(group.parameters for group in self.groups)),
            _span([len(group.members) for group in self.groups]),
        ]

    def others(self) -> str:
        """What goes with the axis that the group is named after: the first few."""
        others = [[m for m in g.members if m != g.name] for g in self.groups]
        found = [fold(names) for names in islice(zip(*others, strict=False), _OTHERS)]
        named = [clusters[0][0] for clusters in found if len(clusters) == 1]
        more = max(map(len, others)) > len(named)
        return ", ".join(named) + (", ..." if more and named else "")


def _rows(groups: Sequence[GroupRow], every: bool) -> list[_Row]:
    if every:
        return [_Row(group.name, [group]) for group in groups]
    keys = [(g.size, g.role, g.width, g.exact) for g in groups]
    return [_Row(name, [groups[i] for i in rows]) for name, rows in fold([g.name for g in groups], keys)]


def _span(numbers: Sequence[int]) -> str:
    low, high = min(numbers), max(numbers)
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"


def groups_table(table: Table, report: InspectReport, width: int, every: bool) -> bool:
    """Fill a table that fits a width: the group's name wraps, what goes with it is cut off.

    Returns whether any row stands for several groups.
    """
    rows = _rows(report.groups, every)
    cells = [row.cells() for row in rows]
    titles = ["group", "", "components", "role", "removal", "parameters", "axes"]
    columns = [c for c in range(len(titles)) if width >= _FROM.get(titles[c], 0) and _used(titles[c], c, cells)]
    fits = [max(len(text) for text in (titles[c], *(row[c] for row in cells))) for c in columns]
    left = width - _EDGE - sum(fits[1:]) - _GAP * len(fits)
    spare = left - fits[0] - _GAP
    for c, fit in zip(columns, fits, strict=True):
        justify: JustifyMethod = "left" if titles[c] in ("group", "role", "removal") else "right"
        table.add_column(titles[c], width=fit if c else min(fit, left), overflow="fold", no_wrap=c > 0, justify=justify)
    wide = width >= _WIDE and spare >= _LEAST
    if wide:
        table.add_column("goes with", width=spare, no_wrap=True, overflow="ellipsis")
    for row, texts in zip(rows, cells, strict=True):
        shown = [_broken(texts[0], left), *(texts[c] for c in columns[1:])]
        table.add_row(*map(Text, shown), *([Text(row.others())] if wide else []))
    return any(len(row.groups) > 1 for row in rows)


def _used(title: str, column: int, cells: Sequence[Sequence[str]]) -> bool:
    return bool(title) or any(row[column] for row in cells)


def _broken(name: str, width: int) -> str:
    """A name that does not fit, broken after dots where there are any."""
    lines = [""]
    for part in name.replace(".", ".\0").split("\0"):
        if lines[-1] and len(lines[-1]) + len(part) > width:
            lines.append(" ")
        lines[-1] += part
    return "\n".join(lines)


def short_count(count: int) -> str:
    """A number with three digits that count: `12.1 M`."""
    for unit, scale in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        number = count / scale
        if number >= 0.9995:  # what would be rounded to 1000 of the smaller unit
            digits = 2 if number < 9.995 else 1 if number < 99.95 else 0
            return f"{number:.{digits}f} {unit}"
    return str(count)
