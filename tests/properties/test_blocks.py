"""The two ways of writing a random network agree, and every block can be pruned on its own."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from graphprune.coupling import couple
from graphprune.pruning.budgets import targets
from graphprune.runtimes import get
from tests.helpers import graph_of, prune_coupling
from tests.properties.blocks import BLOCKS
from tests.properties.fused_operators import STEP
from tests.properties.programs import Program

#: In ONNX, these round activations to integers.
ROUNDED = ("integer_layers", "integer_joins")


@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_both_ways_of_writing_a_block_agree(name: str) -> None:
    for choice in range(6):
        module = Program([(name, choice, choice + choice // 3)], 0, 1)
        with torch.no_grad():
            expected = module(module.example)
        found = get("onnxruntime").compile(module.onnx()).run({"x": module.example.numpy()})
        for want, have in zip(expected, found, strict=True):
            atol = STEP if name in ROUNDED else 1e-5
            np.testing.assert_allclose(have, want.numpy(), rtol=1e-4, atol=atol)


@pytest.mark.parametrize("name", sorted(BLOCKS))
def test_every_block_loses_channels(name: str) -> None:
    """A block between two convolutions does not freeze the network."""
    graph = graph_of(Program([(name, 1, 1)], 0, 1).onnx())
    pruned = prune_coupling(couple(graph), targets.channels(0.5))
    assert pruned.proof.passed
    assert pruned.graph.parameter_count() < graph.parameter_count()
