"""Coupling whole graphs: reasons, unknown operators, flips, order, cost."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from graphprune.coupling import couple
from graphprune.coupling.labeller import Walk
from graphprune.errors import InputError
from graphprune.ir.graph import Graph
from tests.helpers import assert_equality, graph_of
from tests.ops.registry import Net, conv, image


def cumulative() -> Graph:
    net = Net(
        lambda m, x: (m.c(m.a(x).cumprod(1)), m.d(m.b(x))), a=conv(3, 4), b=conv(3, 6), c=conv(4, 2), d=conv(6, 2)
    )
    return graph_of(net, image())


def test_a_frozen_axis_names_the_node_and_the_reason() -> None:
    frozen = {(f.weight, f.axis): f for f in couple(cumulative()).frozen_axes()}
    found = frozen["a.weight", 0]
    assert (found.node, found.indices) == ("cumprod", 4)
    assert "mixes this axis" in found.reason
    assert frozen["c.weight", 0].reason.startswith("it makes the model's output 'conv2d")
    assert "the model's input" in frozen["a.weight", 1].reason and frozen["a.weight", 1].node == "conv2d"
    assert ("b.weight", 0) not in frozen


def test_an_unknown_operator_freezes_what_it_touches_and_is_reported() -> None:
    net = Net(
        lambda m, x: (torch.linalg.det(m.a(x)), torch.linalg.det(m.b(x)), m.d(m.c(x))),
        a=conv(3, 4), b=conv(3, 4), c=conv(3, 6), d=conv(6, 2),
    )  # fmt: skip
    coupling = couple(graph_of(net, image()))
    assert [(u.op, u.count) for u in coupling.unknown()] == [("aten._linalg_det", 2)]
    assert coupling.unknown()[0].first in {n.name for n in coupling.graph.nodes}
    assert [g.name for g in coupling] == ["c.weight[0]"]
    reason = next(f.reason for f in coupling.frozen_axes() if f.weight == "a.weight" and f.axis == 0)
    assert "unknown operator" in reason and "det" in reason


def test_a_split_whose_outer_factor_is_frozen_is_flipped() -> None:
    """Outer blocks meet an output; the inner positions are free, and half of them go."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m.b(m.a(x).unflatten(1, (3, 4)))

    graph = graph_of(Net(call, a=nn.Linear(5, 12), b=nn.Linear(4, 2)), torch.randn(2, 5))
    assert str(couple(graph)) == "4 of 3 exact: a.weight[0] a.bias[0] b.weight[1]"
    assert_equality(graph)


def test_the_width_of_single_heads_is_no_group_of_its_own() -> None:
    """Heads go whole; what is inside a head stays."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        q, k = (p(x).unflatten(-1, (4, 3)).transpose(1, 2) for p in (m.q, m.k))
        return m.o((q @ k.transpose(-2, -1)).softmax(-1).sum((2, 3)))

    net = Net(call, q=nn.Linear(5, 12), k=nn.Linear(5, 12), o=nn.Linear(4, 2))
    coupling = couple(graph_of(net, torch.randn(2, 6, 5)))
    assert [(g.size, g.width) for g in coupling] == [(4, 3)]


def test_groups_are_the_same_each_time() -> None:
    first, second = couple(cumulative()), couple(cumulative())
    assert str(first) == str(second) and first.fingerprint == second.fingerprint
    assert [g.components.tolist() for g in first] == [g.components.tolist() for g in second]


def test_members_are_ordered_like_channel_numbers() -> None:
    graph = graph_of(nn.Sequential(conv(3, 12), conv(12, 8, groups=4), conv(8, 2)), image())
    coupling = couple(graph)
    for group in coupling:
        axis = next(c for use, a, c in coupling.axes() if f"{use.value.name}[{a}]" == group.name)
        assert group.components.reshape(-1).tolist() == axis.tolist()


def test_grouped_must_be_known() -> None:
    with pytest.raises(InputError, match="grouped must be 'within' or 'whole', not 'none'"):
        couple(cumulative(), grouped="none")


def statements(depth: int) -> tuple[int, int]:
    """Labels and equalities of a residual chain."""
    layers = nn.ModuleList([conv(8, 8) for _ in range(depth)])

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        for layer in m.layers:
            x = x + torch.relu(layer(x))
        return x

    walk = Walk(graph_of(Net(call, layers=layers), torch.randn(1, 8, 2, 2)))
    walk.run()
    return walk.count, sum(len(a) for a, _, _ in walk.said.equal)


def test_labels_and_equalities_grow_linearly() -> None:
    (labels, edges), (twice_labels, twice_edges) = statements(20), statements(40)
    assert twice_labels <= 2.1 * labels and twice_edges <= 2.1 * edges
    assert edges <= 4 * labels


def test_labels_are_handed_on_not_copied() -> None:
    graph = graph_of(nn.Sequential(conv(3, 8), nn.ReLU(), nn.MaxPool2d(2), nn.ReLU(), conv(8, 2)), image())
    blocks = couple(graph).blocks
    arrays = {id(b.labels) for n in graph.nodes[:4] for v in n.outputs for b in blocks[v] if b.axes == (1,)}
    assert len(arrays) == 1


def test_inputs_and_outputs_stay_whole() -> None:
    graph = graph_of(nn.Sequential(conv(3, 8), conv(8, 2)), image())
    pruned = assert_equality(graph)
    shapes = {name: v.shape for name, v in pruned.graph.weights().items()}
    assert shapes == {"0.weight": (4, 3, 1, 1), "0.bias": (4,), "1.weight": (2, 4, 1, 1), "1.bias": (2,)}


def test_rows_of_a_table_that_no_input_reaches_stay() -> None:
    """A position table longer than the example: what lies beyond it is for longer inputs."""

    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.places, self.head = nn.Embedding(20, 8), nn.Embedding(32, 8), nn.Linear(8, 3)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return self.head(self.words(ids) + self.places(torch.arange(ids.shape[1])))

    coupling = couple(graph_of(Positions(), torch.randint(0, 20, (2, 6))))
    assert str(coupling) == "8 exact: words.weight[1] places.weight[1] head.weight[1]"
    frozen = {(f.weight, f.axis): f for f in coupling.frozen_axes()}
    assert frozen["places.weight", 0].indices == 32
