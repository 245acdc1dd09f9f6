"""Whatever may trade places does so at random: every worked example computes what it did."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import graphprune as gp
from graphprune import frontends
from graphprune.coupling import couple
from graphprune.ir.graph import Graph
from graphprune.passes.permute import reorder
from graphprune.sparsity.permuting import alike
from graphprune.verification import proof
from tests.helpers import TIGHT
from tests.ops import examples_all  # noqa: F401
from tests.ops.registry import EXAMPLES, Example, Net


def trade_at_random(graph: Graph, grouped: str = "within", seed: int = 0) -> int:
    """Let all that are alike trade places, assert that nothing else changes, and count those that moved."""
    coupling, random = couple(graph, grouped=grouped), np.random.default_rng(seed)
    kinds, moved = alike(coupling), np.arange(coupling.count)
    for kind in np.unique(kinds[kinds >= 0]):
        own = np.flatnonzero(kinds == kind)
        moved[own] = own[random.permutation(len(own))]
    emitted = frontends.emit(reorder(coupling, moved))
    model = getattr(emitted, "module", emitted)
    found = proof.verify(coupling, np.ones(coupling.count, bool), model, seed=seed)
    assert found.passed and found.max_error <= TIGHT, found
    return int((moved != np.arange(coupling.count)).sum())


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example.name)
def test_trades_in_every_worked_example(example: Example) -> None:
    trade_at_random(example.graph(), example.grouped)


def _layers(**more: nn.Module) -> dict[str, nn.Module]:
    return {"a": nn.Linear(16, 32), "out": nn.Linear(32, 4), **more}


def _running_sum(m: Net, x: torch.Tensor) -> torch.Tensor:
    return m.out(m.a(x).cumsum(-1))


def _sorted_positions(m: Net, x: torch.Tensor) -> torch.Tensor:
    y = m.a(x)
    return m.few(y.gather(-1, y.topk(8, -1).indices.sort(-1).values)) + m.out(y)


def _first_of_equals(m: Net, x: torch.Tensor) -> torch.Tensor:
    y = (m.a(x) - 0.5).relu()
    return m.more(m.b(x).gather(-1, y.topk(20, -1).indices)) + m.out(y)


def _pairs_swapped(m: Net, x: torch.Tensor) -> torch.Tensor:
    """Channels go in pairs; of every second pair the second channel comes first."""
    y = m.a(x).relu()
    first, second = y.unflatten(-1, (16, 2)).unbind(-1)
    order = torch.arange(32).view(16, 2)
    order[1::2] = order[1::2].flip(1)
    return m.by_two(first * second) + m.out(y[..., order.reshape(-1)])


def _one_label_moved(m: Net, x: torch.Tensor) -> torch.Tensor:
    """Two outputs of a group of a transposed convolution have one label, and are looked up in a wild order."""
    y = m.up(m.a(x).relu()[..., None])[..., 0]
    return m.last(y[:, [i * 5 % 64 for i in range(64)]])


@pytest.mark.parametrize(
    ("forward", "more", "moves"),
    [
        (_running_sum, {}, 0),
        (_sorted_positions, {"few": nn.Linear(8, 4)}, 0),
        (_first_of_equals, {"b": nn.Linear(16, 32), "more": nn.Linear(20, 4)}, 0),
        (_pairs_swapped, {"by_two": nn.Linear(16, 4)}, 8),
        (_one_label_moved, {"up": nn.ConvTranspose1d(32, 64, 1, groups=32), "last": nn.Linear(64, 4)}, 0),
    ],
    ids=lambda item: getattr(item, "__name__", ""),
)
def test_what_depends_on_order_keeps_its_place(forward: object, more: dict[str, nn.Module], moves: int) -> None:
    torch.manual_seed(0)
    net = Net(forward, **_layers(**more))  # type: ignore[arg-type]
    for seed in range(3):
        assert trade_at_random(gp.capture(net.eval(), torch.randn(5, 16)), seed=seed) >= moves
