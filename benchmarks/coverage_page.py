"""The page about coverage: what each suite's run recorded, as one summary, what fell short and why, and full tables."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import common

FOLDER = common.ROOT / "docs" / "measurements"
ROUTES = {"torch": "PyTorch", "onnx": "ONNX"}
GOAL = 0.5
NOTE = f"""One model a row, pruned with `channels=0.5` (L2), random weights, each route in a process of its own with
limits on time and memory. *Tried*: ONNX files exist of what `torch.onnx.export` (dynamo) exports.
*Valid*: the result runs with outputs of the original's shapes (ONNX: and passes the checker with full shape inference).
*Verified*: it agrees with the masked original on random inputs. *<= {GOAL}*: verified, with at most {GOAL} of the
parameters left. *Kept*: parameters left. *Exact / renorm.*: groups that lost something exactly, or with a statistic
taken anew over what is left. *Unknown*: operators without a rule, which freeze what they touch. *Seconds*: from the
model in to the model out (capture or load, couple, plan, rewrite, emit), then to verify; other work ran beside."""


Record = dict[str, Any]


def fell_short(record: Record) -> bool:
    """Whether a result is missing, wrong, or too large."""
    good = record.get("valid") and record.get("verified") and record["ratio"] <= GOAL
    return "error" in record or not good


def record(suite: str, found: dict[str, Record], cases: list[str]) -> None:
    """Write a suite's results in the order of `cases`, with what is needed to repeat them.

    A case that was not run here keeps the result that is on record.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"coverage-{suite}.json"
    before = {item["case"]: item for item in json.loads(path.read_text())["records"]} if path.exists() else {}
    known = before | found
    records = [known[case] for case in cases if case in known]
    head = {
        "command": f"python -m benchmarks.coverage --suite {suite}",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": common.machine(),
        "versions": common.versions(),
        "commits": sorted({item["commit"] for item in records}),
        "models": len({case.split("/", 2)[2] for case in cases}),
    }
    lines = ",\n".join(json.dumps(item) for item in records)
    path.write_text(json.dumps(head, indent=1).removesuffix("\n}") + f',\n "records": [\n{lines}\n]}}\n')


def publish(path: Path) -> None:
    """Write the page from every suite's recorded results, and print the summary."""
    found = {
        p.stem.removeprefix("coverage-"): json.loads(p.read_text()) for p in sorted(FOLDER.glob("coverage-*.json"))
    }
    results = {suite: _by_route(data["records"]) for suite, data in found.items()}
    counts = common.table(
        ["suite", "route", "tried", "valid", "verified", f"<= {GOAL}", "not exported", "slowest s"],
        [
            _counts(suite, route, routes, found[suite].get("models", 0))
            for suite, routes in results.items()
            for route in ROUTES
            if route in routes
        ],
    )
    parts = [
        "# Coverage: whole libraries at channels=0.5",
        "`make coverage` runs what has no result yet.",
        counts,
        NOTE,
    ]
    parts += [_provenance(suite, data) for suite, data in found.items()]
    parts += [part for suite, routes in results.items() for part in _shortfalls(suite, routes)]
    parts += [part for suite, routes in results.items() for part in _full(suite, routes)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(parts) + "\n")
    print(counts)


def _by_route(records: list[Record]) -> dict[str, dict[str, Record]]:
    found: dict[str, dict[str, Record]] = {}
    for item in records:
        _, route, name = item["case"].split("/", 2)
        found.setdefault(route, {})[name] = item
    return found


def _counts(suite: str, route: str, routes: dict[str, dict[str, Record]], models: int) -> list[Any]:
    found = list(routes[route].values())
    valid = [r for r in found if r.get("valid")]
    verified = [r for r in valid if r.get("verified")]
    good = [r for r in found if not fell_short(r)]
    refused = sum("error" in r for r in routes.get("export", {}).values()) if route == "onnx" else None
    slowest = max((_seconds(r) for r in valid), default=0.0)
    tried = f"{len(found)} of {models}"
    return [suite, ROUTES[route], tried, len(valid), len(verified), len(good), refused, common.number(slowest, 1)]


def _seconds(item: Record) -> float:
    """From the model in to the model out."""
    return float(item.get("capture_s", 0.0) + item.get("compile_s", 0.0))


def _provenance(suite: str, data: Record) -> str:
    measured = ", ".join(data["commits"])
    return f"**{suite}**: `{data['command']}`, {data['date']}, at {measured}. {data['machine']}. {data['versions']}."


def _shortfalls(suite: str, routes: dict[str, dict[str, Record]]) -> list[str]:
    rows = [
        [name, ROUTES[route], _kept(found), _why(found)]
        for route in ROUTES
        for name, found in routes.get(route, {}).items()
        if fell_short(found)
    ]
    refused = [[name, found["error"]] for name, found in routes.get("export", {}).items() if "error" in found]
    parts = [
        f"## {suite}: what fell short",
        common.table(["model", "route", "kept", "why"], rows) if rows else "Nothing.",
    ]
    if refused:
        parts += ["`torch.onnx.export` did not export:", common.table(["model", "error"], refused)]
    return parts


def _why(item: Record) -> str:
    """The step that failed, or the operators that froze most parameters."""
    if "error" in item:
        return f"{item.get('step', 'start')}: {item['error']} {item.get('where', '')}"
    if not item.get("verified"):
        return f"not verified: {item.get('note', '')}"
    if not item.get("valid"):
        return "output shapes differ"
    return "; ".join(item.get("stops", [])) or "nothing is frozen: its groups are small or uneven"


def _kept(item: Record) -> str | None:
    return common.number(item.get("ratio"), 3)


def _full(suite: str, routes: dict[str, dict[str, Record]]) -> list[str]:
    head = ["model", "parameters", "kept", "exact / renorm.", "unknown", "verified", "seconds", "verify s", "form"]
    parts = []
    for route, title in ROUTES.items():
        if route in routes:
            rows = [_row(name, found) for name, found in routes[route].items()]
            parts += [f"## {suite}: {title}, every model", common.table(head, rows)]
    return parts


def _row(name: str, item: Record) -> list[Any]:
    unknown = ", ".join(f"{op} x{count}" for op, count in item.get("unknown", {}).items())
    groups = f"{item['exact']} / {item['renormalising']}" if "exact" in item else None
    verified = "error" if "error" in item else "yes" if item.get("verified") else "NO"
    millions = f"{item['parameters'] / 1e6:.1f} M" if "parameters" in item else None
    seconds = common.number(_seconds(item), 1) if "compile_s" in item else None
    verify = common.number(item.get("verify_s"), 1)
    return [name, millions, _kept(item), groups, unknown or "none", verified, seconds, verify, item.get("form")]
