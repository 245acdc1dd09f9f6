"""What onnxruntime's profile tells: how long each node takes, and where it runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from graphprune.errors import BackendError

from .base import LayerChoice

if TYPE_CHECKING:
    import onnxruntime as ort

_RUNS = 10
_SUFFIX = "_kernel_time"


def profiled(
    make: Callable[[str], ort.InferenceSession], run: Callable[[ort.InferenceSession], object]
) -> tuple[LayerChoice, ...]:
    """The nodes of a session in order, with their median time; `make` takes the prefix of the file to write."""
    with TemporaryDirectory(prefix="graphprune-profile-") as folder:
        session = make(str(Path(folder, "profile")))
        for _ in range(_RUNS + 1):
            run(session)
        text = Path(session.end_profiling()).read_text(encoding="utf-8")
    try:
        return nodes(json.loads(text))
    except (ValueError, KeyError, TypeError) as error:
        raise BackendError(f"onnxruntime's profile cannot be read ({type(error).__name__}: {error})") from error


def nodes(events: list[dict[str, Any]]) -> tuple[LayerChoice, ...]:
    """The nodes of a profile with the median of all runs but the first, which warms up."""
    runs = sorted((e for e in events if e["cat"] == "Session" and e["name"] == "model_run"), key=lambda e: int(e["ts"]))
    start = runs[1]["ts"] if len(runs) > 1 else 0
    whole = median(e["dur"] for e in runs[1:] or runs) if runs else 0
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for event in events:
        if event["cat"] == "Node" and event["name"].endswith(_SUFFIX) and event["ts"] >= start:
            key = (event["name"].removesuffix(_SUFFIX), str(event["args"].get("node_index", "")))
            found.setdefault(key, []).append(event)
    return tuple(_node(name, same, max(len(runs) - 1, 1), whole) for (name, _), same in found.items())


def _node(name: str, events: list[dict[str, Any]], runs: int, whole: float) -> LayerChoice:
    """One node; in the body of a loop it may run several times per run, or not in every run."""
    arguments = events[0]["args"]
    kind = str(arguments.get("op_name", ""))
    took = median(e["dur"] for e in events) * len(events) / runs
    return LayerChoice(
        name or kind,
        kind,
        str(arguments.get("provider", "")),
        _precision(arguments.get("input_type_shape") or []),
        seconds=took / 1e6,
        share=took / whole if whole else None,
    )


def _precision(inputs: list[dict[str, Any]]) -> str:
    """The type of the first input."""
    return next(iter(inputs[0]), "") if inputs else ""
