"""Large weights that lie in files are read and used piece by piece, with the numbers of the whole operator."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as nf
from torch import nn

import graphprune as gp
from benchmarks.suites import transformers_models
from graphprune.frontends.torch import capture, instrument, run_all
from graphprune.frontends.torch.arrays import shared
from graphprune.frontends.torch.run import execute, parts
from graphprune.frontends.treatment import Compaction, Index, Treatment
from graphprune.ir.graph import Graph, Weight

Forward = Callable[..., torch.Tensor]
IDS = torch.tensor([[3, 1, 3], [0, 4, -1]])


class Net(nn.Module):
    """Computes with one weight."""

    def __init__(self, forward: Forward, *shape: int) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(*shape, generator=generator))
        self.bias = nn.Parameter(torch.randn(shape[0], generator=generator), requires_grad=False)
        self._forward = forward

    def forward(self, *given: torch.Tensor) -> torch.Tensor:
        return self._forward(self.weight, self.bias, *given)


def grouped(w: torch.Tensor, b: torch.Tensor, x: torch.Tensor, ends: torch.Tensor) -> torch.Tensor:
    return torch._grouped_mm(x, w.transpose(1, 2), offs=ends)


#: What is computed, the weight's sizes, sizes of the inputs, and which rows of the weight are read ("all" where each
#: is, one at a time; "whole" where it is put together first).
CASES: dict[str, tuple[Forward, tuple[int, ...], Any, Any]] = {
    "linear": (lambda w, b, x: nf.linear(x, w, b), (5, 3), (2, 4, 3), "all"),
    "transposed": (lambda w, b, x: x @ w.transpose(0, 1), (5, 3), (2, 3), "all"),
    "contracted": (lambda w, b, x: x @ w, (5, 3), (2, 5), "whole"),
    "batches": (lambda w, b, x: torch.bmm(x, w), (5, 3, 4), (5, 2, 3), "all"),
    "batches on the left": (lambda w, b, x: torch.matmul(w, x), (5, 2, 3), (2, 5, 3, 4), "all"),
    "one for all": (lambda w, b, x: torch.matmul(x, w), (5, 3, 4), (1, 2, 3), "all"),
    "vector": (lambda w, b, x: torch.mv(w, x), (5, 3), (3,), "all"),
    "added": (lambda w, b, x: torch.baddbmm(b.reshape(5, 1, 1), x, w), (5, 3, 4), (5, 2, 3), "all"),
    "einsum": (lambda w, b, x: torch.einsum("bsd,edf->bsef", x, w), (5, 3, 4), (2, 2, 3), "all"),
    "summed": (lambda w, b, x: torch.einsum("bed,edf->bf", x, w), (5, 3, 4), (2, 5, 3), "whole"),
    "elementwise": (lambda w, b, x: w.double() * x, (5, 3), (2, 1, 3), "all"),
    "table": (lambda w, b, ids: nf.embedding(ids.abs(), w), (9, 3), IDS, [0, 1, 3, 4]),
    "indexed": (lambda w, b, ids: w[ids], (9, 3), IDS, [0, 1, 3, 4, 8]),
    "picked": (lambda w, b, x: x @ w[2], (5, 3, 4), (2, 3), [2]),
    "picked inside": (lambda w, b, x: torch.matmul(w.select(1, 2), x), (5, 3, 4), (4,), "all"),
    "halves": (lambda w, b, x: torch.bmm(x, w[:, :, 1:3]), (5, 3, 4), (5, 2, 3), "all"),
    "normed": (lambda w, b, x: x + w.std(), (5, 3), (2, 3), "whole"),
    "convolution": (lambda w, b, x: nf.conv1d(x, w, b), (5, 3, 2), (2, 3, 6), "whole"),
}


def in_a_file(graph: Graph, net: Net) -> list[tuple[int, int]]:
    """Let the weight be one that lies in a file; which rows are read joins the list."""
    array, seen = net.weight.detach().numpy(), []

    def rows(start: int, stop: int) -> np.ndarray:
        seen.append((start, stop))
        return array[start:stop].copy()

    weight = Weight(array.shape, array.dtype, lambda: pytest.fail("read whole"), lazy=True, read_rows=rows)
    graph.weights()["weight"].weight = weight
    return seen


@pytest.mark.parametrize("name", CASES)
def test_the_numbers_are_those_of_the_whole(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """For two inputs at once, which take each piece together."""
    monkeypatch.setattr(parts, "PART", 1)
    forward, shape, given, rows = CASES[name]
    net = Net(forward, *shape).eval()
    feeds = [given, given.flip(0)] if isinstance(given, torch.Tensor) else [torch.randn(given) for _ in range(2)]
    graph = capture(net, feeds[0])
    seen = in_a_file(graph, net)
    for feed, (found,) in zip(feeds, run_all(instrument(graph, Treatment()), feeds), strict=True):
        torch.testing.assert_close(torch.from_numpy(found), net(feed).detach(), rtol=1e-6, atol=1e-6)
    if isinstance(rows, list):
        assert {row for start, stop in seen for row in range(start, stop)} == set(rows)
    else:
        assert seen == [(row, row + 1) for row in range(shape[0])]


@pytest.mark.parametrize("ends", [[2, 2, 5, 6], [0, 0, 0, 0], [0, 6, 6, 6], [1, 2, 3, 4]])
def test_sorted_rows_meet_one_matrix_after_the_other(ends: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Masked, and with statistics on some matrices only; matrices without rows are not read. Rows after the last end
    are anything.
    """
    monkeypatch.setattr(parts, "PART", 1)
    net = Net(grouped, 4, 8, 16).bfloat16().eval()
    feed = (torch.randn(6, 16).bfloat16(), torch.tensor(ends, dtype=torch.int32))
    graph = capture(net, feed)
    net.weight.data, exact = net.weight.data.float(), net.weight.detach()
    seen = in_a_file(graph, net)
    weight = graph.weights()["weight"].weight
    assert weight is not None and weight.read_rows is not None
    read = weight.read_rows
    weight.read_rows = lambda start, stop: gp_bfloat16(read(start, stop))
    kept, columns = np.array([0, 2, 3]), np.array([True, False] * 4)
    turn, product = graph.nodes
    masks = {"weight": [columns.reshape(1, 8, 1)], product.outputs[0].name: [columns.reshape(1, 8)]}
    treatment = Treatment(masks, {product.name: Compaction({0: [Index(0, kept)], 2: [Index(0, kept)]})})
    with torch.no_grad():
        expected = net._forward(exact * torch.from_numpy(columns).reshape(1, 8, 1), net.bias, *feed)
    if ends[0] == ends[1]:  # nothing goes to the matrix that is gone
        (found,) = run_all(instrument(graph, treatment), [feed])[0]
        last = ends[-1]
        torch.testing.assert_close(shared(found)[:last].float(), expected[:last].float(), rtol=0, atol=0)
    (found,) = run_all(instrument(graph, Treatment(masks)), [feed])[0]
    torch.testing.assert_close(shared(found)[: ends[-1]].float(), expected[: ends[-1]].float(), rtol=0, atol=0)
    assert turn.kind == "transpose" and product.kind == "grouped_matmul"
    busy = {at for at, (a, b) in enumerate(zip([0, *ends], ends, strict=False)) if a < b}
    assert {start for start, _ in seen} == (busy or {0})


def gp_bfloat16(array: np.ndarray) -> np.ndarray:
    return array.astype("bfloat16")


@pytest.mark.parametrize("part", [1 << 12, 1 << 40])
def test_a_proof_holds_few_experts_at_a_time(part: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The most bytes of weights at once, as they are handed to operators: a stack, unless it counts as large."""
    transformers_models.save("mixtral", tmp_path / "whole")
    monkeypatch.setattr(parts, "PART", part)
    held, most = [0], [0]

    def tracked(array: np.ndarray) -> torch.Tensor:
        own = array.copy()
        held[0] += own.nbytes
        most[0] = max(most[0], held[0])
        weakref.finalize(own, lambda size: held.__setitem__(0, held[0] - size), own.nbytes)
        return shared(own)

    monkeypatch.setattr(parts, "shared", tracked)
    monkeypatch.setattr(execute, "shared", tracked)
    graph = gp.load(tmp_path / "whole")
    plan = gp.plan(graph, "channels=0.5", uniform=True)
    assert gp.verify(graph, gp.apply(graph, plan), plan).passed
    stacks = [w.stored_bytes for v in graph.weights().values() if (w := v.weight) is not None and len(w.shape) == 3]
    expert = max(stacks) // 4
    assert most[0] <= 2 * max(part, expert) if part < max(stacks) else most[0] >= max(stacks)
