"""What every benchmark shares: one process per case with limits, resumable results, Markdown out.

A script is two programs in one: the parent (`python -m benchmarks.reach`) goes through its cases, and runs itself as a
child (`... --case KEY`) for each. The child tells facts with `tell(...)` as soon as it knows them, so that a case that
is stopped at its limit keeps what it had measured. The parent appends one JSON line per finished case, and a rerun
skips what it finds there.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import re
import resource
import shlex
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PACKAGES = (
    *("graphprune", "torch", "torchvision", "timm", "transformers", "onnx", "onnxruntime", "onnxscript"),
    *("torch-pruning", "onnxsim", "numpy", "scipy"),
    *("diffusers", "ultralytics", "segmentation-models-pytorch", "open-clip-torch", "torchaudio", "monai"),
    *("torch-geometric", "x-transformers", "vit-pytorch"),
)
_MARK = "@@tell "
Run = Callable[[str], None]


def parser(name: str, description: str, limit: float = 240) -> argparse.ArgumentParser:
    """The options every benchmark takes."""
    made = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=description)
    made.add_argument("--models", default="*", help="comma-separated globs of the models to run")
    made.add_argument("--limit-s", type=float, default=limit, help="seconds a case may take")
    made.add_argument("--memory-gb", type=float, default=16, help="memory a case may take")
    made.add_argument("--jobs", type=int, default=1, help="cases at a time (timings want 1)")
    made.add_argument("--cache", type=Path, default=ROOT / ".cache" / "onnx", help="folder of exported ONNX files")
    made.add_argument("--data", type=Path, help="folder of benchmark data, where a benchmark needs some")
    made.add_argument("--results", type=Path, default=ROOT / ".cache" / "bench" / f"{name}.jsonl")
    made.add_argument("--out", type=Path, default=ROOT / "docs" / "measurements" / f"{name}.md")
    made.add_argument("--fresh", action="store_true", help="forget earlier results")
    made.add_argument("--retry", action="store_true", help="run again what failed earlier")
    made.add_argument("--case", help=argparse.SUPPRESS)
    return made


def chosen(names: Iterable[str], globs: str) -> list[str]:
    """The names that match one of the comma-separated globs."""
    return [name for name in names if any(fnmatch(name, glob) for glob in globs.split(","))]


def tell(**facts: Any) -> None:
    """Report facts from the child to the parent."""
    print(_MARK + json.dumps(facts), flush=True)


def clock(action: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds that `action` took, and what it returned."""
    start = time.perf_counter()
    made = action()
    return time.perf_counter() - start, made


def child(options: argparse.Namespace, run: Callable[[str], None]) -> None:
    """Run one case under its memory limit, and tell what went wrong if it fails."""
    limit = int(options.memory_gb * 2**30)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    start = time.perf_counter()
    try:
        run(options.case)
    except Exception as error:  # whatever a tool raises is its result
        text = portable(" ".join(str(error).split()))[:300]
        where = traceback.extract_tb(error.__traceback__)[-1]
        tell(error=f"{type(error).__name__}: {text}", where=f"{Path(where.filename).name}:{where.lineno}")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    tell(total_s=round(time.perf_counter() - start, 3), rss_mb=round(peak))


def portable(text: str) -> str:
    """A text without the folders of this machine: paths begin where packages or the cache lie."""
    return re.sub(r"/[^\s'\"]*/(?=site-packages/|\.cache/)", "", text).replace(f"{ROOT}/", "")


def load_results(path: Path) -> dict[str, dict[str, Any]]:
    """Finished cases by key; a line cut short by a kill is left out."""
    found: dict[str, dict[str, Any]] = {}
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        found[record["case"]] = record
    return found


def run_cases(
    options: argparse.Namespace,
    cases: Sequence[str],
    failed: Callable[[dict[str, Any]], bool] = lambda record: "error" in record,
    run: Run | None = None,
) -> dict[str, dict[str, Any]]:
    """Run every case that has no result yet, each in a process of its own; return all results by key.

    `--retry` also runs those again whose result has `failed`. Given `run`, the process is a fork of this one, else the
    script is started again.
    """
    if options.fresh:
        options.results.unlink(missing_ok=True)
    options.results.parent.mkdir(parents=True, exist_ok=True)
    known = load_results(options.results)
    todo = [case for case in cases if case not in known or (options.retry and failed(known[case]))]

    def one(case: str) -> None:
        record = _run_case(options, case, run)
        with options.results.open("a") as file:
            file.write(json.dumps(record) + "\n")
        known[case] = record
        print(
            f"{sum(c in known for c in cases)}/{len(cases)} {case} {record['wall_s']} s {record.get('error', '')}",
            file=sys.stderr,
        )

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(one, todo))
    results = {case: known[case] for case in cases if case in known}
    options.commits = sorted({record["commit"] for record in results.values()})
    return results


def _run_case(options: argparse.Namespace, case: str, run: Run | None) -> dict[str, Any]:
    """One child process; what it told, or why it told nothing more."""
    record: dict[str, Any] = {"case": case, "commit": commit()}
    start = time.perf_counter()
    output, errors, status = _started(options, case) if run is None else _forked(options, case, run)
    for line in output.splitlines():
        if line.startswith(_MARK):
            record |= json.loads(line.removeprefix(_MARK))
    if status is None:
        record["error"] = f"stopped after {options.limit_s:g} s"
    elif status and "error" not in record:
        last = errors.strip().splitlines()[-1:] or ["no message"]
        record["error"] = f"crashed with status {status}: {last[0][:200]}"
    record["wall_s"] = round(time.perf_counter() - start, 2)
    return record


def _started(options: argparse.Namespace, case: str) -> tuple[str, str, int | None]:
    """The script, started again for one case: what it printed, and its status (None: it was stopped)."""
    command = [sys.executable, *_module(), *sys.argv[1:], "--case", case]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            command,
            check=False,
            cwd=ROOT,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=options.limit_s,
        )
    except subprocess.TimeoutExpired as stopped:
        return (stopped.stdout or b"").decode(errors="replace"), "", None
    return done.stdout, done.stderr, done.returncode


def _forked(options: argparse.Namespace, case: str, run: Run) -> tuple[str, str, int | None]:
    """As `_started`, in a fork of this process, which has imported already what takes seconds to import."""
    with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:

        def inside() -> None:
            os.dup2(output.fileno(), 1)
            os.dup2(errors.fileno(), 2)
            child(argparse.Namespace(**{**vars(options), "case": case}), run)
            sys.stdout.flush()
            os._exit(0)  # what imported libraries would do at exit is for the parent to do

        process = multiprocessing.get_context("fork").Process(target=inside)
        process.start()
        process.join(options.limit_s)
        status = process.exitcode
        process.kill()
        process.join()
        texts = [(file.seek(0), file.read().decode(errors="replace"))[1] for file in (output, errors)]
        return texts[0], texts[1], status


def _module() -> list[str]:
    """How to start the running script again."""
    spec = sys.modules["__main__"].__spec__
    return ["-m", spec.name] if spec is not None else [sys.argv[0]]


def commit() -> str:
    """The checked-out commit, marked where files other than pages (which benchmarks write) differ from it."""
    found = _git("rev-parse", "--short", "HEAD") or "no git"
    return f"{found}-dirty" if _git("status", "--porcelain", "-uno", "--", ".", ":!docs", ":!*.md") else found


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    return done.stdout.strip()


def machine() -> str:
    """Processor, cores and memory in words."""
    info = Path("/proc/cpuinfo")
    names = [line.split(":")[1].strip() for line in info.read_text().splitlines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{names[0] if names else platform.processor()}, {os.cpu_count()} cores, {memory:.0f} GiB, {platform.system()}"
    )


def versions() -> str:
    """Python and the packages that the figures depend on."""
    found = [f"Python {platform.python_version()}"]
    for name in PACKAGES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            continue
    return ", ".join(found)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """A Markdown table; the first column left, the others right aligned."""
    lines = [" | ".join(head), " | ".join([":--"] + ["--:"] * (len(head) - 1))]
    lines += [" | ".join("-" if cell is None else str(cell).replace("|", "/") for cell in row) for row in rows]
    return "\n".join(f"| {line} |" for line in lines)


def number(value: float | None, digits: int = 2) -> str | None:
    """A number with fixed digits, or None as it is."""
    return None if value is None else f"{value:.{digits}f}"


def publish(options: argparse.Namespace, title: str, parts: Sequence[str]) -> None:
    """Print the page and write it, with what is needed to repeat it."""
    arguments = [] if len(sys.argv) == 1 else [shlex.join(sys.argv[1:])]
    command = " ".join(["python", *_module(), *arguments])
    measured = ", ".join(options.commits)  # of the records, which may be older than the checkout
    head = (
        f"# {title}\n\n`{command}`, {datetime.now(UTC):%Y-%m-%d}, measured at {measured}.\n{machine()}.\n{versions()}."
    )
    page = "\n\n".join([head, *parts]) + "\n"
    print(page)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    partial = options.out.with_suffix(".partial")
    partial.write_text(page)
    partial.replace(options.out)
