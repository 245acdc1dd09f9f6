"""Random networks, random plans: the pruned model must compute what the masked original computes.

`make test` runs a fixed 200 networks; `GRAPHPRUNE_FUZZ=10000` runs that many others (set `GRAPHPRUNE_SEED` to repeat
a run). A failure prints the program that failed; hypothesis shrinks it first.
"""

from __future__ import annotations

import os
import time
from typing import Any

from hypothesis import HealthCheck, Phase, currently_in_test_context, event, given, note, seed, settings
from hypothesis import strategies as st

from graphprune import budgets
from graphprune.coupling import couple
from graphprune.errors import InputError
from graphprune.graph import Graph
from tests.helpers import graph_of, prune_coupling
from tests.properties.blocks import BLOCKS
from tests.properties.programs import Program

MORE = int(os.environ.get("GRAPHPRUNE_FUZZ", "0"))
SEED = int(os.environ.get("GRAPHPRUNE_SEED", str(int(time.time()) if MORE else 0)))
PROFILE = settings(
    max_examples=max(1, MORE // 2) if MORE else 150,
    deadline=None,
    database=None,
    derandomize=False,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)

steps = st.tuples(st.sampled_from(sorted(BLOCKS)), st.integers(0, 11), st.integers(0, 11))
programs = st.lists(steps, min_size=1, max_size=7)
targets = st.builds(
    budgets.Target, st.sampled_from(["channels", "channels", "params", "macs"]), st.sampled_from([0.25, 0.5, 0.7])
)
modes = st.sampled_from(["within", "whole"])
aligns = st.sampled_from([1, 1, 2, 4])


def _event(name: str) -> None:
    if currently_in_test_context():
        event(name)


def prune(graph: Graph, target: budgets.Target, grouped: str, align: int, number: int) -> None:
    """Couple, prune by random scores, write back, prove; small networks may have nothing that can go."""
    coupling = couple(graph, grouped=grouped)
    assert not coupling.unknown(), coupling.unknown()
    try:
        pruned = prune_coupling(coupling, target, number, align)
    except InputError as error:  # nothing prunable, or a budget out of reach: both say so
        _event(type(error).__name__)
        return
    assert pruned.proof.passed, pruned.proof
    assert [v.shape for v in pruned.graph.outputs] == [v.shape for v in graph.outputs]
    assert pruned.graph.parameter_count() <= graph.parameter_count()
    _event("pruned")


@PROFILE
@seed(SEED)
@given(programs, targets, modes, aligns, st.integers(1, 2), st.integers(0, 99))
def test_torch(program: Any, target: budgets.Target, grouped: str, align: int, batch: int, number: int) -> None:
    note(f"GRAPHPRUNE_SEED={SEED}: Program({program!r}, {number}, {batch})")
    module = Program(program, number, batch)
    prune(graph_of(module, module.example), target, grouped, align, number)


@PROFILE
@seed(SEED + 1)
@given(programs, targets, modes, aligns, st.integers(1, 2), st.integers(0, 99))
def test_onnx(program: Any, target: budgets.Target, grouped: str, align: int, batch: int, number: int) -> None:
    note(f"GRAPHPRUNE_SEED={SEED}: Program({program!r}, {number}, {batch}).onnx()")
    prune(graph_of(Program(program, number, batch).onnx()), target, grouped, align, number)
