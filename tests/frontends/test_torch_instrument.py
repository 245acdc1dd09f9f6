"""The masked reference: values masked, nodes run on kept indices only."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as nf
from torch import nn

from graphprune.frontends.torch import capture, instrument, run, run_all
from graphprune.frontends.torch.run import execute
from graphprune.frontends.treatment import Compaction, Index, Treatment
from graphprune.ir.graph import Weight


def mask(*kept: int, size: int, shape: tuple[int, ...]) -> np.ndarray:
    flags = np.zeros(size, dtype=bool)
    flags[list(kept)] = True
    return flags.reshape(shape)


def test_without_treatment_nothing_changes() -> None:
    net = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).eval()
    x = torch.randn(2, 5, 8)
    reference = instrument(capture(net, x), Treatment())
    np.testing.assert_allclose(run(reference, x)[0], run(net, x)[0], atol=1e-5)


def test_masked_values_weights_and_inputs() -> None:
    net = nn.Sequential(nn.Linear(4, 5), nn.Sigmoid(), nn.Linear(5, 3)).eval()
    x = torch.randn(2, 4)
    graph = capture(net, x)
    hidden = graph.nodes[1].outputs[0].name
    masks = {
        hidden: [mask(0, 3, size=5, shape=(1, 5))],
        "2.bias": [mask(1, size=3, shape=(3,))],
        graph.inputs[0].name: [mask(0, 1, 2, size=4, shape=(1, 4))],
    }
    with torch.no_grad():
        y = torch.sigmoid(net[0](x * torch.tensor([1, 1, 1, 0])))
        expected = (y * torch.tensor([1, 0, 0, 1, 0])) @ net[2].weight.T + net[2].bias * torch.tensor([0, 1, 0])
    np.testing.assert_allclose(run(instrument(graph, Treatment(masks)), x)[0], expected, atol=1e-6)


def test_masks_remove_what_is_not_finite() -> None:
    graph = capture(nn.Sequential(nn.Linear(2, 2), nn.Identity()), torch.randn(1, 2))
    values = {v.name: [np.zeros((1, 2), dtype=bool)] for v in graph.nodes[0].outputs}
    result = run(instrument(graph, Treatment(values)), torch.tensor([[float("inf"), 1.0]]))[0]
    assert (result == 0).all()


def test_layer_norm_over_kept_channels() -> None:
    net = nn.LayerNorm(6).eval()
    nn.init.normal_(net.weight)
    x, kept = torch.randn(3, 6), np.array([0, 2, 5])
    graph = capture(net, x)
    inputs = {0: [Index(1, kept)], 1: [Index(0, kept)], 2: [Index(0, kept)]}
    treatment = Treatment({}, {graph.nodes[0].name: Compaction(inputs, {0: [Index(1, kept)]})})
    result = run(instrument(graph, treatment), x)[0]
    expected = nf.layer_norm(x[:, kept], (3,), net.weight[kept], net.bias[kept]).detach().numpy()
    np.testing.assert_allclose(result[:, kept], expected, atol=1e-6)
    assert (result[:, [1, 3, 4]] == 0).all()


def test_group_norm_over_fewer_groups() -> None:
    net = nn.GroupNorm(3, 6).eval()
    x, kept = torch.randn(2, 6, 4), np.array([0, 1, 4, 5])
    graph = capture(net, x)
    inputs = {0: [Index(1, kept)], 1: [Index(0, kept)], 2: [Index(0, kept)]}
    treatment = Treatment({}, {graph.nodes[0].name: Compaction(inputs, {0: [Index(1, kept)]}, groups=2)})
    result = run(instrument(graph, treatment), x)[0]
    np.testing.assert_allclose(result[:, kept], nf.group_norm(x[:, kept], 2), atol=1e-6)


def test_indices_that_differ_by_row() -> None:
    """A softmax over three of five positions, other ones in each head."""
    net = nn.Softmax(-1)
    x = torch.randn(2, 2, 5)
    kept = np.array([[0, 1, 2], [1, 3, 4]]).reshape(1, 2, 3)
    graph = capture(net, x)
    treatment = Treatment({}, {graph.nodes[0].name: Compaction({0: [Index(2, kept)]}, {0: [Index(2, kept)]})})
    result = run(instrument(graph, treatment), x)[0]
    for head in range(2):
        np.testing.assert_allclose(result[:, head, kept[0, head]], x[:, head, kept[0, head]].softmax(-1), atol=1e-6)
    assert np.count_nonzero(result) == 2 * 2 * 3


def test_results_keep_their_structure() -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"double": x * 2, "x": x}

    x = torch.randn(2)
    result = instrument(capture(Net(), {"x": x}), Treatment())(x=x)
    assert list(result) == ["double", "x"] and torch.equal(result["double"], x * 2)


def test_a_weight_that_lies_in_a_file_is_turned_around_once_for_all_inputs(monkeypatch: pytest.MonkeyPatch) -> None:
    """And masked once: what it becomes may be as large as all experts of a layer."""

    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(3, 4))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x @ self.weight.transpose(0, 1)

    net, feeds = Turned().eval(), [torch.randn(2, 4) for _ in range(3)]
    graph = capture(net, feeds[0])
    turn = next(n for n in graph.nodes if n.kind == "transpose")
    value = graph.weights()["weight"]
    array = net.weight.detach().numpy()
    value.weight = Weight(array.shape, array.dtype, lambda: array, lazy=True)
    runs, before = [], execute._called
    monkeypatch.setattr(execute, "_called", lambda node, *given: runs.append(node) or before(node, *given))
    reference = instrument(graph, Treatment({turn.outputs[0].name: [mask(0, 2, size=3, shape=(1, 3))]}))
    for feed, (found,) in zip(feeds, run_all(reference, feeds), strict=True):
        expected = (net(feed) * torch.tensor([1, 0, 1])).detach().numpy()
        np.testing.assert_allclose(found, expected, atol=1e-6)
    assert runs.count(turn) == 1
