"""Timing of several calls in turns, on a GPU (CUDA graphs between events) or, for dry runs, on the CPU."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import Any, Protocol

import torch

Call = Callable[[], Any]
_WARM, _LEAST, _MOST, _SECONDS = 2, 5, 30, 0.02


class Clock(Protocol):
    """Seconds of calls, each variant a list of equal calls on data of its own."""

    how: str

    def ready(self, calls: Sequence[Call]) -> Callable[[], float]:
        """A stopwatch of one pass over the calls: seconds per call."""


class CpuClock:
    """The processor's clock, for dry runs."""

    how = "CPU clock (dry run)"

    def ready(self, calls: Sequence[Call]) -> Callable[[], float]:
        def once() -> float:
            start = time.perf_counter()
            for call in calls:
                call()
            return (time.perf_counter() - start) / len(calls)

        return once


class CudaClock:
    """CUDA events around one replay of a graph of all calls, so that launches from Python do not count.

    `graphs=False` times the calls as Python makes them; so does a clock whose graphs could not be captured, from there
    on, and says so.
    """

    def __init__(self, graphs: bool = True) -> None:
        self.graphs = graphs
        self.how = "CUDA events around CUDA graphs" if graphs else "CUDA events around calls from Python"
        self._side: Any = None
        self._pool: Any = None

    def ready(self, calls: Sequence[Call]) -> Callable[[], float]:
        work = self._graph(calls).replay if self.graphs else lambda: [call() for call in calls]
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]

        def once() -> float:
            start.record()
            work()
            end.record()
            end.synchronize()
            return float(start.elapsed_time(end)) / 1e3 / len(calls)

        return once

    def _graph(self, calls: Sequence[Call]) -> torch.cuda.CUDAGraph:
        """Not `torch.cuda.graph`, which collects garbage and empties the cache each time: there are thousands."""
        if self._side is None:
            self._side, self._pool = torch.cuda.Stream(), torch.cuda.graph_pool_handle()  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
        with torch.cuda.stream(self._side):
            calls[0]()  # libraries make their handles before the capture
            torch.cuda.synchronize()
            graph = torch.cuda.CUDAGraph()
            try:
                graph.capture_begin(pool=self._pool, capture_error_mode="relaxed")
                try:
                    for call in calls:
                        call()
                finally:
                    graph.capture_end()
            except Exception as error:
                self.graphs = False
                self.how += f", then around calls from Python, as a graph could not be captured ({first_line(error)})"
                raise
        torch.cuda.synchronize()
        return graph


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def in_turns(clock: Clock, variants: Mapping[str, Sequence[Call]]) -> tuple[dict[str, float], dict[str, str]]:
    """Median seconds per call of each variant, run in turns A B A B; and why a variant could not be timed."""
    how = clock.how
    watches, failed = _watches(clock, variants)
    if clock.how != how:  # graphs had to be given up: no mixture
        watches, failed = _watches(clock, variants)
    longest = max((len(variants[name]) * watch() for name, watch in watches.items()), default=1.0)
    rounds = min(_MOST, max(_LEAST, int(_SECONDS / max(longest, 1e-9))))
    gc.disable()
    try:
        times = [{name: watch() for name, watch in watches.items()} for _ in range(rounds)]
    finally:
        gc.enable()
    return {name: median(row[name] for row in times) for name in watches}, failed


def _watches(
    clock: Clock, variants: Mapping[str, Sequence[Call]]
) -> tuple[dict[str, Callable[[], float]], dict[str, str]]:
    watches, failed = {}, {}
    gc.disable()  # freeing within a capture is not for every library
    try:
        for name, calls in variants.items():
            try:
                watch = clock.ready(calls)
                for _ in range(_WARM):
                    watch()
                watches[name] = watch
            except Exception as error:  # one library's refusal must not end the run
                failed[name] = first_line(error)
    finally:
        gc.enable()
    return watches, failed
