"""Pipelines of passes: from text to passes, and through them one after the other, each checked and timed."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from graphprune.errors import BackendError, InputError, PassError, VerificationError
from graphprune.ir.graph import Graph
from graphprune.options import fill

from . import (  # noqa: F401
    cast_precision,
    cleanup,
    fold_batchnorm,
    fold_constants,
    matmul_to_gemm,
    permute,
    remove_blocks,
    remove_channels,
    remove_dead,
    remove_identity,
    sparsify,
)
from .base import Pass, Remark, find

#: Called with the graph before and after a pass; raises where the pass has done harm, and may remark on it.
Check = Callable[[Graph, Graph, Pass], Sequence[Remark] | None]
#: Called with the graph after each pass.
Dump = Callable[[Graph, Pass], None]

_STEP = re.compile(r"\s*([\w-]+)\s*(?:\{([^{}]*)\})?\s*")


@dataclass(frozen=True)
class PassTiming:
    """One pass of a run: its time in seconds (checks left out), whether it changed the graph, and what it told."""

    name: str
    seconds: float
    changed: bool
    remarks: tuple[Remark, ...] = ()


class PassVerificationError(PassError, VerificationError):
    """A pass changed what the model computes; the message names the pass and those before it."""


@dataclass
class PassManager:
    """Runs passes in order. `verify_each` is called on each pass that changed something, `dump` after every pass."""

    passes: Sequence[Pass]
    verify_each: Check | None = None
    dump: Dump | None = None
    timings: list[PassTiming] = field(default_factory=list, init=False)

    def run(self, graph: Graph) -> Graph:
        """The graph after all passes, a new one where anything changed.

        Raises PassError where a pass fails or breaks the graph, InputError where its options do not suit the model.
        """
        self.timings = []
        for step in self.passes:
            graph = self._apply(step, graph)
            if self.dump is not None:
                self.dump(graph, step)
        return graph

    def _apply(self, step: Pass, graph: Graph) -> Graph:
        start = time.perf_counter()
        after, remarks = self._guarded(step, lambda: step.applied(graph))
        seconds = time.perf_counter() - start
        self._guarded(step, after.check)
        check = self.verify_each
        if check is not None and after is not graph:
            remarks = [*remarks, *(self._guarded(step, lambda: check(graph, after, step)) or ())]
        self.timings.append(PassTiming(step.name, seconds, after is not graph, tuple(remarks)))
        return after

    def _guarded(self, step: Pass, action: Callable[[], Any]) -> Any:
        """Run something for a pass; its failure names the pass and those before it."""
        try:
            return action()
        except (MemoryError, OSError):  # no fault of the pass
            raise
        except (InputError, BackendError) as error:
            raise type(error)(f"pass '{step.name}': {error}") from error
        except Exception as error:
            failure = PassVerificationError if isinstance(error, VerificationError) else PassError
            kind = "" if isinstance(error, PassError | VerificationError) else f"{type(error).__name__}: "
            raise failure(f"pass '{step.name}' broke the graph{self._history()}: {kind}{error}") from error

    def _history(self) -> str:
        done = ", ".join(timing.name for timing in self.timings)
        return f" (after {done})" if done else " (the first pass)"


def run_pipeline(
    graph: Graph, passes: Sequence[Pass], *, verify_each: Check | None = None, dump: Dump | None = None
) -> tuple[Graph, list[PassTiming]]:
    """Run passes in order; returns the new graph and each pass's time. See `PassManager`."""
    manager = PassManager(passes, verify_each, dump)
    return manager.run(graph), manager.timings


def parse_pipeline(text: str) -> list[Pass]:
    """The passes of a text such as `fold-batchnorm,remove-channels{macs=0.5 criterion=l2},cleanup`.

    A pass's options are the fields of its class; several values are joined by commas. Raises InputError.
    """
    found: list[Pass] = []
    position = 0
    while True:
        step = _STEP.match(text, position)
        if step is None:
            rest = text[position:].strip()
            what = f"'{rest}'" if rest else "nothing"
            raise InputError(f"pipeline '{text}': expected the name of a pass at position {position}, found {what}")
        position = step.end()
        if text[position : position + 1] == "{":
            raise InputError(f"pipeline '{text}': the '{{' after '{step[1]}' is not closed")
        if position < len(text) and text[position] != ",":
            rest = text[position:]
            raise InputError(f"pipeline '{text}': expected ',' after '{step[0].strip()}', found '{rest}'")
        found.append(fill(f"pass '{step[1]}'", find(step[1]), step[2] or ""))
        if position == len(text):
            return found
        position += 1
