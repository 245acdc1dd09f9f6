"""Benchmarks of models of any kind, side by side on one runtime."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from . import frontends
from .calibration.random_inputs import random_inputs
from .errors import InputError
from .ir.graph import Case, Graph
from .ops import cost
from .runtimes import takes, timing
from .runtimes.base import Progress
from .runtimes.timing import Comparison, Timing

#: Sizes that every runtime tries by itself, and how many samples a model is looked at with.
_USUAL, _BATCH = frozenset({1, 2, 16, 224}), 2


def benchmark(
    models: Sequence[Any],
    runtime: str | None = None,
    *,
    threads: int | None = 1,
    input_shapes: Any = None,
    example_inputs: Any = None,
    memory: bool = True,
    layers: bool = False,
    progress: Progress | None = None,
) -> Comparison:
    """Time models in turns (A B A B ...) and measure their size.

    `models` are files, folders, `package.module:factory`, graphs, `onnx.ModelProto`s or (with `example_inputs`)
    `nn.Module`s; for a runtime of ONNX models PyTorch models are exported first. `runtime` is onnxruntime unless said
    otherwise (pytorch where a transformers folder is among the models) and may carry options, as in
    `tensorrt{precision=fp16}`; `layers` asks it what it made of each layer. The first model is what ratios refer to.
    Raises InputError for a model that does not fit the runtime.
    """
    if not models:
        raise InputError("there is nothing to time: give at least one model")
    folders = any(isinstance(m, str | Path) and Path(m).is_dir() for m in models)
    runtime = runtime or ("pytorch" if folders else "onnxruntime")
    with TemporaryDirectory(prefix="graphprune-bench-") as folder:
        prepared = [
            _prepare(m, runtime, Path(folder) / f"{i}.onnx", input_shapes, example_inputs) for i, m in enumerate(models)
        ]
        first = prepared[0][2] if all(graph.frontend == "onnx" for _, graph, _ in prepared) else None
        found = timing.compare(
            [model for model, _, _ in prepared],
            runtime=runtime,
            threads=threads,
            feeds=[feed if first is None else first for _, _, feed in prepared],
            input_shapes=input_shapes,
            labels=_labels(models),
            memory=memory,
            layers=layers,
            progress=progress,
        )
        rows = tuple(
            _sized(row, source, model, graph)
            for row, source, (model, graph, _) in zip(found.rows, models, prepared, strict=True)
        )
    return Comparison(rows, found.environment)


def _prepare(model: Any, runtime: str, path: Path, input_shapes: Any, example_inputs: Any) -> tuple[Any, Graph, Any]:
    """What the runtime compiles, the graph to count on, and inputs where the model has its own."""
    graph = frontends.read(model, example_inputs, input_shapes)
    if isinstance(model, str | Path) and graph.frontend == "checkpoint":
        if not runtime.startswith("pytorch"):
            raise InputError(f"the runtime '{runtime}' does not run transformers folders; use pytorch")
        ready, feed = frontends.of(graph).pretrained(graph)
        return ready, graph, feed
    feed = feed_for(graph, given=input_shapes is not None and len(input_shapes) > 0)
    return (*_compiled(model, graph, runtime, path), feed)


def feed_for(graph: Graph, *, given: bool) -> Any:
    """Inputs for an ONNX model that does not run at just any: at the sizes found for it, one sample, or given ones."""
    if graph.frontend != "onnx":
        return None
    if graph.cases:
        case = next((case for case in graph.cases if given and not case.shapes), graph.cases[0])
        return random_inputs(graph, 0, case)
    found = {size for axes in graph.assumed.values() for size in axes.values()}
    if given or found <= _USUAL:
        return None
    shapes = {
        v.name: tuple(1 if n == _BATCH and str(a) in _axes(graph, v.name) else n for a, n in enumerate(v.sizes))
        for v in graph.inputs
        if v.shape is not None
    }
    return random_inputs(graph, 0, Case({}, shapes))


def _axes(graph: Graph, name: str) -> set[str]:
    """The axes of an input whose sizes were assumed."""
    return {axis.partition(" ")[0] for axis in graph.assumed.get(name, {})}


def _compiled(model: Any, graph: Graph, runtime: str, path: Path) -> tuple[Any, Graph]:
    onnx_runtime = takes(runtime) == "onnx"
    if graph.frontend == "torch" and onnx_runtime:
        frontends.save(graph, path)
        return str(path), graph
    if graph.frontend == "onnx" and not onnx_runtime:
        raise InputError(f"the runtime '{runtime}' does not run ONNX models; use onnxruntime")
    if isinstance(model, str | Path) and graph.frontend == "onnx":
        return str(model), graph
    if isinstance(model, Graph | str | Path):
        emitted = frontends.emit(graph)
        return getattr(emitted, "module", emitted), graph
    return model, graph


def _labels(models: Sequence[Any]) -> list[str]:
    """Short names where they tell the models apart."""
    short = [Path(m).name if isinstance(m, str | Path) else f"{i}: {type(m).__name__}" for i, m in enumerate(models)]
    return short if len(set(short)) == len(short) else [str(m) for m in models]


def _sized(row: Timing, source: Any, model: Any, graph: Graph) -> Timing:
    size = None
    if isinstance(source, str | Path) and Path(source).is_dir():
        size = sum(file.stat().st_size for file in Path(source).glob("*.safetensors"))
    elif isinstance(source, str | Path) and graph.frontend == "onnx":
        size = frontends.original_bytes(graph)
    elif isinstance(model, str):
        size = sum(p.stat().st_size for p in (Path(model), Path(f"{model}.data")) if p.exists())
    elif hasattr(model, "ByteSize"):
        size = model.ByteSize()
    return replace(row, file_bytes=size, parameters=graph.parameter_count(), macs=cost.macs(graph))
