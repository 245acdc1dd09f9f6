"""Random networks, random plans: the pruned model must compute what the masked original computes, and more (`checks`).

`make test` runs a fixed 200 networks and some of the seeds that `make fuzz` goes through by the thousand.
`GRAPHPRUNE_FUZZ=1000` runs that many others here, shrunk by hypothesis where they fail; `GRAPHPRUNE_SEED` repeats them.
"""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, currently_in_test_context, event, given, note, seed, settings
from hypothesis import strategies as st

from graphprune import ops
from graphprune.coupling import couple
from graphprune.errors import InputError
from graphprune.ir.graph import Graph
from graphprune.pruning.budgets import targets
from tests.helpers import graph_of, prune_coupling
from tests.properties.blocks import BLOCKS
from tests.properties.cases import CHOICES, Case, random_case
from tests.properties.checks import check

MORE = int(os.environ.get("GRAPHPRUNE_FUZZ", "0"))
SEED = int(os.environ.get("GRAPHPRUNE_SEED", str(int(time.time()) if MORE else 0)))
PROFILE = settings(
    max_examples=max(1, MORE // 2) if MORE else 100,
    deadline=None,
    database=None,
    derandomize=False,
    phases=[Phase.generate, Phase.shrink],
    suppress_health_check=list(HealthCheck),
    print_blob=True,
)


steps = st.tuples(st.sampled_from(sorted(BLOCKS)), st.integers(0, 11), st.integers(0, 11))
programs = st.lists(steps, min_size=1, max_size=7).map(tuple)
choices = {name: st.sampled_from(options) for name, options in CHOICES.items()}


def _event(name: str) -> None:
    if currently_in_test_context():
        event(name)


def prune(graph: Graph, target: targets.Target, grouped: str, align: int, number: int) -> None:
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
@given(st.builds(Case, st.just("torch"), programs, st.integers(0, 99), **choices))
def test_torch(case: Case) -> None:
    note(f"GRAPHPRUNE_SEED={SEED}: {case}")
    _event(check(case)["outcome"])


@PROFILE
@seed(SEED + 1)
@given(st.builds(Case, st.just("onnx"), programs, st.integers(0, 99), **choices))
def test_onnx(case: Case) -> None:
    note(f"GRAPHPRUNE_SEED={SEED}: {case}")
    _event(check(case)["outcome"])


@pytest.mark.parametrize("backend", ["torch", "onnx"])
def test_random_cases_are_seldom_vacuous(backend: str) -> None:
    """The seeds of `make fuzz`: most of them remove something."""
    rows: list[dict[str, Any]] = [check(random_case(number, backend)) for number in range(20)]
    assert sum(row["outcome"] == "pruned" for row in rows) >= 14


#: Blocks that hold a kind of their own in PyTorch only.
IN_TORCH = (
    *("activation", 3), *("reorder", 1), *("gated_channels", 0), *("unfolded", 0), *("scattered", 1), *("unbound", 1),
    *("repeats", 0), *("selective", 0), *("reorder", 0), *("pixels", 0), *("recurrent", 0),
    *("places_of_a_table", 0), *("rows_filled", 0), *("sliding", 1), *("sorted_experts", 0), *("neighbors", 1),
)  # fmt: skip


#: Kinds whose results jump where rounding decides: random networks would differ by chance. They have worked examples.
JUMPING = frozenset({"per_channel", "searchsorted"})
#: Kinds that draw random numbers: a plain original draws others than what is left of it. They have worked examples.
RANDOM = frozenset({"noise", "sample"})


def test_every_kind_occurs_in_some_random_network() -> None:
    """Each block alone, and some in PyTorch, hold every canonical kind."""
    found: Counter[str] = Counter()
    for name in sorted(BLOCKS):
        for choice in range(4):
            program = Case("onnx", ((name, choice, choice),), extra=("z", "ids")).program()
            graph = graph_of(program.onnx(opset=23, dynamic=True, computed=True))
            found.update(node.kind for node in graph.flat_nodes)
    names, numbers = IN_TORCH[::2], IN_TORCH[1::2]
    program = Case("torch", tuple((n, i, i) for n, i in zip(names, numbers, strict=True))).program()
    found.update(node.kind for node in graph_of(program, program.example).nodes)
    missing = {kind for kind in ops.kinds() if kind not in {*found, *JUMPING, *RANDOM, "unknown"}}
    assert not missing, "write a block for each of these"
