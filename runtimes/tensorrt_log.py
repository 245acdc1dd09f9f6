"""What TensorRT says and how far it is, while it parses, builds and runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from .base import Progress

if TYPE_CHECKING:
    import tensorrt as trt

# It says "Found 2 layer(s) eligible to use sparse tactics: a, b" and "Chose 1 layer(s) using sparse tactics: a"
# (some without the names); earlier ones "Layers eligible for sparse math: a, b" and "TRT inference plan picked".
_ELIGIBLE = re.compile(
    r"\(Sparsity\)\D*(\d*).*?eligible (?:to use sparse tactics|for sparse math)(?::(.*))?", re.DOTALL
)
_CHOSEN = re.compile(
    r"\(Sparsity\)\D*(\d*).*?(?:using sparse tactics|picked sparse implementation for layers)(?::(.*))?", re.DOTALL
)
_KEPT = 20


@dataclass(frozen=True)
class Told:
    """How many layers TensorRT spoke of, and their names where it gave them."""

    count: int
    names: tuple[str, ...] = ()


@dataclass
class BuildLog:
    """What was said that matters: problems, and the layers for which sparse kernels could be and were chosen.

    TensorRT tells the latter once for every round of choosing; the last one is the engine's.
    """

    problems: list[str] = field(default_factory=list)
    eligible: Told | None = None
    chosen: Told | None = None

    def hear(self, severity: str, message: str) -> None:
        """Take note of one message."""
        if severity in ("INTERNAL_ERROR", "ERROR") and len(self.problems) < _KEPT:
            self.problems.append(" ".join(message.split()))
        if found := _ELIGIBLE.search(message):
            self.eligible = _told(found)
        elif found := _CHOSEN.search(message):
            self.chosen = _told(found)

    def because(self) -> str:
        """The first problem, as the end of a sentence."""
        return f": {self.problems[0]}" if self.problems else ", and TensorRT does not say why"


def _told(found: re.Match[str]) -> Told:
    names = tuple(name.strip() for name in (found[2] or "").split(",") if name.strip())
    return Told(int(found[1]) if found[1] else len(names), names)


_listening: list[BuildLog] = []
_shared: list[trt.ILogger] = []


@contextmanager
def listening(log: BuildLog) -> Iterator[trt.ILogger]:
    """The logger to hand to TensorRT, whose messages go to `log` meanwhile.

    There is one for the process: TensorRT keeps the first it is given as long as anything made with it lives.
    """
    if not _shared:
        _shared.append(_logger())
    _listening.append(log)
    try:
        yield _shared[0]
    finally:
        _listening.remove(log)


def _logger() -> trt.ILogger:
    import tensorrt as trt

    class Logger(trt.ILogger):
        """Hands every message to whoever listens."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
            """Called by TensorRT, for every severity."""
            for log in _listening:
                log.hear(severity.name, msg)

    return Logger()


@dataclass
class Watch:
    """How far a build is. `failure` is what `progress` raised, which stops the build."""

    progress: Progress
    steps: dict[str, tuple[int, int]] = field(default_factory=dict)
    failure: BaseException | None = None

    def start(self, phase: str, steps: int) -> None:
        """A phase begins, maybe within another."""
        self.steps[phase] = (0, steps)
        self._tell()

    def step(self, phase: str, step: int) -> bool:
        """One step of a phase is done; whether to go on."""
        self.steps[phase] = (step + 1, self.steps.get(phase, (0, step + 1))[1])
        self._tell()
        return self.failure is None

    def finish(self, phase: str) -> None:
        """A phase ends, maybe before its last step."""
        self.steps.pop(phase, None)

    def _tell(self) -> None:
        """An exception must not reach TensorRT, which cannot carry it."""
        try:
            self.progress("building the engine: " + ", ".join(f"{p} {n}/{of}" for p, (n, of) in self.steps.items()))
        except BaseException as error:
            self.failure = error


def monitor(watch: Watch) -> trt.IProgressMonitor:
    """The object that TensorRT tells how far it is."""
    import tensorrt as trt

    class Monitor(trt.IProgressMonitor):
        """Hands on to `watch`."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            """Called by TensorRT."""
            watch.start(phase_name, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            """Called by TensorRT; False stops the build."""
            return watch.step(phase_name, step)

        def phase_finish(self, phase_name: str) -> None:
            """Called by TensorRT."""
            watch.finish(phase_name)

    return Monitor()
