"""How a foreign model is run for the proof: by which runtime, and by which other where that one refuses it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from graphprune import frontends
from graphprune.errors import BackendError, UnsupportedError, VerificationError
from graphprune.frontends.chance import Left, Script
from graphprune.frontends.treatment import Treatment
from graphprune.ir.graph import Case, Graph
from graphprune.ops.base import Array
from graphprune.ops.cost import macs

from .random_inputs import random_inputs

Runner = Callable[[Any], Sequence[np.ndarray]]
Progress = Callable[[float], None]

#: What a model in integers of few bits is run in, to see what it computes but for their rounding.
UNROUNDED = "float without quantisers"
#: Types whose values are rounded to few bits.
_STEPPED = frozenset({"int8", "uint8", "int4", "uint4"})

#: Multiply-accumulates of a model that onnx's reference evaluator runs in a minute or so.
_MOST_MACS = 2_000_000_000


class _Module:
    """Runs a module; several inputs at once, which a graph that reads its weights from files prefers."""

    def __init__(self, frontend: Any, module: Any, script: Script | None) -> None:
        self._frontend, self._module, self._script = frontend, module, script

    def __call__(self, feed: Any) -> Sequence[np.ndarray]:
        found: Sequence[np.ndarray] = self._frontend.run(self._module, feed, script=self._script)
        return found

    def together(self, feeds: Sequence[Any], progress: Progress | None) -> Sequence[Sequence[np.ndarray]]:
        """What it returns for each input."""
        found: Sequence[Sequence[np.ndarray]] = self._frontend.run_all(self._module, feeds, progress, self._script)
        return found


def together(run: Runner, feeds: Sequence[Any], progress: Progress | None = None) -> Sequence[Sequence[np.ndarray]]:
    """What a runner returns for each of several inputs; `progress` is told the part that is done, where it is known."""
    at_once = getattr(run, "together", None)
    return at_once(feeds, progress) if at_once is not None else [run(feed) for feed in feeds]


def runner(graph: Graph, model: Any, script: Script | None = None) -> Runner:
    """Runs a foreign model (`ModelProto`, path or `nn.Module`) of this graph's framework.

    Where the graph draws random numbers, those of the `script` (see `draws.py`) are taken.
    """
    if graph.frontend != "onnx":
        return _Module(frontends.of(graph), model, script if frontends.of(graph).is_random(graph) else None)
    from graphprune.runtimes import get

    model = _scripted(graph, model, script)
    runtime = get("onnxruntime-unoptimized" if rounds(graph) else "onnxruntime")
    try:
        return runtime.compile(model).run
    except BackendError:
        wide = model if isinstance(model, str | Path) else frontends.of(graph).widened(model)
        if wide is model:
            raise
        run = runtime.compile(wide).run
        return lambda feed: run({name: _in_float32(array) for name, array in feed.items()})


def _scripted(graph: Graph, model: Any, script: Script | None) -> Any:
    """An ONNX model that takes what is left of the original's numbers with it; the original has its own already."""
    if not isinstance(script, Left) or not frontends.of(graph).is_random(graph):
        return model
    return frontends.of(graph).scripted(graph, model, script)


def running_shapes(graph: Graph, model: Any) -> tuple[dict[str, tuple[int, ...]], dict[str, dict[str, int]]] | None:
    """Input shapes at which an ONNX model runs that refuses those assumed, and what is assumed then; None where it runs
    as it is, or at none that was tried.
    """
    from graphprune.runtimes import get

    try:
        run = get("onnxruntime-unoptimized").compile(model).run
    except BackendError:
        return None
    if _runs(run, random_inputs(graph, 0)):
        return None
    others = frontends.of(graph).other_sizes(graph)
    return next((found for found in others if _runs(run, random_inputs(graph, 0, Case({}, found[0])))), None)


def _runs(run: Runner, feed: Any) -> bool:
    try:
        run(feed)
    except BackendError:
        return False
    return True


def loading(graph: Graph) -> Callable[[Path], None]:
    """Looks at a written ONNX file: onnxruntime must load it, unless it refuses the original as well, or the file has
    operators of its owner's. Raises VerificationError.
    """
    from graphprune.runtimes import get

    runtime = get("onnxruntime-unoptimized")

    def check(path: Path) -> None:
        if not runtime.is_available() or frontends.custom_operators(graph):
            return
        try:
            runtime.compile(path)
        except BackendError as error:
            if not _refuses_original(graph):
                raise VerificationError(f"what would be written cannot be used, so nothing was: {error}") from error

    def _refuses_original(graph: Graph) -> bool:
        if graph.frontend != "onnx":
            return False
        try:
            runtime.compile(frontends.of(graph).instrument(frontends.of(graph).original(graph), Treatment()))
        except BackendError:
            return True
        return False

    return check


def unloaded(graph: Graph) -> list[str]:
    """What to say of a file that onnxruntime cannot load here."""
    custom = frontends.custom_operators(graph)
    if not custom:
        return []
    return [f"onnxruntime has no {', '.join(custom)}: the file was not loaded before it was written"]


def other_runner(
    graph: Graph, model: Any, feed: Any, error: BackendError, script: Script | None = None
) -> tuple[Runner, Callable[[Any], Runner], str]:
    """Where onnxruntime refuses the masked original (`model`): the way to run it by onnx's reference evaluator, the way
    to run candidates, and a sentence that says so. Candidates must run where the original file does.

    Raises `error`, with what the evaluator says, where that cannot run it either or would take too long.
    """
    if graph.frontend != "onnx" or macs(graph) > _MOST_MACS:
        raise error
    refused = _refusal(graph, feed)
    before = f"{refused} (that is the original file, before anything was removed)" if refused else str(error)
    try:
        run = reference_runner(graph, model)
        run(feed)
    except BackendError as other:
        raise type(error)(f"{before}; {other}") from error
    if refused:
        start, what = partial(reference_runner, graph, script=script), "both ran"
    else:
        start, what = partial(runner, graph, script=script), "the masked original ran"
    return run, start, f"{before}: {what} on onnx's reference evaluator"


def inner_runner(
    graph: Graph, model: Any, wanted: Mapping[str, str], start: Callable[[Any], Runner], script: Script
) -> Callable[[Any], dict[str, np.ndarray]]:
    """Runs a foreign model and gives the values of some names inside it, as far as it has them; `wanted` says for each
    the weight that makes it, `start` how its framework runs a model.
    """
    if graph.frontend != "onnx":
        own = script if frontends.of(graph).is_random(graph) else None
        return partial(frontends.of(graph).run_inner, model, wanted=wanted, script=own)
    with frontends.of(graph).tapped(model, [*wanted]) as (more, places):
        run = start(more) if places else None

    def inner(feed: Any) -> dict[str, np.ndarray]:
        found = [] if run is None else run(feed)
        return {name: found[at] for name, at in places.items()}

    return inner


def reference_runner(graph: Graph, model: Any, script: Script | None = None) -> Runner:
    """As `runner`, by onnx's reference evaluator."""
    from graphprune.runtimes import get

    run: Runner = get("reference").compile(_scripted(graph, model, script)).run
    return run


def _refusal(graph: Graph, feed: Any) -> str:
    """What onnxruntime says to the original file; empty where it runs that."""
    try:
        runner(graph, frontends.of(graph).instrument(graph, Treatment()))(feed)
    except BackendError as error:
        return str(error)
    return ""


def wide_type(graph: Graph) -> str:
    """The wider type in which a model can run: float64 in PyTorch, float32 for ONNX in float16, and for integers of few
    bits what they stand for; empty where none.
    """
    if graph.frontend == "torch":
        return "float64"
    if graph.frontend == "onnx" and rounds(graph):
        return UNROUNDED
    halves = graph.frontend == "onnx" and any(v.dtype.name == "float16" for v in graph.values())
    return "float32" if halves else ""


def wide_runner(graph: Graph, model: Any, script: Script | None = None) -> Runner:
    """As `runner`, in the graph's `wide_type`."""
    if graph.frontend == "torch":
        own = script if frontends.of(graph).is_random(graph) else None
        return partial(frontends.of(graph).run, model, wide=True, script=own)
    from graphprune.runtimes import get

    model = _scripted(graph, model, script)
    if rounds(graph):
        made = frontends.of(graph).unrounded(model)
        if made is None:
            raise UnsupportedError("something computes with integers of few bits")
        run: Runner = get("onnxruntime-unoptimized").compile(made).run  # what is stored in few bits may be fused
        return run
    run = get("onnxruntime").compile(frontends.of(graph).widened(model, halves=True)).run
    return lambda feed: run({name: _in_float32(array, halves=True) for name, array in feed.items()})


def rounds(graph: Graph) -> bool:
    """Whether the model computes with integers of few bits.

    Then runtimes must not optimise while it is proven: they merge roundings with the operators around them where they
    can see both, and between the two of the original stand the masks.
    """
    stored = any(v.weight is not None and not v.weight.plain for v in graph.weights().values())
    return stored or any(v.dtype.name in _STEPPED for node in graph.flat_nodes for v in node.outputs)


def _in_float32(array: Array, *, halves: bool = False) -> Array:
    wanted = array.dtype.name in ("bfloat16", "float64") or (halves and array.dtype.name == "float16")
    return array.astype(np.float32) if wanted else array
