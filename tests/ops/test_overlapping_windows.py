"""`torch.istft` inside a network: windows added up, and positions written to, whatever axes come before them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import graphprune as gp
from graphprune.frontends.torch import to_graph_module
from graphprune.frontends.torch.capture.replacements import index_put, unfold_backward
from tests.helpers import assert_equality, graph_of

from .registry import Net, parameter, stirred


@pytest.mark.parametrize(
    ("shape", "axis"), [((2, 3, 20), -1), ((2, 20, 3), 1), ((20,), 0), ((20, 2), 0), ((21, 2), -2)]
)
@pytest.mark.parametrize(("size", "step"), [(8, 4), (6, 2), (5, 5), (4, 8), (1, 1)])
def test_windows_are_added_up_as_torch_does(shape: tuple[int, ...], axis: int, size: int, step: int) -> None:
    windows = torch.randn(shape).unfold(axis, size, step)
    expected = torch.ops.aten.unfold_backward(windows, shape, axis, size, step)
    torch.testing.assert_close(unfold_backward(windows, shape, axis, size, step), expected)


def test_one_window_for_all_samples() -> None:
    windows = torch.randn(1, 4, 8)
    expected = torch.ops.aten.unfold_backward(windows, (3, 20), 1, 8, 4)
    torch.testing.assert_close(unfold_backward(windows, (3, 20), 1, 8, 4), expected)


ROW, GRID = torch.tensor([3, -1, 0]), torch.tensor([[0], [1]])
PLACES: dict[str, tuple[list[torch.Tensor | None], tuple[int, ...]]] = {
    "first axis": ([ROW], (3, 5, 6)),
    "middle axis": ([None, ROW], (4, 3, 6)),
    "last axis": ([None, None, ROW], (4, 5, 3)),
    "last axis, one number": ([None, None, ROW], ()),
    "last axis, broadcast": ([None, None, ROW], (5, 1)),
    "two axes": ([ROW, ROW], (3, 6)),
    "the last two axes": ([None, ROW, GRID], (4, 2, 3)),
    "rows of positions": ([None, GRID], (4, 2, 1, 6)),
    "32 bits": ([None, ROW.int()], (4, 3, 6)),
}


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("case", PLACES)
def test_positions_are_written_as_torch_does(case: str, accumulate: bool) -> None:
    indices, shape = PLACES[case]
    x, values = torch.randn(4, 5, 6), torch.randn(shape)
    expected = torch.ops.aten.index_put(x, indices, values, accumulate)
    torch.testing.assert_close(index_put(x, indices, values, accumulate), expected)


SOME, ALL = torch.tensor([True, False, True, True]), torch.ones(5, 6) > 0


@pytest.mark.parametrize(("indices", "shape"), [([ROW, None, ROW], ()), ([SOME], (3, 5, 6)), ([None, ALL], (4, 30))])
def test_rows_under_masks_and_axes_apart_stay(indices: list[torch.Tensor | None], shape: tuple[int, ...]) -> None:
    with pytest.raises(NotImplementedError):
        index_put(torch.zeros(4, 5, 6), indices, torch.ones(shape))


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("indices", [[SOME], [None, ALL[:, 0] & (torch.arange(5) > 2)], [None, torch.rand(5, 6) > 0.5]])
def test_what_is_the_same_under_a_mask_is_chosen(indices: list[torch.Tensor | None], accumulate: bool) -> None:
    x, value = torch.randn(4, 5, 6), torch.tensor(1.5)
    expected = torch.ops.aten.index_put(x, indices, value, accumulate)
    torch.testing.assert_close(index_put(x, indices, value, accumulate), expected)


def spectral(m: Any, x: torch.Tensor) -> torch.Tensor:
    """A filter for each channel, between a transform and its inverse."""
    h = m.a(x)
    z = torch.stft(h.flatten(0, 1), 8, 4, window=m.window, return_complex=True).unflatten(0, h.shape[:2])
    y = torch.istft((z * m.filter).flatten(0, 1), 8, 4, window=m.window, length=h.shape[2])
    return m.out(y.unflatten(0, h.shape[:2]))


def written(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Positions along the last axis, overwritten and added to."""
    h = m.a(x)
    y = torch.zeros_like(h)
    y[:, :, torch.arange(0, 24, 2)] = h[:, :, :12]
    y[:, :, torch.tensor([1, -1])] += 1.0
    return m.out(y)


def added(m: Any, x: torch.Tensor) -> torch.Tensor:
    """Windows of each channel, scaled and put together again."""
    h = m.a(x)
    windows = h.unfold(-1, 8, 4) * m.filter * m.window
    return m.out(torch.ops.aten.unfold_backward(windows, h.shape, -1, 8, 4))


@pytest.mark.parametrize("call", [spectral, written, added], ids=lambda call: call.__name__)
def test_channels_around_them_go(call: Any) -> None:
    torch.manual_seed(0)
    parts = {"a": nn.Conv1d(3, 6, 1), "out": nn.Conv1d(6, 2, 1), "filter": parameter(6, 1, 1)}
    net, x = stirred(Net(call, window=torch.hann_window(8), **parts)).eval(), torch.randn(2, 3, 24)
    pruned = assert_equality(graph_of(net, x))
    assert pruned.graph.weights()["a.weight"].shape == (3, 3, 1)
    assert not [node.op for node in pruned.graph.nodes if node.kind == "unknown"]


def test_a_vocoder_that_ends_in_an_inverse_transform() -> None:
    torch.manual_seed(0)

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        real, imaginary = m.d(m.c(x).relu()).chunk(2, 1)
        return torch.istft(torch.complex(real, imaginary), 16, 4, window=m.window)

    parts = {"c": nn.Conv1d(9, 24, 1), "d": nn.Conv1d(24, 18, 1)}
    net, x = Net(call, window=torch.hann_window(16), **parts).eval(), torch.randn(2, 9, 7)
    result = gp.prune(net, x, target=gp.channels(0.5), criterion="random")
    (group,) = result.plan.groups
    gone = sorted(set(range(24)) - set(group.keep[0]))
    with torch.no_grad():
        net.c.weight[gone], net.c.bias[gone] = 0, 0  # type: ignore[union-attr, index, operator]
    torch.testing.assert_close(result.model(x), net(x))
    assert result.model.d.weight.shape == (18, 12, 1)
    more = torch.randn(5, 9, 7)  # the capture had a batch of two
    torch.testing.assert_close(to_graph_module(result.graph, dynamic=True)(more), net(more))
