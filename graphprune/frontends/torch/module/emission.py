"""Out of the compiler: the caller's own class if it computes what the graph computes, else the graph module."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphprune.ir.graph import Graph

from ...chance import Alike, Full, Left
from ...treatment import Treatment
from ..capture.refusals import first_line
from ..origin import origin_of
from ..run.drawing import is_random
from ..run.execute import example_inputs, instrument, random_inputs, run
from ..run.modes import split_inputs
from ..write.graph_module import to_graph_module
from .adapting import Adapting, Trial
from .causes import Cause, why_not
from .narrow import narrowed
from .own_class import rebuild
from .rehearsal import training_problem
from .rescaling import rescaled
from .shortening import Shortening, shortenings

# Largest difference, relative to the largest magnitude, at which two runs of the same operators agree.
_TOLERANCE = {"float16": 2e-2, "bfloat16": 1e-1}
#: The tolerance is of the size of an output, but at most so many times how much it varies, and at least so much of its
#: size (rounding).
_OF_VARIATION, _OF_SIZE = 10.0, 0.1


@dataclass(frozen=True)
class Emitted:
    """A module written back.

    `form` is "module" for the caller's own class and "graph" for an `fx.GraphModule`; `reason` says what was adapted
    or why the own class does not do. `inputs` are example inputs it takes; `dynamic` is False where no other batch size
    than theirs will do. `alerts` are sentences that must not be missed: what training loses. `whole` is the model with
    the module in the place of the part that was captured, where it was a part. `blame` names the nodes whose sizes the
    code of a class holds that does not do.
    """

    module: nn.Module
    form: Literal["module", "graph"]
    reason: str
    inputs: Any = field(default=None, repr=False)
    dynamic: bool = True
    alerts: tuple[str, ...] = ()
    whole: nn.Module | None = None
    blame: tuple[str, ...] = ()


def emit(graph: Graph, *, own_class: bool = True, trial: Trial | None = None) -> Emitted:
    """Write a graph back as a module, each submodule in the mode that the caller's is in.

    The own class is taken where `trial` finds nothing wrong with it: first as rebuilt, then with size attributes
    adapted. Without one, it is run beside the graph on the example and on random inputs, and rehearsed. Where a pass
    has taken tensors out of the graph (with a layer, or a folded batch norm), the modules that read them are taken out.
    """
    origin = origin_of(graph)
    example = example_inputs(graph)
    if origin.module is None:
        return _as_graph(graph, origin.classless, example)
    if not own_class:
        reason = "its own class was found to compute something else"
        return Emitted(to_graph_module(graph), "graph", reason, example, alerts=_lost(graph))
    left = taken_out(graph)
    ways = shortenings(graph, left) if left else [_as_it_is]
    if not ways:
        reason = f"{type(origin.module).__name__} reads {left[0]}, which the rewritten graph does without"
        return _as_graph(graph, reason, example)
    beside = trial or Beside(graph, [random_inputs(graph, 1), random_inputs(graph, 2), example])
    cause: Cause | None = None
    for way in ways:
        try:
            module, note, found = _own(graph, way, beside)
        except Exception as error:
            return _as_graph(graph, f"the module cannot be copied: {first_line(error)}", example)
        if not found:
            emitted = Emitted(module, "module", note, example)
            return emitted if trial is not None else rehearsed(graph, emitted, beside)
        cause = cause or why_not(graph, module, found)
    assert cause is not None
    reason = f"{type(origin.module).__name__} as it stands does not do: {cause.text}"
    return replace(_as_graph(graph, reason, example), blame=cause.nodes)


def rehearsed(graph: Graph, emitted: Emitted, trial: Trial) -> Emitted:
    """An own class after a step of training beside the original. Where that fails, attributes that only training reads
    are looked for; where they do not help, it stays what it is at inference, and an alert says what fails.
    """
    if emitted.form != "module":
        return emitted
    problem = training_problem(graph, emitted.module)
    if not problem:
        return emitted
    if not taken_out(graph):
        module = rebuild(graph)
        adapted = Adapting(graph, module, emitted.inputs).search(lambda m: trial(m) or training_problem(graph, m))
        if adapted is not None:
            return replace(emitted, module=module, reason=f"adapted {adapted}")
    return replace(emitted, alerts=(f"The pruned {type(emitted.module).__name__} is for inference only: {problem}",))


def taken_out(graph: Graph) -> list[str]:
    """Tensors that a pass has taken out of a graph."""
    origin = origin_of(graph)
    return sorted((origin.read & origin.tensors.tensors.keys()) - graph.weights().keys())


def _lost(graph: Graph) -> tuple[str, ...]:
    """What a graph module does without: results and tensors that only training has."""
    if graph.training is None:
        return ()
    known = {value for node in graph.nodes for value in node.reads()}
    idle = {n.name for n in origin_of(graph).idle}
    nodes = [n for n in graph.training.nodes if n.name not in idle]
    left = [v.shown for n in nodes for v in n.reads() if v.weight is not None and v.weight.tied and v not in known]
    more = len(graph.training.outputs) - len(graph.outputs)
    if not left and more <= 0:
        return ()
    first = f" ({left[0]}{f' and {len(set(left)) - 1} more' if len(set(left)) > 1 else ''})" if left else ""
    results = f", and its training gives {more} more results" if more > 0 else ""
    return (f"The result is a GraphModule without what only training computes{first}{results}",)


def _as_it_is(module: nn.Module) -> str:
    return ""


def _own(graph: Graph, way: Shortening, trial: Trial) -> tuple[nn.Module, str, str]:
    """The own class, shortened in one way and adapted where it has to be; what was done to it, and what is wrong."""
    module = rebuild(graph)
    adapting = Adapting(graph, module, example_inputs(graph))
    note = "; ".join(filter(None, (way(module), narrowed(module))))
    problem = trial(module)
    if not problem:
        return module, note, ""
    adapted, scaled = adapting.search(trial), ""
    if adapted is None:
        scaled = rescaled(graph, module)
        problem = trial(module) or ("" if scaled else problem)
        if not scaled or problem:
            return module, note, problem
        adapted = adapting.describe()
    return module, "; ".join(filter(None, (note, f"adapted {adapted}" if adapted else "", scaled))), ""


def _as_graph(graph: Graph, reason: str, example: Any) -> Emitted:
    """The graph module for any size of the batch where that can be shown, else for that of the example."""
    if any(v.dynamic for v in graph.inputs):
        module = to_graph_module(graph, dynamic=True)
        if _follows_batch(graph, module):
            return Emitted(module, "graph", reason, example, alerts=_lost(graph))
    reason = f"{reason}; it takes the example's sizes only"
    return Emitted(to_graph_module(graph), "graph", reason, example, dynamic=False, alerts=_lost(graph))


def _follows_batch(graph: Graph, module: nn.Module) -> bool:
    """Whether two batches run together give what each gives alone (where all sizes are those of the example)."""
    origin = origin_of(graph)
    moving = {v.name for v in graph.inputs if v.dynamic}
    moves = [name in moving for name in origin.placeholders]
    axes = [next(iter(v.dynamic), None) for v in graph.outputs]
    try:
        leaves, spec = pytree.tree_flatten(split_inputs(example_inputs(graph)))
        fresh = pytree.tree_leaves(split_inputs(random_inputs(graph, 1)))
        other = [b if m else a for a, b, m in zip(leaves, fresh, moves, strict=True)]
        both = [torch.cat([a, b]) if m else a for a, b, m in zip(leaves, other, moves, strict=True)]
        script = Alike() if is_random(graph) else None
        given = (_call(pytree.tree_unflatten(x, spec)) for x in (leaves, other, both))
        first, second, joined = (run(module, x, script=script) for x in given)
        pairs = zip(first, second, axes, strict=True)
        expected = [a if axis is None else np.concatenate([a, b], axis) for a, b, axis in pairs]
        return not difference(joined, expected)
    except Exception:
        return False


def _call(given: tuple[Any, Any]) -> Any:
    """Arguments as `run` takes them."""
    args, kwargs = given
    return kwargs if kwargs and not args else args


class Beside:
    """Runs modules beside a graph; the answer is what is wrong, or nothing."""

    def __init__(self, graph: Graph, inputs: list[Any]) -> None:
        self._inputs = inputs
        full = Full() if is_random(graph) else None
        self._script = Left(full) if full is not None else None
        reference = instrument(graph, Treatment())
        self._expected = [run(reference, i, script=full) for i in inputs]
        self._varied = [_variation([outputs[i] for outputs in self._expected]) for i in range(len(self._expected[0]))]

    def __call__(self, module: nn.Module) -> str:
        """What is wrong with a module; empty if nothing is."""
        try:
            for inputs, expected in zip(self._inputs, self._expected, strict=True):
                problem = difference(run(module, inputs, script=self._script), expected, self._varied)
                if problem:
                    return problem
        except Exception as error:
            return first_line(error)
        return ""


def _variation(runs: list[np.ndarray]) -> float:
    """How much an output varies with the input; infinite where that cannot be told."""
    if runs[0].size == 0 or any(run.shape != runs[0].shape for run in runs):
        return math.inf
    stack = np.stack([np.abs(run) if np.iscomplexobj(run) else run.astype(np.float64) for run in runs])
    return float(np.where(np.isfinite(stack), stack, 0.0).std(axis=0).mean())


def difference(got: list[np.ndarray], expected: list[np.ndarray], varied: list[float] | None = None) -> str:
    """What sets two lists of arrays apart, beyond rounding; empty if nothing does.

    `varied` says how much each output varies with the input: where that is little, little is allowed.
    """
    if [a.shape for a in got] != [a.shape for a in expected]:
        return f"results of shape {[a.shape for a in got]} where {[a.shape for a in expected]} were expected"
    for a, b, unit in zip(got, expected, varied or [math.inf] * len(got), strict=True):
        if a.size == 0:
            continue
        tolerance = _TOLERANCE.get(str(b.dtype), 1e-4)
        wide = np.complex128 if np.iscomplexobj(b) else np.float64
        x, y = a.astype(wide), b.astype(wide)
        finite = np.isfinite(y)
        scale = float(np.abs(y[finite]).max()) if finite.any() else 0.0
        scale = min(scale or 1.0, max(_OF_VARIATION * unit, _OF_SIZE * scale or 1.0))
        if not np.allclose(x, y, rtol=0.0, atol=tolerance * scale, equal_nan=True):
            return f"results differ by {float(np.nanmax(np.abs(x - y))):.2g}"
    return ""
