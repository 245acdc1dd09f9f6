"""The pages about coverage: what each suite's run recorded, as one summary, what fell short and why, full tables."""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import common, coverage_verdicts, routes

FOLDER = common.ROOT / "docs" / "measurements"
LIBRARIES = (
    "diffusers", "ultralytics", "segmentation_models_pytorch", "open_clip", "torchaudio", "monai", "torchvision",
    "torch_geometric", "x_transformers", "vit_pytorch",
)  # fmt: skip
GOAL = 0.5
ERROR = 120  # characters of an exporter's error
AS_FOUND = "running the file as found"  # the step before anything of ours
NOTE = f"""One model a row, pruned with `channels=0.5` (L2), random weights, each route in a process of its own with
limits on time and memory. Route *default configuration*: the module as a user holds it (nothing around it, results
with key-value caches), a module of its class in return. Route *ONNX*: `torch.onnx.export` (dynamo, opset 18); others
name exporter and opset, and what was done to the file then (`benchmarks/onnx_tools.py`). *Tried*: of what could be
exported and changed so, and then runs.
*Valid*: the result runs with outputs of the original's shapes (ONNX: and passes the checker where the original does).
*Verified*: it agrees with the masked original on random inputs. *Undecided*: the outputs said too little on random
inputs to prove anything ('-': run before there was this verdict).
*<= {GOAL}*: verified, with at most {GOAL} of the parameters left. *Own class*: what came back
is of the class that went in. *Torch-Pruning* at ratio 0.5, as `benchmarks/peers.py` calls it: *valid* where it runs
with outputs of the original's shapes; its numbers are not compared.
*Kept*: parameters left. *Exact / renorm.*: groups that lost something exactly, or with a statistic taken anew over what
is left. *Unknown*: operators without a rule, which freeze what they touch. *Seconds*: from the model in to the model
out (capture or load, couple, plan, rewrite, emit), then to verify; other work ran beside."""


Record = dict[str, Any]
OWN = "own class"
THEN = "before/verdicts.json"


def fell_short(record: Record) -> bool:
    """Whether a result is missing, wrong, or too large."""
    good = record.get("valid") and record.get("verified") and record["ratio"] <= GOAL
    return "error" in record or not good


def record(suite: str, found: dict[str, Record], names: list[str]) -> None:
    """Write a suite's results, route by route in the order of `names`, with what is needed to repeat them.

    A case that was not run here keeps the result that is on record.
    """
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / f"coverage-{suite}.json"
    before = {item["case"]: item for item in json.loads(path.read_text())["records"]} if path.exists() else {}
    known = before | found
    order = {name: place for place, name in enumerate(names)}
    records = [item for item in known.values() if _name(item) in order]
    records.sort(key=lambda item: (*_rank(_route(item)), order[_name(item)]))
    head = {
        "command": f"python -m benchmarks.coverage --suite {suite}",
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "machine": common.machine(),
        "versions": common.versions(),
        "commits": sorted({item["commit"] for item in records}),
        "models": len(names),
    }
    lines = ",\n".join(common.portable(json.dumps(item)) for item in records)
    path.write_text(json.dumps(head, indent=1).removesuffix("\n}") + f',\n "records": [\n{lines}\n]}}\n')


def _route(item: Record) -> str:
    return str(item["case"].split("/", 2)[1])


def _name(item: Record) -> str:
    return str(item["case"].split("/", 2)[2])


def _rank(route: str) -> tuple[int, str]:
    """Main routes come first, exports last."""
    if route in routes.DEFAULT:
        return routes.DEFAULT.index(route), route
    return (len(routes.DEFAULT) + (routes.exported(route) is not None), route)


def publish(path: Path) -> None:
    """Write the pages from every suite's recorded results, and print their summaries; a second page for `LIBRARIES`."""
    found = _recorded(FOLDER)
    pages: dict[Path, dict[str, Record]] = {path: {}, path.with_name("coverage-libraries.md"): {}}
    main, more = pages.values()
    for suite, data in found.items():
        (more if suite in LIBRARIES else main)[suite] = data
    for page, data in pages.items():
        if data:
            _publish(page, data)


def _recorded(folder: Path) -> dict[str, Record]:
    return {p.stem.removeprefix("coverage-"): json.loads(p.read_text()) for p in sorted(folder.glob("coverage-*.json"))}


def _publish(path: Path, found: dict[str, Record]) -> None:
    results, before = {suite: _by_route(data["records"]) for suite, data in found.items()}, _recorded(FOLDER / "before")
    head = ["suite", "route", "tried", "valid", "verified", "undecided", f"<= {GOAL}", "own class", "not exported"]
    rows = [
        row
        for suite, data in found.items()
        for row in _summary(suite, results[suite], data["models"]) + _before(suite, before.get(suite))
    ]
    counts = common.table([*head, "slowest s"], rows)
    parts = [
        "# Coverage: whole libraries at channels=0.5",
        "`make coverage` runs what has no result yet.",
        counts,
        NOTE,
    ]
    told = coverage_verdicts.table({suite: data["records"] for suite, data in found.items()}, FOLDER / THEN)
    parts += ["## Verdicts", coverage_verdicts.NOTE, told] if told else []
    parts += [_provenance(suite, data) for suite, data in found.items()]
    parts += [part for suite, by_route in results.items() for part in _shortfalls(suite, by_route)]
    parts += [part for suite, by_route in results.items() for part in _full(suite, by_route)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n\n".join(parts) + "\n")
    print(counts)


ByRoute = dict[str, dict[str, Record]]


def _by_route(records: list[Record]) -> ByRoute:
    found: ByRoute = {}
    for item in records:
        found.setdefault(_route(item), {})[_name(item)] = item
    return found


def _prunings(by_route: ByRoute) -> list[str]:
    """The routes that prune something, main ones first."""
    plain = (route for route in by_route if routes.exported(route) is None and route != routes.PEER)
    return sorted(plain, key=_rank)


def _before(suite: str, data: Record | None) -> list[list[Any]]:
    """The same models by an earlier commit, where that is on record."""
    if data is None:
        return []
    by_route = _by_route(data["records"])
    commits = ", ".join(commit.removesuffix("-dirty") for commit in data["commits"])  # benchmarks alone are newer
    rows = [row for row in _summary(suite, by_route, data["models"]) if row[1] == routes.title("torch")]
    return [[name, f"{title} at {commits}", *counts] for name, title, *counts in rows]


def _peer(suite: str, found: dict[str, Record], models: int) -> list[Any]:
    """What Torch-Pruning made of the same modules."""
    valid = [item for item in found.values() if item.get("valid")]
    good = [item for item in valid if item["params_ratio"] <= GOAL]
    slowest = max((item["build_s"] + item["prune_s"] for item in valid), default=0.0)
    counts = [f"{len(found)} of {models}", len(valid), None, None, len(good), len(valid), None]
    return [suite, routes.title(routes.PEER), *counts, common.number(slowest, 1)]


def _summary(suite: str, by_route: ByRoute, models: int) -> list[list[Any]]:
    """A row for each route; where names say how a file came about (`dynamo-18/bert`), one for each of these ways."""
    rows = []
    for route in _prunings(by_route):
        found = {name: item for name, item in by_route[route].items() if not _unusable(item)}
        refused = [name for name, item in by_route[route].items() if _unusable(item)]
        refused += [name for export in routes.exports(route) for name, _ in _failed(by_route.get(export, {}))]
        if any("/" in name for name in found):
            ways = dict.fromkeys(_way(name) for name in (*found, *refused))
            parts = [(way, *(_of(way, names) for names in (found, refused))) for way in ways]
            rows += [_counts(suite, way, [found[n] for n in own], len(none), None) for way, own, none in parts]
        else:
            rows.append(_counts(suite, routes.title(route), list(found.values()), len(refused), models))
    best = _best(by_route)
    if routes.PEER in by_route:
        rows.append(_peer(suite, by_route[routes.PEER], models))
    if best:
        every = {name for items in by_route.values() for name in items}
        rows.append(_counts(suite, "ONNX by any exporter", list(best.values()), len(every - set(best)), models))
    return rows


def _best(by_route: ByRoute) -> dict[str, Record]:
    """What came of each model's best file, where several exporters made one."""
    plain = [route for route in _prunings(by_route) if route not in routes.MODULES and "+" not in route]
    found: dict[str, Record] = {}
    for route in plain if len(plain) > 1 else ():
        for name, item in by_route[route].items():
            if not _unusable(item) and (name not in found or _worth(item) > _worth(found[name])):
                found[name] = item
    return found


def _worth(item: Record) -> tuple[bool, bool]:
    return not fell_short(item), bool(item.get("verified"))


def _unusable(item: Record) -> bool:
    """Whether onnxruntime does not run the file that was to be pruned."""
    return "error" in item and item.get("step") == AS_FOUND


def _way(name: str) -> str:
    return name.partition("/")[0]


def _of(way: str, names: Iterable[str]) -> list[str]:
    return [name for name in names if _way(name) == way]


def _failed(exports: dict[str, Record]) -> list[tuple[str, str]]:
    return [(name, item["error"]) for name, item in exports.items() if "error" in item]


def _counts(suite: str, title: str, found: list[Record], refused: int, models: int | None) -> list[Any]:
    valid = [r for r in found if r.get("valid")]
    verified = [r for r in valid if r.get("verified")]
    good = [r for r in found if not fell_short(r)]
    undecided = sum(r.get("verdict") == "undecided" for r in valid) if any("verdict" in r for r in found) else None
    slowest = max((_seconds(r) for r in valid), default=0.0)
    tried = f"{len(found)} of {len(found) + refused if models is None else models}"
    own = sum(r.get("form") == OWN for r in valid) if title in map(routes.title, ("torch", routes.AS_HELD)) else None
    none = None if title in map(routes.title, routes.MODULES) else refused
    counts = [len(valid), len(verified), undecided, len(good), own, none]
    return [suite, title, tried, *counts, common.number(slowest, 1)]


def _seconds(item: Record) -> float:
    """From the model in to the model out."""
    return float(item.get("capture_s", 0.0) + item.get("compile_s", 0.0))


def _provenance(suite: str, data: Record) -> str:
    measured = ", ".join(data["commits"])
    return f"**{suite}**: `{data['command']}`, {data['date']}, at {measured}. {data['machine']}. {data['versions']}."


def _shortfalls(suite: str, by_route: ByRoute) -> list[str]:
    rows = [
        [name, routes.title(route), _kept(found), _why(found)]
        for route in _prunings(by_route)
        for name, found in by_route[route].items()
        if fell_short(found) and not _unusable(found)
    ]
    parts = [
        f"## {suite}: what fell short",
        common.table(["model", "route", "kept", "why"], rows) if rows else "Nothing.",
    ]
    refused = _refused(by_route)
    if refused:
        parts += [
            "Not exported, refused by the tool, or not run by onnxruntime as exported:",
            common.table(["error", "route", "models"], refused),
        ]
    return parts


def _refused(by_route: ByRoute) -> list[list[str]]:
    """What was not exported or changed, the same error on one row."""
    found: dict[tuple[str, str], list[str]] = {}
    for route, items in by_route.items():
        made = routes.exported(route)
        refused = items if made else {name: item for name, item in items.items() if _unusable(item)}
        for name, error in _failed(refused):
            found.setdefault((error[:ERROR], routes.title(made or route)), []).append(name)
    return [[error, title, ", ".join(names)] for (error, title), names in found.items()]


def _why(item: Record) -> str:
    """The step that failed, or the operators that froze most parameters."""
    if "error" in item:
        return f"{item.get('step', 'start')}: {common.portable(item['error'])} {item.get('where', '')}"
    if not item.get("verified"):
        return f"{item.get('verdict', 'not verified')}: {item.get('note', '')}"
    if not item.get("valid"):
        return "output shapes differ"
    return "; ".join(item.get("stops", [])) or "nothing is frozen: its groups are small or uneven"


def _kept(item: Record) -> str | None:
    return common.number(item.get("ratio"), 3)


def _full(suite: str, by_route: ByRoute) -> list[str]:
    """Every model by the main routes; what is more lies beside, in the JSON file."""
    head = ["model", "parameters", "kept", "exact / renorm.", "unknown", "verified", "seconds", "verify s", "form"]
    parts = []
    for route in routes.DEFAULT:
        if route in by_route:
            peer = by_route.get(routes.PEER, {}) if route == "torch" else {}
            rows = [[*_row(name, found), *_beside(peer, name)] for name, found in by_route[route].items()]
            parts += [
                f"## {suite}: {routes.title(route)}, every model",
                common.table([*head, *([routes.title(routes.PEER)] if peer else [])], rows),
            ]
    return parts


def _beside(peer: dict[str, Record], name: str) -> list[str | None]:
    """What Torch-Pruning kept of a model, or how it failed."""
    if not peer:
        return []
    item = peer.get(name, {})
    if item.get("valid"):
        return [common.number(item["params_ratio"], 3)]
    return [item.get("error", "other shapes").partition(":")[0] if item else None]


def _row(name: str, item: Record) -> list[Any]:
    unknown = ", ".join(f"{op} x{count}" for op, count in item.get("unknown", {}).items())
    groups = f"{item['exact']} / {item['renormalising']}" if "exact" in item else None
    verified = "error" if "error" in item else "yes" if item.get("verified") else item.get("verdict", "NO")
    millions = f"{item['parameters'] / 1e6:.1f} M" if "parameters" in item else None
    seconds = common.number(_seconds(item), 1) if "compile_s" in item else None
    verify = common.number(item.get("verify_s"), 1)
    return [name, millions, _kept(item), groups, unknown or "none", verified, seconds, verify, item.get("form")]
