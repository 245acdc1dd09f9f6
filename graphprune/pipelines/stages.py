"""The stages that every command goes through: a model in, timed steps, the best form of what came out, proven."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

from graphprune import frontends
from graphprune.ir.graph import Graph
from graphprune.verification import proof as proving

Progress = Callable[[str], None]


class Clock:
    """Times stages and tells the caller which one runs."""

    def __init__(self, progress: Progress | None) -> None:
        self.seconds: dict[str, float] = {}
        self._progress = progress

    def say(self, step: str) -> None:
        """Tell the caller what is being done."""
        if self._progress is not None:
            self._progress(step)

    @contextmanager
    def __call__(self, stage: str) -> Any:
        """Time a stage."""
        self.say(stage)
        start = time.perf_counter()
        yield
        self.seconds[stage] = round(time.perf_counter() - start, 4)


def tried(reference: proving.Reference, pruned: Graph, emitted: Any) -> tuple[Any, proving.Proof]:
    """What was emitted, where it computes what it should, else the best that the frontend can make; and its proof."""
    if getattr(emitted, "form", None) == "module":
        try:
            proof = reference.compare(emitted.module)
        except Exception:  # the class cannot run with these sizes
            proof = None
        if proof is not None and not proof.failed:
            return emitted, proof
        emitted = frontends.emit(pruned, reference.problem)
    return emitted, reference.compare(model_of(emitted))


def model_of(emitted: Any) -> Any:
    """The model itself: the torch frontend also says which form it took."""
    return getattr(emitted, "module", emitted)


def given_back(emitted: Any) -> Any:
    """What the caller gets: the model, or that around it where only a part was captured."""
    whole = getattr(emitted, "whole", None)
    return model_of(emitted) if whole is None else whole
