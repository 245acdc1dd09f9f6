"""Reading onnxruntime's profile: medians per node, the part of the run, nodes of loops."""

from __future__ import annotations

from io import StringIO
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from graphprune.errors import BackendError
from graphprune.report.render import render_layers
from graphprune.runtimes.base import LayerChoice
from graphprune.runtimes.onnxruntime_profile import nodes, profiled


def _run(start: int, took: int, *inside: tuple[str, int]) -> list[dict[str, Any]]:
    events = [{"cat": "Session", "name": "model_run", "ts": start, "dur": took}]
    for name, time in inside:
        arguments = {"op_name": name.upper(), "provider": "P", "input_type_shape": [{"float16": [1]}]}
        events.append({"cat": "Node", "name": f"{name}_kernel_time", "ts": start + 1, "dur": time, "args": arguments})
    return events


def test_medians_without_the_first_run() -> None:
    events = [
        *_run(100, 900, ("a", 500), ("b", 300)),
        *_run(2000, 100, ("a", 60), ("b", 10), ("b", 10)),
        *_run(3000, 100, ("a", 40), ("b", 10), ("b", 10)),
    ]
    assert nodes(events) == (
        LayerChoice("a", "A", "P", "float16", seconds=50e-6, share=0.5),
        LayerChoice("b", "B", "P", "float16", seconds=20e-6, share=0.2),
    )


@pytest.mark.parametrize("text", ["no json", '[{"cat": "Session"}]'])
def test_what_cannot_be_read_is_said(text: str) -> None:
    def make(prefix: str) -> Any:
        path = Path(prefix + ".json")
        path.write_text(text)
        return SimpleNamespace(end_profiling=lambda: str(path))

    with pytest.raises(BackendError, match="onnxruntime's profile cannot be read"):
        profiled(make, lambda session: None)


def test_the_slowest_nodes_come_first() -> None:
    layers = [LayerChoice(f"n{i}", "Conv", "P", "float", seconds=i / 1e3, share=i / 100) for i in range(25)]
    console = Console(width=120, record=True, file=StringIO())
    render_layers("m.onnx", layers, console)
    shown = console.export_text()
    assert "m.onnx: the 20 slowest of 25 nodes" in shown
    assert shown.index("n24") < shown.index("n5 ")
    assert "24.000" in shown
    assert "24.0%" in shown
    assert "n4 " not in shown
