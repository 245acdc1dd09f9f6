"""Out of the compiler: the caller's own class if it computes what the graph computes, else the graph module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from torch import nn

from ...graph import Graph
from ..treatment import Treatment
from .execute import instrument, random_inputs, run
from .graph_module import to_graph_module
from .origin import origin_of
from .own_class import Setting, apply_setting, rebuild, settings, size_changes
from .tracing import first_line

# Largest difference, relative to the largest magnitude, at which two runs of the same operators agree.
_TOLERANCE = {"float16": 2e-2, "bfloat16": 1e-1}


@dataclass(frozen=True)
class Emitted:
    """A module written back.

    `form` is "module" for the caller's own class and "graph" for an `fx.GraphModule`; `reason` says what was adapted
    or why the own class does not do. `inputs` are example inputs it takes.
    """

    module: nn.Module
    form: Literal["module", "graph"]
    reason: str
    inputs: Any = field(default=None, repr=False)


def emit(graph: Graph) -> Emitted:
    """Write a graph back as a module, in eval mode.

    The own class is chosen by running it beside the graph module, on the example inputs and on random ones. It is out
    of the question where a pass has taken a tensor out of the graph (a folded batch norm) that the class would go on
    reading.
    """
    origin = origin_of(graph)
    example = origin.kwargs if origin.kwargs and not origin.args else origin.args
    if origin.module is None:
        return Emitted(to_graph_module(graph), "graph", "a .pt2 file holds no class", example)
    left = sorted(origin.read - graph.weights().keys())
    if left:
        reason = f"{type(origin.module).__name__} reads {left[0]}, which the rewritten graph does without"
        return Emitted(to_graph_module(graph), "graph", reason, example)
    trial = _Trial(instrument(graph, Treatment()), [example, random_inputs(graph, 1)])
    try:
        module = rebuild(graph)
    except Exception as error:
        return Emitted(to_graph_module(graph), "graph", f"the module cannot be copied: {first_line(error)}", example)
    problem = trial(module)
    if not problem:
        return Emitted(module, "module", "", example)
    adapted = _adapt(module, settings(module, size_changes(graph)), trial)
    if adapted is not None:
        return Emitted(module, "module", f"adapted {adapted}", example)
    reason = f"{type(origin.module).__name__} as it stands does not do: {problem}"
    return Emitted(to_graph_module(graph), "graph", reason, example)


class _Trial:
    """Compares modules with the reference; the answer is what is wrong, or nothing."""

    def __init__(self, reference: nn.Module, inputs: list[Any]) -> None:
        self._inputs = inputs
        self._expected = [run(reference, i) for i in inputs]

    def __call__(self, module: nn.Module) -> str:
        try:
            for inputs, expected in zip(self._inputs, self._expected, strict=True):
                problem = difference(run(module, inputs), expected)
                if problem:
                    return problem
        except Exception as error:
            return first_line(error)
        return ""


def difference(got: list[np.ndarray], expected: list[np.ndarray]) -> str:
    """What sets two lists of arrays apart, beyond rounding; empty if nothing does."""
    if [a.shape for a in got] != [a.shape for a in expected]:
        return f"results of shape {[a.shape for a in got]} where {[a.shape for a in expected]} were expected"
    for a, b in zip(got, expected, strict=True):
        if a.size == 0:
            continue
        tolerance = _TOLERANCE.get(str(b.dtype), 1e-4)
        wide = np.complex128 if np.iscomplexobj(b) else np.float64
        x, y = a.astype(wide), b.astype(wide)
        finite = np.isfinite(y)
        scale = float(np.abs(y[finite]).max()) if finite.any() else 0.0
        if not np.allclose(x, y, rtol=0.0, atol=tolerance * (scale or 1.0), equal_nan=True):
            return f"results differ by {float(np.nanmax(np.abs(x - y))):.2g}"
    return ""


def _adapt(module: nn.Module, found: list[Setting], trial: Callable[[nn.Module], str]) -> str | None:
    """Try size attributes at their new values: all, then those with several candidates one by one."""
    if not found:
        return None
    chosen = {s: s.candidates[0] for s in found}
    for setting, value in chosen.items():
        apply_setting(module, setting, value)
    if not trial(module):
        return _describe(chosen)
    for setting in found[:16]:
        for value in (setting.before, *setting.candidates[1:]):
            apply_setting(module, setting, value)
            if not trial(module):
                chosen[setting] = value
                return _describe(chosen)
        apply_setting(module, setting, chosen[setting])
    return None


def _describe(chosen: dict[Setting, Any]) -> str:
    moved = [f"{s.path}.{s.name}: {s.before} -> {v}".lstrip(".") for s, v in chosen.items() if v != s.before]
    more = f" and {len(moved) - 3} more" if len(moved) > 3 else ""
    return ", ".join(moved[:3]) + more
