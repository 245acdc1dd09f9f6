"""Timing models side by side: interleaved runs, ratios pair by pair."""

from __future__ import annotations

import gc
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from .base import Clocked, Executable, Inputs, InputShapes, LayerChoice, Layered, Progress, Runtime, Specializing, get
from .inputs import random_inputs

_NORMAL_95 = 1.96


@dataclass(frozen=True)
class Timing:
    """One model's latency in seconds, and its ratio to the first model (below 1 is faster) with a 95 % interval.

    `peak_bytes` is the memory that loading and running it once needs. `parameters`, `macs` and `file_bytes` are for
    a caller that knows the model to fill in. `notes` are what the backend has to say about its compiled form, `layers`
    what it made of them, where asked for.
    """

    name: str
    median: float
    p90: float
    p99: float
    ratio: float = 1.0
    ratio_low: float = 1.0
    ratio_high: float = 1.0
    peak_bytes: int | None = None
    parameters: int | None = None
    macs: int | None = None
    file_bytes: int | None = None
    notes: tuple[str, ...] = ()
    layers: tuple[LayerChoice, ...] = ()


@dataclass(frozen=True)
class Environment:
    """Where and how a comparison was timed; `device` is where the data lay, timed by `clock`, if not the processor."""

    runtime: str
    version: str
    threads: int | None
    cpu: str
    cores: int
    rounds: int
    input_shapes: dict[str, tuple[int, ...]] = field(default_factory=dict)
    device: str = ""
    clock: str = ""


@dataclass(frozen=True)
class Comparison(Sequence[Timing]):
    """The rows of one comparison, first model first, and where they were measured."""

    rows: tuple[Timing, ...]
    environment: Environment

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: Any) -> Any:
        return self.rows[index]

    def __iter__(self) -> Iterator[Timing]:
        return iter(self.rows)


@dataclass(frozen=True)
class Effort:
    """How long to measure: at least `min_rounds`, then until `seconds` have passed or `max_rounds` are done."""

    seconds: float = 5.0
    min_rounds: int = 10
    max_rounds: int = 2000
    warmup: int = 3


def compare(
    models: Sequence[Any],
    *,
    runtime: str | Runtime = "onnxruntime",
    threads: int | None = 1,
    labels: Sequence[str] | None = None,
    inputs: Inputs | None = None,
    feeds: Sequence[Inputs | None] = (),
    input_shapes: InputShapes | None = None,
    seed: int = 0,
    effort: Effort | None = None,
    memory: bool = False,
    layers: bool = False,
    progress: Progress | None = None,
) -> Comparison:
    """Time `models` in turns on one runtime, each fed `inputs`, its own of `feeds`, or random arrays of
    `input_shapes`.

    `threads=None` leaves the number to the runtime; `memory` measures peak memory as well (a fresh process each);
    `layers` asks what the backend made of each layer. A device with a clock of its own is timed by that, data in place.
    Raises `InputError` for shapes that do not fit and `BackendError` where the runtime cannot run a model.
    """
    backend = _backend(runtime, inputs, input_shapes, progress)
    executables = [backend.compile(model, threads=threads) for model in models]
    given = [inputs if feed is None else feed for feed in feeds or [None] * len(models)]
    fed = [
        random_inputs(e.inputs, input_shapes, seed) if feed is None else feed
        for e, feed in zip(executables, given, strict=True)
    ]
    clocks = [_stopwatch(executable, feed) for executable, feed in zip(executables, fed, strict=True)]
    times = _rounds(clocks, effort or Effort())
    peaks = [
        backend.peak_memory(model, feed, threads=threads) if memory else None
        for model, feed in zip(models, fed, strict=True)
    ]
    titles = labels or [_title(model, i) for i, model in enumerate(models)]
    first = executables[0]
    device = first.device if isinstance(first, Clocked) else ""
    clock = getattr(first, "clock", "its own clock") if device else ""
    cores, shapes = os.cpu_count() or 1, _shapes(fed[0])
    environment = Environment(
        backend.name, backend.version, threads, cpu_model(), cores, len(times), shapes, device, clock
    )
    rows = _summaries(titles, times, peaks)
    return Comparison(tuple(_told(row, e, layers) for row, e in zip(rows, executables, strict=True)), environment)


def _backend(
    runtime: str | Runtime, inputs: Inputs | None, shapes: InputShapes | None, progress: Progress | None
) -> Runtime:
    """The backend, made ready for what it will be fed where that matters to it."""
    backend = get(runtime) if isinstance(runtime, str) else runtime
    if not isinstance(backend, Specializing):
        return backend
    if inputs is not None:
        shapes = _shapes(inputs) if isinstance(inputs, Mapping) else [array.shape for array in inputs]
    ready: Runtime = backend.specialized(shapes, progress)
    return ready


def _told(row: Timing, executable: Executable, layers: bool) -> Timing:
    """The row with what the backend says about its compiled form."""
    notes = tuple(getattr(executable, "notes", ()))
    if not layers:
        return replace(row, notes=notes)
    if not isinstance(executable, Layered):
        return replace(row, notes=(*notes, "this runtime does not tell what became of the layers"))
    return replace(row, notes=notes, layers=executable.layers())


def _stopwatch(executable: Executable, feed: Inputs) -> Callable[[], float]:
    if isinstance(executable, Clocked):
        return executable.stopwatch(feed)
    return partial(_clock, partial(executable.run, feed))


def interleave(runs: Sequence[Callable[[], object]], effort: Effort) -> np.ndarray:
    """Seconds of every call, `[rounds, runs]`, run in turns A B A B so that a slow spell of the machine hits all."""
    return _rounds([partial(_clock, run) for run in runs], effort)


def _rounds(clocks: Sequence[Callable[[], float]], effort: Effort) -> np.ndarray:
    """As `interleave`, of calls that return their own seconds."""
    for _ in range(effort.warmup):
        for clock in clocks:
            clock()
    rounds: list[list[float]] = []
    collecting = gc.isenabled()
    gc.disable()
    try:
        start = perf_counter()
        while len(rounds) < effort.max_rounds:
            if len(rounds) >= effort.min_rounds and perf_counter() - start >= effort.seconds:
                break
            rounds.append([clock() for clock in clocks])
    finally:
        if collecting:
            gc.enable()
    return np.asarray(rounds)


def _clock(run: Callable[[], object]) -> float:
    start = perf_counter()
    run()
    return perf_counter() - start


def _summaries(titles: Sequence[str], times: np.ndarray, peaks: Sequence[int | None]) -> tuple[Timing, ...]:
    ratios = times / times[:, :1]
    rows = []
    for i, title in enumerate(titles):
        median, p90, p99 = np.percentile(times[:, i], [50, 90, 99]).tolist()
        ratio, low, high = median_interval(ratios[:, i])
        rows.append(Timing(title, median, p90, p99, ratio, low, high, peaks[i]))
    return tuple(rows)


def median_interval(sample: np.ndarray) -> tuple[float, float, float]:
    """Median and its 95 % interval from order statistics, which assumes nothing about the distribution."""
    ordered = np.sort(sample)
    n = len(ordered)
    reach = _NORMAL_95 * np.sqrt(n) / 2
    low = max(int(np.floor(n / 2 - reach)), 0)
    high = min(int(np.ceil(n / 2 + reach)), n - 1)
    return float(np.median(ordered)), float(ordered[low]), float(ordered[high])


def latency_table(comparison: Comparison) -> str:
    """The comparison as a Markdown table, its environment in the line below."""
    lines = ["| model | median ms | p90 ms | p99 ms | ratio | 95 % interval |", "| --- | --: | --: | --: | --: | --: |"]
    for row in comparison.rows:
        cells = [f"{1e3 * seconds:.3f}" for seconds in (row.median, row.p90, row.p99)]
        interval = f"{row.ratio_low:.3f} to {row.ratio_high:.3f}"
        lines.append(f"| {row.name} | {' | '.join(cells)} | {row.ratio:.3f} | {interval} |")
    return "\n".join([*lines, "", describe(comparison.environment)])


def describe(environment: Environment) -> str:
    """One sentence: runtime, threads, processor, rounds and input shapes."""
    shapes = ", ".join(f"{name} {'x'.join(map(str, shape))}" for name, shape in environment.input_shapes.items())
    threads = "all threads" if environment.threads is None else f"{environment.threads} thread(s)"
    where = f"{environment.device} by {environment.clock}" if environment.device else f"{threads}, {environment.cpu}"
    rounds = f"{environment.rounds} interleaved rounds"
    return f"{environment.runtime} {environment.version}, {where}, {rounds}, inputs: {shapes}"


def cpu_model() -> str:
    """The processor's name as the system tells it."""
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _title(model: Any, index: int) -> str:
    return Path(model).name if isinstance(model, str | Path) else f"model {index + 1}"


def _shapes(feed: Inputs) -> dict[str, tuple[int, ...]]:
    named = feed.items() if hasattr(feed, "items") else ((f"input {i}", array) for i, array in enumerate(feed))
    return {name: tuple(array.shape) for name, array in named}
