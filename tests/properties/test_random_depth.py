"""Random networks, random blocks: what is left must compute what the masked original computes."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given, note, seed, settings
from hypothesis import strategies as st

from graphprune import depth, frontends
from graphprune.coupling import couple
from graphprune.ir.graph import Graph
from graphprune.passes.remove_blocks import remove_blocks
from graphprune.verification import proof
from tests.helpers import graph_of
from tests.properties.programs import Program
from tests.properties.test_random_networks import PROFILE, SEED, programs

FEWER = settings(PROFILE, max_examples=max(25, PROFILE.max_examples // 6))


def shorten(graph: Graph, number: int) -> None:
    """Take out some blocks and branches, chosen at random, and compare."""
    found = depth.find_blocks(graph)
    generator = np.random.default_rng(number)
    chosen = [block for block in found if generator.random() < 0.5] or found
    if not chosen:
        return
    note(f"without {[str(block) for block in chosen]}")
    after = remove_blocks(graph, chosen)
    after.check()
    emitted = frontends.emit(after)
    coupling = couple(graph)
    keep = np.ones(coupling.count, bool)
    result = proof.verify(coupling, keep, getattr(emitted, "module", emitted), without=chosen)
    assert result.passed, result
    assert [v.shape for v in after.outputs] == [v.shape for v in graph.outputs]


@FEWER
@seed(SEED + 2)
@given(programs, st.integers(1, 2), st.integers(0, 99))
def test_torch(program: Any, batch: int, number: int) -> None:
    note(f"GRAPHPRUNE_SEED={SEED}: Program({program!r}, {number}, {batch})")
    module = Program(program, number, batch)
    shorten(graph_of(module, module.example), number)


@FEWER
@seed(SEED + 3)
@given(programs, st.integers(1, 2), st.integers(0, 99))
def test_onnx(program: Any, batch: int, number: int) -> None:
    note(f"GRAPHPRUNE_SEED={SEED}: Program({program!r}, {number}, {batch}).onnx()")
    shorten(graph_of(Program(program, number, batch).onnx()), number)
