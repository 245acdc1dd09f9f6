"""Worked examples: products, einsum, embeddings, recurrent layers."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .registry import Net, example, parameter


@example()
def mlp() -> Any:
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 2)), torch.randn(4, 3)


@example()
def matrix_from_either_side() -> Any:
    """Token mixing: the weight stands left of the data, then right."""
    net = Net(lambda m, x: m.down @ torch.relu(m.up @ x) @ m.right @ m.last, up=parameter(8, 5), down=parameter(5, 8), right=parameter(3, 6), last=parameter(6, 2))
    return net, torch.randn(2, 5, 3)


@example()
def transposed_weights() -> Any:
    net = Net(lambda m, x: torch.relu(x @ m.a.T) @ m.b, a=parameter(6, 3), b=parameter(6, 2))
    return net, torch.randn(4, 3)


@example()
def einsums() -> Any:
    net = Net(lambda m, x: torch.einsum("nlh,hd->nld", torch.einsum("nlc,hc->nlh", x, m.a), m.b), a=parameter(6, 3), b=parameter(6, 2))
    return net, torch.randn(2, 4, 3)


@example()
def tied_embedding() -> Any:
    """A language model's table: positions add to it, its transpose is the head."""

    def call(m: Any, ids: torch.Tensor) -> torch.Tensor:
        x = m.table(ids) + m.positions(torch.arange(ids.shape[1]))
        x = x + m.down(torch.relu(m.up(m.norm(x))))
        return nn.functional.linear(x, m.table.weight)

    net = Net(call, table=nn.Embedding(11, 8), positions=nn.Embedding(5, 8), norm=nn.LayerNorm(8), up=nn.Linear(8, 6), down=nn.Linear(6, 8))
    return net, torch.randint(0, 11, (2, 5))


@example()
def several_heads_and_outputs() -> Any:
    def call(m: Any, x: torch.Tensor) -> dict[str, Any]:
        y = torch.relu(m.trunk(x))
        return {"boxes": m.boxes(y), "others": [m.scores(torch.relu(m.tower(y)))]}

    return Net(call, trunk=nn.Linear(3, 8), tower=nn.Linear(8, 6), boxes=nn.Linear(8, 4), scores=nn.Linear(6, 2)), torch.randn(4, 3)


@example()
def lstm() -> Any:
    net = Net(lambda m, x: m.out(m.lstm(m.inp(x))[0]), inp=nn.Linear(3, 5), lstm=nn.LSTM(5, 8, batch_first=True), out=nn.Linear(8, 2))
    return net, torch.randn(2, 4, 3)


@example()
def lstm_deep_both_ways() -> Any:
    """Two layers, two directions: all share their hidden units, which a state tensor holds side by side."""
    net = Net(
        lambda m, x: m.out(m.lstm(x)[0]),
        lstm=nn.LSTM(3, 6, 2, bidirectional=True, batch_first=True), out=nn.Linear(12, 2),
    )  # fmt: skip
    return net, torch.randn(2, 4, 3)


@example()
def gru() -> Any:
    net = Net(lambda m, x: m.out(m.gru(m.inp(x))[1]), inp=nn.Linear(3, 5), gru=nn.GRU(5, 8, 2), out=nn.Linear(8, 2))
    return net, torch.randn(4, 2, 3)
