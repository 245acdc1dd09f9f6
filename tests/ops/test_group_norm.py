"""A group norm written with other operators, pruned, against torch's own group norm of what is left."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import conv2d, group_norm

from graphprune.coupling import couple
from graphprune.pruning.budgets import targets
from tests.helpers import prune_coupling, weight
from tests.ops.examples_all import EXAMPLES

NAMES = [
    "group_norm_as_instance_norm", "group_norm_as_instance_norm_whole", "group_norm_as_moments",
    "group_norm_as_moments_whole", "group_norm_as_variance", "group_norm_as_layer_norm",
]  # fmt: skip


@pytest.mark.parametrize("name", NAMES)
def test_it_is_the_group_norm_of_the_channels_left(name: str) -> None:
    example = next(e for e in EXAMPLES if e.name == name)
    graph = example.graph()
    pruned = prune_coupling(couple(graph, grouped=example.grouped), targets.channels(0.5))
    kept = [
        i for i, row in enumerate(weight(graph, "a.weight")) if (row == weight(pruned.graph, "a.weight")).any(0).any()
    ]
    counts = np.bincount(np.array(kept) // 4, minlength=3)
    assert sorted(counts) == ([0, 4, 4] if example.grouped == "whole" else [2, 2, 2])

    def part(name: str, axis: int = 0) -> Any:
        return torch.from_numpy(weight(graph, name).take(kept, axis))

    x = torch.randn(2, 3, 6, 6)
    h = group_norm(conv2d(x, part("a.weight"), part("a.bias")), int((counts > 0).sum())) * part("s") + part("t")
    expected = conv2d(torch.relu(h), part("b.weight", 1), torch.from_numpy(weight(graph, "b.bias")))
    torch.testing.assert_close(pruned.model(x), expected, rtol=1e-4, atol=1e-5)
