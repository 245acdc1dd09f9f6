"""Shared by the tests of the heart: prune at random, prove it, and compare what a model computes before and after."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from graphprune import frontends
from graphprune.coupling import Coupling, couple
from graphprune.ir.graph import Graph
from graphprune.ops.base import Array
from graphprune.passes.remove_channels import remove_channels
from graphprune.pruning.budgets import allocation, targets
from graphprune.pruning.criteria import magnitude
from graphprune.pruning.plan import Plan
from graphprune.verification import proof

#: Worked examples are a few layers of float32: in units of the outputs' variation, rounding stays below this.
TIGHT = 5e-5


@dataclass
class Pruned:
    """Everything a test may want to look at after `prune_at_random`."""

    coupling: Coupling
    plan: Plan
    keep: Array
    graph: Graph
    model: Any
    proof: proof.Proof


def graph_of(model: Any, example: Any = None) -> Graph:
    """Capture a module (with an example) or load an `onnx.ModelProto` that passes the checker."""
    if example is None:
        import onnx

        onnx.checker.check_model(model, full_check=True)
        found: Graph = frontends.frontend("onnx").from_model(model)
    else:
        found = frontends.frontend("torch").capture(model.eval(), example)
    found.check()
    return found


def random_plan(coupling: Coupling, target: targets.Target, seed: int = 0, align: int | None = 1) -> Plan:
    """A plan with random scores."""
    scores = magnitude.score(coupling, "random", seed=seed)
    return allocation.make_plan(coupling, scores, target, allocation.Options(align=align, roles=("all",)), "random")


def prune_coupling(coupling: Coupling, target: targets.Target, seed: int = 0, align: int | None = 1) -> Pruned:
    """Prune by random scores, write the model back, and assert that the proof holds."""
    plan = random_plan(coupling, target, seed, align)
    keep = plan.kept(coupling)
    graph = remove_channels(coupling, keep)
    graph.check()
    emitted = frontends.emit(graph)
    model = getattr(emitted, "module", emitted)
    if coupling.graph.frontend == "onnx":
        import onnx

        onnx.checker.check_model(model, full_check=True)
    return Pruned(coupling, plan, keep, graph, model, proof.verify(coupling, keep, model, seed=seed))


def assert_equality(
    graph: Graph, ratio: float = 0.5, seeds: int = 3, limit: float = TIGHT, grouped: str = "within"
) -> Pruned:
    """Executed equality for several random plans; the last one is returned.

    Asserts that something was removed, that the proof holds within `limit`, that outputs kept their shapes and that the
    parameters a plan promises are those that are left.
    """
    coupling = couple(graph, grouped=grouped)
    for seed in range(seeds):
        pruned = prune_coupling(coupling, targets.channels(ratio), seed)
        assert not pruned.keep.all(), "the plan removes nothing"
        assert pruned.proof.passed and pruned.proof.max_error <= limit, pruned.proof
        assert [v.shape for v in pruned.graph.outputs] == [v.shape for v in graph.outputs]
        assert pruned.graph.parameter_count() < graph.parameter_count()
        assert pruned.graph.parameter_count() == pruned.plan.notes["params"]
    return pruned


def lines(graph: Graph, grouped: str = "within") -> str:
    """The coupling as text."""
    return str(couple(graph, grouped=grouped))


def weight(graph: Graph, name: str) -> np.ndarray:
    """A weight of a graph by name."""
    found = graph.weights()[name].weight
    assert found is not None
    return found.array()


def zero_in_fours(array: np.ndarray, axis: int) -> set[int]:
    """How many of each four neighbours along an axis are zero, counted one group at a time."""
    lines = np.moveaxis(array, axis, -1).reshape(-1, array.shape[axis])
    return {int((line[i : i + 4] == 0).sum()) for line in lines for i in range(0, len(line), 4)}
