"""Worked examples: products, einsum, embeddings, recurrent layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .registry import Net, example, parameter


@example(
    """
    8 exact: 0.weight[0] 0.bias[0] 2.weight[1]
    """
)
def mlp() -> Any:
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(4, 3)


@example(
    """
    8 exact: up[0] down[1]
    6 exact: right[1] last[0]
    """
)
def matrix_from_either_side() -> Any:
    """Token mixing: the weight stands left of the data, then right."""
    net = Net(
        lambda m, x: m.down @ torch.relu(m.up @ x) @ m.right @ m.last,
        up=parameter(8, 5),
        down=parameter(5, 8),
        right=parameter(3, 6),
        last=parameter(6, 2),
    )
    return net, torch.randn(2, 5, 3)


@example(
    """
    6 exact: a[0] b[0]
    """
)
def transposed_weights() -> Any:
    net = Net(lambda m, x: torch.relu(x @ m.a.T) @ m.b, a=parameter(6, 3), b=parameter(6, 2))
    return net, torch.randn(4, 3)


@example(
    """
    6 exact: a[0] b[0]
    """
)
def einsums() -> Any:
    net = Net(
        lambda m, x: torch.einsum("nlh,hd->nld", torch.einsum("nlc,hc->nlh", x, m.a), m.b),
        a=parameter(6, 3),
        b=parameter(6, 2),
    )
    return net, torch.randn(2, 4, 3)


@example(
    """
    8 renormalizing: table.weight[1] positions.weight[1] norm.weight[0] norm.bias[0] up.weight[1] down.weight[0]
    + down.bias[0]
    6 exact: up.weight[0] up.bias[0] down.weight[1]
    """
)
def tied_embedding() -> Any:
    """A language model's table: positions add to it, its transpose is the head."""

    def call(m: Any, ids: torch.Tensor) -> torch.Tensor:
        x = m.table(ids) + m.positions(torch.arange(ids.shape[1]))
        x = x + m.down(torch.relu(m.up(m.norm(x))))
        return nn.functional.linear(x, m.table.weight)

    net = Net(
        call,
        table=nn.Embedding(11, 8),
        positions=nn.Embedding(5, 8),
        norm=nn.LayerNorm(8),
        up=nn.Linear(8, 6),
        down=nn.Linear(6, 8),
    )
    return net, torch.randint(0, 11, (2, 5))


@example(
    """
    8 exact: trunk.weight[0] trunk.bias[0] boxes.weight[1] tower.weight[1]
    6 exact: tower.weight[0] tower.bias[0] scores.weight[1]
    """
)
def several_heads_and_outputs() -> Any:
    def call(m: Any, x: torch.Tensor) -> dict[str, Any]:
        y = torch.relu(m.trunk(x))
        return {"boxes": m.boxes(y), "others": [m.scores(torch.relu(m.tower(y)))]}

    return Net(
        call, trunk=nn.Linear(3, 8), tower=nn.Linear(8, 6), boxes=nn.Linear(8, 4), scores=nn.Linear(6, 2)
    ), torch.randn(4, 3)


@example(
    """
    5 exact: inp.weight[0] inp.bias[0] lstm.weight_ih_l0[1]
    8 of 4 exact: constant_zeros[2] constant_zeros_1[2] lstm.weight_ih_l0[0] lstm.weight_hh_l0[0]
    + lstm.weight_hh_l0[1] lstm.bias_ih_l0[0] lstm.bias_hh_l0[0] out.weight[1]
    """
)
def lstm() -> Any:
    net = Net(
        lambda m, x: m.out(m.lstm(m.inp(x))[0]),
        inp=nn.Linear(3, 5),
        lstm=nn.LSTM(5, 8, batch_first=True),
        out=nn.Linear(8, 2),
    )
    return net, torch.randn(2, 4, 3)


@example(
    """
    6 of 4 exact: constant_zeros[2] constant_zeros_1[2] lstm.weight_ih_l0[0] lstm.weight_hh_l0[0]
    + lstm.weight_hh_l0[1] lstm.bias_ih_l0[0] lstm.bias_hh_l0[0] lstm.weight_ih_l0_reverse[0]
    + lstm.weight_hh_l0_reverse[0] lstm.weight_hh_l0_reverse[1] lstm.bias_ih_l0_reverse[0]
    + lstm.bias_hh_l0_reverse[0] lstm.weight_ih_l1[0] lstm.weight_ih_l1[1] lstm.weight_hh_l1[0] lstm.weight_hh_l1[1]
    + lstm.bias_ih_l1[0] lstm.bias_hh_l1[0] lstm.weight_ih_l1_reverse[0] lstm.weight_ih_l1_reverse[1]
    + lstm.weight_hh_l1_reverse[0] lstm.weight_hh_l1_reverse[1] lstm.bias_ih_l1_reverse[0]
    + lstm.bias_hh_l1_reverse[0] out.weight[1]
    """
)
def lstm_deep_both_ways() -> Any:
    """Two layers, two directions: all share their hidden units, which a state tensor holds side by side."""
    net = Net(
        lambda m, x: m.out(m.lstm(x)[0]),
        lstm=nn.LSTM(3, 6, 2, bidirectional=True, batch_first=True), out=nn.Linear(12, 2),
    )  # fmt: skip
    return net, torch.randn(2, 4, 3)


@example(
    """
    5 exact: inp.weight[0] inp.bias[0] lstm.weight_ih_l0[1] lstm.weight_ih_l0_reverse[1]
    12 of 4 exact: constant_zeros_1[2] lstm.weight_ih_l0[0] lstm.weight_hh_l0[0] lstm.weight_hr_l0[1]
    + lstm.weight_ih_l0_reverse[0] lstm.weight_hh_l0_reverse[0] lstm.weight_hr_l0_reverse[1] lstm.weight_ih_l1[0]
    + lstm.weight_hh_l1[0] lstm.weight_hr_l1[1] lstm.weight_ih_l1_reverse[0] lstm.weight_hh_l1_reverse[0]
    + lstm.weight_hr_l1_reverse[1]
    4 exact: constant_zeros[2] lstm.weight_hh_l0[1] lstm.weight_hr_l0[0] lstm.weight_hh_l0_reverse[1]
    + lstm.weight_hr_l0_reverse[0] lstm.weight_ih_l1[1] lstm.weight_hh_l1[1] lstm.weight_hr_l1[0]
    + lstm.weight_ih_l1_reverse[1] lstm.weight_hh_l1_reverse[1] lstm.weight_hr_l1_reverse[0] out.weight[1]
    """
)
def lstm_projected_both_ways() -> Any:
    """The state and the next layer's input are projections, the cells stay hidden units."""
    net = Net(
        lambda m, x: m.out(m.lstm(m.inp(x))[0]),
        inp=nn.Linear(3, 5),
        lstm=nn.LSTM(5, 12, 2, bias=False, bidirectional=True, proj_size=4),
        out=nn.Linear(8, 2),
    )
    return net, torch.randn(4, 2, 3)


@example(
    """
    4 exact: h.weight[0] h.bias[0] lstm.weight_hh_l0[1] lstm.weight_hr_l0[0] out.weight[1] short.weight[1]
    12 exact: c.weight[0] c.bias[0] lstm.weight_ih_l0[0] lstm.weight_hh_l0[0] lstm.bias_ih_l0[0] lstm.bias_hh_l0[0]
    + lstm.weight_hr_l0[1] long.weight[1]
    """
)
def lstm_projected_with_states() -> Any:
    """Computed states: one is as wide as the projection, the other as the cells."""

    def call(m: Any, x: torch.Tensor) -> Any:
        y, (h, c) = m.lstm(x, (m.h(x[:1]), m.c(x[:1])))
        return m.out(y), m.short(h), m.long(c)

    states = {"h": nn.Linear(3, 4), "c": nn.Linear(3, 12)}
    heads = {"out": nn.Linear(4, 2), "short": nn.Linear(4, 2), "long": nn.Linear(12, 2)}
    return Net(call, lstm=nn.LSTM(3, 12, proj_size=4), **states, **heads), torch.randn(4, 2, 3)


@example(
    """
    5 exact: inp.weight[0] inp.bias[0] gru.weight_ih_l0[1]
    8 of 3 exact: constant_zeros[2] gru.weight_ih_l0[0] gru.weight_hh_l0[0] gru.weight_hh_l0[1] gru.bias_ih_l0[0]
    + gru.bias_hh_l0[0] gru.weight_ih_l1[0] gru.weight_ih_l1[1] gru.weight_hh_l1[0] gru.weight_hh_l1[1]
    + gru.bias_ih_l1[0] gru.bias_hh_l1[0] out.weight[1]
    """
)
def gru() -> Any:
    net = Net(lambda m, x: m.out(m.gru(m.inp(x))[1]), inp=nn.Linear(3, 5), gru=nn.GRU(5, 8, 2), out=nn.Linear(8, 2))
    return net, torch.randn(4, 2, 3)
