"""Worked examples: integers that are positions along a labeled axis."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from .examples_onnx import model, node, normal
from .registry import Net, example, parameter


def _experts(count: int = 6, inside: int = 8, width: int = 5) -> dict[str, Any]:
    return {
        "gate": nn.Linear(inside, count),
        "up": parameter(count, width, inside),
        "down": parameter(count, inside, width),
        "out": nn.Linear(inside, 3),
    }


def _mix(m: Any, x: torch.Tensor, ids: torch.Tensor, share: torch.Tensor) -> torch.Tensor:
    """Batched products with the weights of the chosen experts, one row for each token and choice."""
    tokens = x.repeat_interleave(ids.shape[1], 0)
    chosen = ids.reshape(-1)
    h = F.relu(torch.bmm(m.up[chosen], tokens.unsqueeze(-1)))
    y = torch.bmm(m.down[chosen], h).squeeze(-1) * share.reshape(-1, 1)
    return m.out(y.reshape(*ids.shape, -1).sum(1))


@example(
    """
    6 renormalizing: gate.weight[0] gate.bias[0] up[0] down[0]
    5 exact: up[1] down[2]
    8 exact: down[1] out.weight[1]
    """
)
def experts() -> Any:
    """Whole experts go with their row of the router."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        share, ids = m.gate(x).softmax(-1).topk(2, -1)
        return _mix(m, x, ids, share / share.sum(-1, keepdim=True))

    return Net(call, **_experts()), torch.randn(7, 8)


@example(
    """
    6 renormalizing: gate.weight[0] gate.bias[0] bonus[0] up[0] down[0]
    5 exact: up[1] down[2]
    8 exact: down[1] out.weight[1]
    """,
    ratio=0.2,
)
def experts_chosen_by_other_scores() -> Any:
    """A share looked up where another score is largest; two must stay for two to be picked."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        scores = m.gate(x).sigmoid()
        ids = torch.topk(scores + m.bonus, 2, dim=-1, sorted=False)[1]
        return _mix(m, x, ids, scores.gather(1, ids))

    return Net(call, bonus=parameter(6), **_experts()), torch.randn(7, 8)


@example(
    """
    3 of 2 renormalizing: gate.weight[0] gate.bias[0] constant_zeros_like[1] up[0] down[0]
    5 exact: up[1] down[2]
    8 exact: down[1] out.weight[1]
    """
)
def experts_in_groups() -> Any:
    """The best groups of experts first: whole groups go."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        scores = m.gate(x).sigmoid()
        best = scores.view(-1, 3, 2).topk(2, dim=-1)[0].sum(-1)
        places = best.topk(1, dim=-1)[1]
        chosen = torch.zeros_like(best).scatter(1, places, 1.0)
        mask = chosen.unsqueeze(-1).expand(-1, 3, 2).reshape(-1, 6)
        ids = scores.masked_fill(~mask.bool(), float("-inf")).topk(2, dim=-1)[1]
        return _mix(m, x, ids, scores.gather(1, ids))

    return Net(call, **_experts()), torch.randn(7, 8)


@example(
    """
    6 renormalizing: gate.weight[0] gate.bias[0] up[0] down[0]
    5 exact: up[1] down[2]
    8 exact: down[1] out.weight[1]
    """
)
def one_expert() -> Any:
    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        share, ids = m.gate(x).max(-1, keepdim=True)
        return _mix(m, x, ids, share)

    return Net(call, **_experts()), torch.randn(7, 8)


@example(
    """
    6 renormalizing: gate.weight[0] gate.bias[0] values[0]
    4 exact: values[1] out.weight[1]
    """
)
def experts_by_one_hot() -> Any:
    """The two best, found one after the other, as a row of zeros and ones for each token."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        scores = m.gate(x).sigmoid()
        first = scores.argmax(-1, keepdim=True)
        second = scores.scatter(-1, first, -1.0).argmax(-1, keepdim=True)
        chosen = F.one_hot(torch.cat([first, second], -1), 6).sum(1)
        return m.out((scores * chosen) @ m.values)

    return Net(call, gate=nn.Linear(8, 6), values=parameter(6, 4), out=nn.Linear(4, 3)), torch.randn(7, 8)


@example(
    """
    8 exact: table.weight[0] table.bias[0] out.weight[1]
    """
)
def positions_read_as_numbers() -> Any:
    """The scores stay whole: their positions are compared with a number."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        first = m.gate(x).argmax(-1, keepdim=True) < 3
        return m.out(m.table(x) * first)

    parts = {"gate": nn.Linear(8, 6), "table": nn.Linear(8, 8), "out": nn.Linear(8, 3)}
    return Net(call, **parts), torch.randn(7, 8)


@example(
    """
    4 exact: a.weight[0] a.bias[0] out.weight[1]
    """
)
def looked_up_by_computed_places() -> Any:
    """`x[rows, places]`: the axes looked into stay, the others pass."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        h = m.a(x)
        places = x.sum(-1).argmax(-1)
        return m.out(h[torch.arange(2), places])

    return Net(call, a=nn.Linear(3, 4), out=nn.Linear(4, 2)), torch.randn(2, 5, 3)


@example(
    """
    6 exact: a.weight[0] a.bias[0] constant_expand[2] b.weight[0] b.bias[0] out.weight[1]
    """
)
def taken_along_an_axis() -> Any:
    """Rows are rearranged, channel by channel, at constant places; channels pass."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        places = torch.arange(5).flip(0).reshape(1, 5, 1).expand(2, 5, 6)
        return m.out(m.a(x).gather(1, places) + m.b(x).scatter(1, places, m.a(x)))

    return Net(call, a=nn.Linear(3, 6), b=nn.Linear(3, 6), out=nn.Linear(6, 2)), torch.randn(2, 5, 3)


@example(
    """
    6 renormalizing: gate[1] table[0]
    4 exact: table[1] out[0]
    """
)
def onnx_experts() -> Any:
    """The chosen rows of a table, weighted by their scores."""
    weights = {
        "gate": normal(8, 6),
        "table": normal(6, 4),
        "out": normal(4, 3),
        "two": [2],
        "last": [2],
        "summed": [1],
    }
    nodes = [
        node("MatMul", "x gate", "scores"),
        node("TopK", "scores two", "values ids", axis=-1),
        node("GatherElements", "scores ids", "again", axis=1),
        node("Add", "values again", "share"),
        node("Unsqueeze", "share last", "tall"),
        node("Gather", "table ids", "rows", axis=0),
        node("Mul", "rows tall", "weighted"),
        node("ReduceSum", "weighted summed", "mixed", keepdims=0),
        node("MatMul", "mixed out", "y"),
    ]
    return model(nodes, weights, [7, 8], [7, 3])


@example(
    """
    6 renormalizing: gate[1] book[0]
    4 exact: book[1] out[0]
    """
)
def onnx_one_hot() -> Any:
    """The best row of a book, as zeros and ones times the book."""
    weights = {
        "gate": normal(8, 6),
        "book": normal(6, 4),
        "out": normal(4, 3),
        "six": [6],
        "off_on": np.array([0, 1], np.float32),
    }
    nodes = [
        node("MatMul", "x gate", "scores"),
        node("ArgMax", "scores", "ids", axis=-1, keepdims=0),
        node("OneHot", "ids six off_on", "hot"),
        node("Mul", "hot scores", "weighted"),
        node("MatMul", "weighted book", "mixed"),
        node("MatMul", "mixed out", "y"),
    ]
    return model(nodes, weights, [7, 8], [7, 3])


@example(
    """
    6 exact: a.weight[0] a.bias[0] b.weight[0] b.bias[0] out.weight[1]
    """
)
def rows_filled_from_elsewhere() -> Any:
    """Some rows are overwritten by rows of another width-wise equal tensor, as pictures are put among words."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        mask = (torch.arange(10).reshape(2, 5) % 3 == 0).unsqueeze(-1)
        return m.out(m.a(x).masked_scatter(mask, m.b(x)))

    return Net(call, a=nn.Linear(3, 6), b=nn.Linear(3, 6), out=nn.Linear(6, 2)), torch.randn(2, 5, 3)


def _running_rows(x: torch.Tensor, weight: torch.Tensor, offs: torch.Tensor) -> torch.Tensor:
    starts = [0, *offs.tolist()]
    return torch.cat([x[a:b] @ w for a, b, w in zip(starts, starts[1:], weight, strict=False)])


# As transformers registers it for where torch's own operator has no kernel (float32 on the CPU).
LIBRARY = torch.library.Library("examples", "DEF")
LIBRARY.define("grouped_mm_fallback(Tensor input, Tensor weight, Tensor offs) -> Tensor")
LIBRARY.impl("grouped_mm_fallback", _running_rows, "CPU")
LIBRARY.impl("grouped_mm_fallback", lambda x, w, offs: x.new_empty(len(x), w.shape[2]), "Meta")


@example(
    """
    6 renormalizing: gate.weight[0] gate.bias[0] up[0] shift[0] down[0]
    5 exact: up[1] shift[1] down[2]
    8 exact: down[1] out.weight[1]
    """
)
def experts_by_sorted_rows() -> Any:
    """Rows sorted by expert, counted, and multiplied by a matrix for each expert (transformers' default)."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        share, ids = m.gate(x).softmax(-1).topk(2, -1)
        chosen, order = ids.reshape(-1).sort()
        rows = x[order // 2]
        ends = torch.histc(chosen.float(), 6, 0, 5).cumsum(0, dtype=torch.int32)
        product = torch.ops.examples.grouped_mm_fallback
        h = F.relu(product(rows, m.up.transpose(-2, -1), ends) + m.shift[chosen])
        y = product(h, m.down.transpose(-2, -1), ends) * share.reshape(-1)[order].unsqueeze(-1)
        back = torch.empty_like(order)
        back[order] = torch.arange(14)
        return m.out(y[back].view(7, 2, 8).sum(1))

    return Net(call, shift=parameter(6, 5), **_experts()), torch.randn(7, 8)


@example(
    """
    6 exact: a.weight[0] a.bias[0] out.weight[1]
    """
)
def running_sums() -> Any:
    """What was removed adds nothing to the channels after it."""
    return Net(lambda m, x: m.out(m.a(x).cumsum(-1)), a=nn.Linear(3, 6), out=nn.Linear(6, 2)), torch.randn(4, 3)


@example(
    """
    4 exact: b.weight[0] b.bias[0] out.weight[1]
    """
)
def counted_as_numbers() -> Any:
    """Positions counted in more classes than there are; values sorted."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        counts = torch.histc(m.a(x).argmax(-1).float(), 8, 0, 7)
        return m.out(m.b(x)) + counts.sum() + m.a(x).sort(-1)[0][:, :1]

    return Net(call, a=nn.Linear(3, 6), b=nn.Linear(3, 4), out=nn.Linear(4, 2)), torch.randn(4, 3)


@example(
    """
    6 renormalizing: gate.weight[0] gate.bias[0] constant_arange[0] values[0]
    4 exact: values[1] out.weight[1]
    """
)
def experts_by_comparison() -> Any:
    """A one-hot as exporters take it apart: positions compared with all numbers there are."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        share, ids = m.gate(x).topk(2, -1)
        chosen = (ids.unsqueeze(-1) == torch.arange(6)).to(x.dtype)
        return m.out((share.unsqueeze(-1) * chosen).sum(1) @ m.values)

    return Net(call, gate=nn.Linear(8, 6), values=parameter(6, 4), out=nn.Linear(4, 3)), torch.randn(7, 8)


@example(
    """
    4 exact: values[1] out.weight[1]
    """
)
def a_buffer_of_numbers_compared_and_multiplied() -> Any:
    """The same tensor is read as numbers elsewhere: nothing is counted anew."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        share, ids = m.gate(x).topk(2, -1)
        chosen = (ids.unsqueeze(-1) == m.numbers).to(x.dtype)
        return m.out((share.unsqueeze(-1) * chosen).sum(1) @ m.values) + (x[:, :6] * m.numbers).sum(1, keepdim=True)

    parts = {"gate": nn.Linear(8, 6), "values": parameter(6, 4), "out": nn.Linear(4, 3), "numbers": torch.arange(6)}
    return Net(call, **parts), torch.randn(7, 8)


@example(
    """
    6 renormalizing: gate[1] numbers[0] book[0]
    4 exact: book[1] out[0]
    """
)
def onnx_comparison() -> Any:
    """One vector of numbers in the file: compared with positions among experts, and with those among inputs."""
    weights = {
        "gate": normal(8, 6), "numbers": np.arange(6), "book": normal(6, 4), "out": normal(4, 3), "rest": normal(6, 3)
    }  # fmt: skip
    nodes = [
        node("MatMul", "x gate", "scores"),
        node("ArgMax", "scores", "best", axis=-1, keepdims=1),
        node("Equal", "best numbers", "same"),
        node("Cast", "same", "hot", to=1),
        node("MatMul", "hot book", "row"),
        node("MatMul", "row out", "z"),
        node("ArgMax", "x", "first", axis=-1, keepdims=1),
        node("Equal", "first numbers", "other"),
        node("Cast", "other", "cold", to=1),
        node("MatMul", "cold rest", "w"),
        node("Add", "z w", "y"),
    ]
    return model(nodes, weights, [7, 8], [7, 3])
