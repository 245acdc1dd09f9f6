"""How many proofs passed, decided nothing or failed, suite by suite, and how these stood with two verdicts only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from benchmarks import common

VERDICTS = ("passed", "undecided", "FAILED")
NOTE = """*Then*: with two verdicts, as recorded before a third came: some passed though their outputs hardly depended
on the input, or though rounding changed them by more than the difference. *Now*: of all cases run since, those proven,
those of which nothing was proven (a warning, no error), and those that differ."""
_HEAD = ("suite", "passed then", "of these proved little", "failed then", "judged now", "passed", "undecided", "failed")

Record = dict[str, Any]


def table(records: dict[str, list[Record]], before: Path) -> str:
    """A row for each suite that was judged by three verdicts; `before` is a file of what two verdicts said."""
    then = json.loads(before.read_text()) if before.exists() else {}
    rows = []
    for suite, items in records.items():
        now = [item["verdict"] for item in items if "verdict" in item]
        if now:
            rows.append([suite, *_then(then.get(suite)), len(now), *(now.count(verdict) for verdict in VERDICTS)])
    return common.table(_HEAD, rows) if rows else ""


def _then(found: Record | None) -> list[int | None]:
    if found is None:
        return [None, None, None]
    return [found["passed"] + len(found["little"]), len(found["little"]), len(found["failed"])]
