"""Every pattern against a count of its own, over convolutions, products and grouped, transposed and batched weights."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import pytest
import torch
from torch import nn

import graphprune as gp
from graphprune import sparsity
from graphprune.errors import InputError
from graphprune.sparsity.methods import zeroed
from graphprune.sparsity.patterns import best_along, quantile

IMAGE = torch.randn(2, 8, 9, 9)


class Batched(nn.Module):
    """A batch of matrices, and a weight on the left of a product."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.Parameter(torch.randn(3, 8, 12))
        self.left = nn.Parameter(torch.randn(6, 5))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.left[:, :4] @ torch.bmm(x.expand(3, -1, -1), self.experts)[0, :4]


NETS = {
    "conv": (nn.Conv2d(8, 16, 3), IMAGE, (1, (0,))),
    "grouped": (nn.Conv2d(8, 16, 3, groups=2), IMAGE, (1, (0,))),
    "transposed": (nn.ConvTranspose2d(8, 16, 3), IMAGE, (0, (1,))),
    "conv1d": (nn.Conv1d(8, 16, 3), IMAGE[..., 0], (1, (0,))),
    "linear": (nn.Linear(8, 16), torch.randn(2, 8), (1, (0,))),
    "lstm": (nn.LSTM(8, 16), torch.randn(5, 2, 8), (1, (0,))),
}


def layer_of(name: str) -> sparsity.Layer:
    net, x, _ = NETS[name]
    return sparsity.find_layers(gp.capture(net.eval(), x))[0][0]


def counted(mask: np.ndarray, axis: int, m: int) -> set[int]:
    """How many stay of each `m` neighbours along an axis, counted one group at a time."""
    lines = np.moveaxis(mask, axis, -1).reshape(-1, mask.shape[axis])
    return {int(line[i : i + m].sum()) for line in lines for i in range(0, len(line), m)}


@pytest.mark.parametrize("name", NETS)
def test_layers_are_read_along_what_is_summed(name: str) -> None:
    layer = layer_of(name)
    assert (layer.how.axis, layer.how.rows) == NETS[name][2]
    array = layer.value.weight.array()
    matrices = layer.matrices(array)
    assert matrices.shape == (1, layer.positions, layer.rows, layer.length)
    assert np.array_equal(layer.restore(matrices), array)


@pytest.mark.parametrize("text", ["2:4", "1:4", "4:8", "1:2", "3:4"])
@pytest.mark.parametrize("name", NETS)
def test_n_of_m_stay_along_the_contracted_axis(name: str, text: str) -> None:
    layer, pattern = layer_of(name), sparsity.parse(text)
    if pattern.unfit(layer):
        assert layer.length % pattern.m
        return
    mask = pattern.keep(np.abs(layer.value.weight.array()), layer)
    assert counted(mask, layer.how.axis, pattern.m) == {pattern.n}


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 3), (5, 8), (3, 32), (31, 32)])
def test_the_best_stay_and_of_equals_the_first(n: int, m: int) -> None:
    scores = np.random.default_rng(0).integers(0, 4, (5, 3 * m)).astype(np.float32)
    keep = best_along(scores, 1, n, m)
    for row, kept in zip(scores, keep, strict=True):
        for start in range(0, len(row), m):
            expected = np.argsort(-row[start : start + m], kind="stable")[:n]
            assert sorted(expected) == np.flatnonzero(kept[start : start + m]).tolist()


def test_v_n_m_keeps_four_columns_and_two_of_four() -> None:
    layer = layer_of("linear")
    mask = sparsity.parse("4:2:8").keep(np.abs(layer.value.weight.array()), layer)
    for start in range(0, 16, 4):
        tile = mask[start : start + 4]
        assert tile.any(0).sum() <= 4
        assert (tile.sum(1) == 2).all()


@pytest.mark.parametrize("text", ["unstructured:0.25", "block:4x4:0.5", "row:0.5", "column:0.25", "kernel:0.75"])
def test_shares_are_exact(text: str) -> None:
    layer, pattern = layer_of("conv"), sparsity.parse(text)
    mask = pattern.keep(np.abs(layer.value.weight.array()), layer)
    assert 1 - mask.mean() == float(text.rpartition(":")[2])
    whole = {"row": (1, 2, 3), "column": (0, 2, 3), "kernel": (2, 3)}.get(text.partition(":")[0])
    if whole is not None:
        assert set(mask.mean(whole).reshape(-1).tolist()) <= {0.0, 1.0}


def test_blocks_are_whole_at_each_kernel_position() -> None:
    layer = layer_of("conv")
    mask = sparsity.parse("block:4x2:0.5").keep(np.abs(layer.value.weight.array()), layer)
    tiles = mask.reshape(4, 4, 4, 2, 3, 3).mean((1, 3))
    assert set(tiles.reshape(-1).tolist()) == {0.0, 1.0}


def test_four_of_nine_keeps_the_middle_in_few_arrangements() -> None:
    layer = layer_of("conv")
    mask = sparsity.parse("4-of-9").keep(np.abs(layer.value.weight.array()), layer).reshape(-1, 9)
    assert (mask.sum(1) == 4).all()
    assert mask[:, 4].all()
    assert len({tuple(row) for row in mask.tolist()}) <= 8


def test_a_global_threshold_is_the_quantile_of_all_weights() -> None:
    random = np.random.default_rng(0)
    arrays = [np.abs(random.standard_normal(n)).astype(np.float32) for n in (1000, 10, 4321)]
    joined = np.sort(np.concatenate(arrays))
    for share in (0.1, 0.5, 0.9):
        assert quantile(lambda: iter(arrays), share) == joined[round(joined.size * share)]
    net = nn.Sequential(nn.Linear(16, 32), nn.Linear(32, 8)).eval()
    with torch.no_grad():
        net[1].weight.mul_(10)
    made = gp.sparsify(net, torch.randn(2, 16), pattern="global:0.5")
    small, large = (row.sparsity for row in made.report.rows)
    assert small > 0.6
    assert large < 0.3
    assert small * 512 + large * 256 == pytest.approx(384, abs=1)


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("4:2", "N must be at least 1 and less than M"),
        ("0:4", "N must be at least 1"),
        ("64:1:8", "N of 2"),
        ("unstructured:1.5", "between 0 and 1"),
        ("row:1.2.3", "between 0 and 1"),
        ("block:0x4:0.5", "at least one row"),
        ("two of four", "patterns are N:M"),
        (3, "unknown pattern '3'"),
    ],
)
def test_a_bad_pattern_is_said_to_be_one(text: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        sparsity.parse(text)


@pytest.mark.parametrize("name", ["float16", "float32", "float64", "bfloat16", "int8", "complex128"])
def test_masked_entries_are_zero_and_others_stay_to_the_bit(name: str) -> None:
    random, dtype = np.random.default_rng(0), np.dtype(getattr(ml_dtypes, name, name))
    array = (random.standard_normal((6, 8)) * 9).astype(dtype)
    if dtype.kind != "i":
        array[0, 0], array[1, 1] = np.nan, -0.0
    for given in (array, array.T, array[::2, ::-1]):
        mask = random.random(given.shape) > 0.5
        found, expected = zeroed(given, mask), np.where(mask, given, np.zeros((), dtype))
        assert found.dtype == dtype
        assert found.tobytes() == np.ascontiguousarray(expected).tobytes()
