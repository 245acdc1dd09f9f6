"""Random models and broken files by the thousand: what `make fuzz` runs and docs/measurements/fuzz.md shows.

Work is cut into chunks of seeds, each in a process of its own with a time and a memory limit; a rerun goes on where the
last one stopped, `--retry` runs chunks with failures again, and `--fresh` starts over. The page names the commits of
all chunks: a clean run has one. A failure prints a line that repeats it:
`python -m benchmarks.fuzz --one onnx:123`.
"""

from __future__ import annotations

import argparse
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from . import common

#: Seeds to a process.
_CHUNK = {"onnx": 100, "torch": 25, "broken": 100, "plans": 100, "archives": 20}
#: Seconds that one graph or file may take before it counts as a hang.
HANG = 60
_SUMS = ("kinds", "outcomes", "also", "frozen", "mutations")


def main() -> None:
    made = common.parser("fuzz", __doc__.splitlines()[0] if __doc__ else "", limit=1800)
    made.add_argument("--graphs", type=int, default=10_000, help="random graphs in all")
    made.add_argument("--torch-share", type=float, default=0.1, help="the part of them that goes through torch.export")
    made.add_argument("--files", type=int, default=5_000, help="broken ONNX files")
    made.add_argument("--plans", type=int, default=300, help="broken plans")
    made.add_argument("--archives", type=int, default=200, help="broken .pt2 archives")
    made.add_argument("--start", type=int, default=0, help="the first seed")
    made.add_argument("--one", metavar="KIND:SEED", help="run one seed, print what it is, and shrink it if it fails")
    made.set_defaults(jobs=2, memory_gb=6)
    options = made.parse_args()
    if options.case is not None:
        common.child(options, run_chunk)
        return
    if options.one:
        kind, seed = options.one.split(":")
        sys.exit(_repeat(kind, int(seed)))
    cases = common.chosen(list(_chunks(options)), options.models)
    results = common.run_cases(options, cases, failed=lambda record: bool(_failures(record)))
    common.publish(options, "Random models and broken files", list(_report(results)))
    bad = [line for record in results.values() for line in _failures(record)]
    print("\n".join(bad), file=sys.stderr)
    sys.exit(1 if bad else 0)


def _chunks(options: argparse.Namespace) -> Iterator[str]:
    through_torch = round(options.graphs * options.torch_share)
    totals = {
        "onnx": options.graphs - through_torch, "torch": through_torch,
        "broken": options.files, "plans": options.plans, "archives": options.archives,
    }  # fmt: skip
    for kind, total in totals.items():
        for start in range(options.start, options.start + total, _CHUNK[kind]):
            yield f"{kind} {start} {min(start + _CHUNK[kind], options.start + total)}"


def runner(kind: str) -> Callable[[int], dict[str, Any]]:
    """What runs one seed and raises where something does not hold."""
    if kind in ("onnx", "torch"):
        from tests.properties.cases import random_case
        from tests.properties.checks import check

        return lambda seed: check(random_case(seed, kind))
    from tests.robustness.attempts import ATTEMPTS

    return ATTEMPTS[kind]


def run_chunk(case: str) -> None:
    """Run the seeds of a chunk; sums of facts, and every failure with its seed."""
    kind, first, last = case.split()
    run, sums = runner(kind), {name: Counter[str]() for name in _SUMS}
    failures, kept, little = [], [], 0
    start = time.perf_counter()
    for seed in range(int(first), int(last)):
        common.tell(at=seed)
        try:
            with limited():
                facts = run(seed)
        except Exception as error:  # whatever is raised is a finding
            failures.append([seed, _told(error)])
            continue
        sums["outcomes"][facts["outcome"]] += 1
        for name in _SUMS:
            sums[name].update(facts.get(name, {}))
        kept += [facts["kept"]] if "kept" in facts else []
        little += bool(facts.get("little"))
    common.tell(
        run=int(last) - int(first), failures=failures, kept=[sum(kept), len(kept)], little=little,
        seconds=round(time.perf_counter() - start, 1), **{name: dict(found) for name, found in sums.items()},
    )  # fmt: skip


@contextmanager
def limited() -> Iterator[None]:
    """Raise TimeoutError after `HANG` seconds."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"still running after {HANG} s")

    before = signal.signal(signal.SIGALRM, stop)
    signal.alarm(HANG)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def _told(error: Exception) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    text = " ".join(str(error).split())[:300]
    return f"{type(error).__name__}: {text} ({where.filename.rpartition('/')[2]}:{where.lineno})"


def _failures(record: dict[str, Any]) -> list[str]:
    """A line for each failure, with the command that repeats it."""
    kind = record["case"].split()[0]
    found = [(seed, text) for seed, text in record.get("failures", [])]
    if "error" in record:
        found.append((record.get("at"), record["error"]))
    return [f"python -m benchmarks.fuzz --one {kind}:{seed}  # {text}" for seed, text in found]


def _report(results: dict[str, dict[str, Any]]) -> Iterator[str]:
    rows, sums = [], {}
    for kind in _CHUNK:
        records = [r for key, r in results.items() if key.split()[0] == kind]
        if not records:
            continue
        total = {name: sum((Counter(r.get(name, {})) for r in records), Counter[str]()) for name in _SUMS}
        sums[kind] = total
        ran = sum(r.get("run", 0) for r in records)
        seconds = sum(r.get("seconds", 0.0) for r in records)
        kept = [sum(r.get("kept", [0, 0])[i] for r in records) for i in (0, 1)]
        share = common.number(kept[0] / kept[1]) if kept[1] else None
        outcomes = ", ".join(f"{name} {count}" for name, count in total["outcomes"].most_common())
        bad = sum(len(_failures(r)) for r in records)
        rows.append([kind, ran, bad, outcomes, share, sum(r.get("little", 0) for r in records), round(seconds)])
    head = ["what", "run", "failures", "outcomes", "parameters kept", "prove little", "seconds"]
    yield common.table(head, rows)
    for kind, total in sums.items():
        for name, title in (
            ("also", "Further properties checked"), ("kinds", "Canonical kinds (nodes)"),
            ("frozen", "Why axes stay (weight axes)"), ("mutations", "What was done to the files"),
        ):  # fmt: skip
            if total[name]:
                yield f"**{kind}: {title}.** " + ", ".join(f"{key} {n}" for key, n in total[name].most_common(60))


def _repeat(kind: str, seed: int) -> int:
    """Run one seed again, say what it is, and find the smallest case that fails alike."""
    if kind not in ("onnx", "torch"):
        print(runner(kind)(seed))
        return 0
    from tests.properties.cases import random_case
    from tests.properties.checks import check

    case = random_case(seed, kind)
    print(case)
    try:
        print(check(case))
    except Exception as error:
        print(_shrunk(case, type(error), check))
        raise
    return 0


def _shrunk(case: Any, kind: type[Exception], check: Callable[[Any], Any]) -> Any:
    """The case with everything left out that the failure does not need."""

    def fails(candidate: Any) -> bool:
        try:
            check(candidate)
        except Exception as error:
            return type(error) is kind
        return False

    while True:
        smaller = next((c for c in case.shorter() if c.steps and fails(c)), None)
        if smaller is None:
            return case
        case = smaller


if __name__ == "__main__":
    main()
