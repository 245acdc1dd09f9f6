"""Components of one group whose scores are unlike sums: each kind keeps its share."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import graphprune as gp
from graphprune.coupling import Coupling, couple
from graphprune.coupling.kinds import kinds
from graphprune.ops.base import Array
from graphprune.pruning.budgets import allocation, targets
from graphprune.pruning.criteria import magnitude
from tests.helpers import graph_of
from tests.ops.registry import Net, conv, image

WIDTH = 12


def split_block(inside: int) -> nn.Module:
    """Half of what `a` makes is passed on, half goes through residual convolutions first."""

    def call(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        left, right = m.n(m.a(x)).chunk(2, 1)
        once = right + m.b(right)
        return torch.relu(m.d(torch.cat([left, right, once, once + m.c(once)], 1)))

    inner = conv(WIDTH, WIDTH, 3), conv(WIDTH, WIDTH, 3)
    return Net(call, a=conv(inside, 2 * WIDTH), n=nn.BatchNorm2d(2 * WIDTH), b=inner[0], c=inner[1],
               d=conv(4 * WIDTH, 16))  # fmt: skip


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(split_block(3), split_block(16), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4))


@pytest.fixture(scope="module")
def coupling() -> Coupling:
    return couple(graph_of(network(), image()))


def split_groups(coupling: Coupling) -> list[Array]:
    """The halves of every split axis, as two rows of components."""
    found = [g.components.reshape(2, WIDTH) for g in coupling if ".a.weight[0]" in g.name]
    assert len(found) == 2
    return found


def test_pieces_of_a_split_are_kinds(coupling: Coupling) -> None:
    kind = kinds(coupling)
    for left, right in split_groups(coupling):
        assert len(set(kind[left])) == len(set(kind[right])) == 1 and kind[left[0]] != kind[right[0]]
    plain = next(g for g in coupling if ".d.weight[0]" in g.name)
    assert len(set(kind[plain.components[0]])) == 1


@pytest.mark.parametrize("name", sorted(magnitude.CRITERIA))
@pytest.mark.parametrize("target", ["channels=0.5", "channels=0.25", "macs=0.5", "params=0.5"])
def test_each_piece_of_a_split_keeps_the_same_share(coupling: Coupling, target: str, name: str) -> None:
    options = allocation.Options(align=2)
    keep = allocation.make_plan(
        coupling, magnitude.score(coupling, name), targets.Target.of(target), options, name
    ).kept(coupling)  # fmt: skip
    for left, right in split_groups(coupling):
        assert keep[left].sum() == keep[right].sum() > 1
        if target.startswith("channels"):
            assert keep[left].sum() == WIDTH * float(target[9:])


def test_the_best_of_each_piece_stay(coupling: Coupling) -> None:
    scores = magnitude.score(coupling, "l2", normalization="none")
    plan = allocation.make_plan(coupling, scores, targets.channels(0.5), allocation.Options(), "l2")
    keep = plan.kept(coupling)
    for piece in np.concatenate(split_groups(coupling)):
        assert scores[piece[keep[piece]]].min() >= scores[piece[~keep[piece]]].max()


def test_normalized_scores_of_kinds_have_equal_means(coupling: Coupling) -> None:
    scores = magnitude.score(coupling, "l1")
    for left, right in split_groups(coupling):
        assert scores[left].mean() == pytest.approx(1) and scores[right].mean() == pytest.approx(1)


def test_equal_pieces_leave_the_callers_class_as_it_is() -> None:
    """`chunk(2, 1)` still finds the pieces' border."""
    module = network().eval()
    result = gp.prune(module, image(), target=gp.channels(0.5))
    assert type(result.model) is type(module), result.report
    assert result.model[1].b.weight.shape == (WIDTH // 2, WIDTH // 2, 3, 3)


def test_kinds_of_few_are_ranked_together() -> None:
    """Slices of one channel each: a share of one means nothing, and the scores say which stay."""
    torch.manual_seed(0)
    parts = {f"p{i}": conv(1, 4) for i in range(6)}
    net = Net(lambda m, x: sum(getattr(m, f"p{i}")(m.a(x)[:, i : i + 1]) for i in range(6)), a=conv(3, 6), **parts)
    coupling = couple(graph_of(net, image()))
    assert len(set(kinds(coupling)[coupling.groups[0].components[0]])) == 1
