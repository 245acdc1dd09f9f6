"""Models that draw random numbers: original and result see the same, in the caller's class, graphs and ONNX files."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import graphprune as gp
from graphprune.errors import GraphPruneError, UnsupportedError, VerificationError
from graphprune.frontends.chance import Full, Left
from graphprune.frontends.torch.run.drawing import following
from graphprune.verification import draws
from tests.ops.examples_onnx import model, node, normal


class Autoencoder(nn.Module):
    """A variational one: its latent channels go, and their noise with them."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.mean, self.spread = nn.Linear(6, 16), nn.Linear(16, 8), nn.Linear(16, 8)
        self.decoder, self.out = nn.Linear(8, 16), nn.Linear(16, 6)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.encoder(x))
        mean, spread = self.mean(h), self.spread(h)
        z = mean + torch.randn_like(mean) * torch.exp(0.5 * spread)
        return self.out(torch.relu(self.decoder(z)))


class Noisy(nn.Module):
    """Whatever a function does between two layers; a third draw is thrown away."""

    def __init__(self, draw: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.a, self.b, self.draw = nn.Linear(6, 8), nn.Linear(8, 3), draw

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.draw(torch.relu(self.a(x)))
        torch.rand(3)
        return self.b(torch.relu(h) + 0.1 * torch.rand(x.shape[0], 1))


def beta(h: torch.Tensor) -> torch.Tensor:
    return h * torch.distributions.Beta(h + 1, torch.full_like(h, 2.0)).sample()


DRAWS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "like": lambda h: h + torch.randn_like(h),
    "size": lambda h: h + torch.rand(h.shape),
    "coins": lambda h: h * torch.bernoulli(torch.sigmoid(h)),
    "dropout": lambda h: F.dropout(h, 0.4, training=True),
    "channels": lambda h: F.dropout1d(h[..., None], 0.4, training=True)[..., 0],
    "depth": lambda h: h * h.new_empty((h.shape[0], 1)).bernoulli_(0.7),
    "gumbel": lambda h: h * F.gumbel_softmax(h),
    "normal": lambda h: torch.normal(h, torch.ones_like(h)),
    "gamma": lambda h: h + torch.distributions.Gamma(h + 1, torch.ones_like(h)).rsample(),
    "beta": beta,
    "poisson": torch.poisson,
    "leaky": lambda h: F.rrelu(h - 0.5, training=True),
    "category": lambda h: h + torch.distributions.Categorical(logits=h[:, :1].expand(-1, 4)).sample()[:, None],
    "others": lambda h: h + 0.01 * torch.empty_like(h).cauchy_() + torch.zeros_like(h).log_normal_().geometric_(0.4),
}


@pytest.mark.parametrize("name", DRAWS)
def test_the_own_class_draws_what_the_original_draws(name: str) -> None:
    torch.manual_seed(0)
    result = gp.prune(Noisy(DRAWS[name]), torch.randn(4, 6), target=gp.channels(0.5))
    assert result.emitted.form == "module"
    assert result.model.a.out_features <= 6
    assert result.report.proof is not None and result.report.proof.passed


def test_a_variational_autoencoder_loses_latent_channels() -> None:
    torch.manual_seed(0)
    result = gp.prune(Autoencoder(), torch.randn(4, 6), target=gp.channels(0.5))
    assert result.emitted.form == "module"
    assert result.model.mean.out_features == result.model.decoder.in_features == 4


def test_a_graph_module_draws_for_any_batch() -> None:
    """A literal size keeps the class from doing; the size of the noise follows the batch and the channels."""
    torch.manual_seed(0)
    net = Noisy(lambda h: h + torch.randn(h.shape[0], 8) * torch.rand(8))
    result = gp.prune(net, torch.randn(4, 6), target=gp.channels(0.5))
    assert result.emitted.form == "graph" and result.emitted.dynamic
    assert result.model(torch.randn(7, 6)).shape == (7, 3)


@pytest.mark.parametrize("name", ["like", "coins", "dropout"])
def test_other_numbers_are_noticed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    right = draws._Cut.__call__
    monkeypatch.setattr(draws._Cut, "__call__", lambda *given: _turned(right(*given)))
    torch.manual_seed(0)
    with pytest.raises(VerificationError):
        gp.prune(Noisy(DRAWS[name]), torch.randn(4, 6), target=gp.channels(0.5))


def _turned(numbers: np.ndarray | None) -> np.ndarray | None:
    return None if numbers is None or numbers.shape[-1] < 2 else numbers[..., ::-1].copy()


def test_layers_that_are_taken_out_take_their_draws_along() -> None:
    class Block(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.up, self.down = nn.Linear(8, 12), nn.Linear(12, 8)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + F.dropout(self.down(torch.relu(self.up(x))), 0.3, training=True)

    torch.manual_seed(0)
    net, x = nn.Sequential(nn.Linear(6, 8), Block(), Block(), Block(), nn.Linear(8, 3)), torch.randn(4, 6)
    graph, _ = gp.optimize(gp.capture(net, x), "remove-blocks{names=2}", verify_each=True)
    assert isinstance(gp.emit(graph)[2], nn.Identity)


def test_constants_are_no_numbers_drawn_once() -> None:
    """Not every random operator bears torch's tag: it must not be computed while capturing."""
    net = Noisy(lambda h: h + torch.binomial(torch.full((8,), 9.0), torch.full((8,), 0.5)))
    graph = gp.capture(net, torch.randn(4, 6))
    assert "binomial" in {n.attrs.get("fn") for n in graph.nodes}
    pruned = gp.prune(net, torch.randn(4, 6), target=gp.channels(0.5)).model
    assert pruned.get_parameter("a.weight").shape == (4, 6)


def test_what_draws_in_a_way_of_its_own_is_named() -> None:
    script = Full()
    with following(script), pytest.raises(UnsupportedError, match=r"aten.rand.out draws random numbers"):
        torch.rand(3, out=torch.empty(3))


def test_draws_are_told_apart_by_kind_and_size_in_the_order_of_calls() -> None:
    full = Full()
    numbers = [
        full.draw("rand", (2, 3), ("a", 0)),
        full.draw("rand", (4,), ("b", 0)),
        full.draw("randn", (4,), ("c", 0)),
    ]
    left = Left(full)
    for _ in range(2):
        left.begin()
        assert np.array_equal(left.draw("rand", (4,), None), numbers[1])
        assert np.array_equal(left.draw("randn", (4,), None), numbers[2])
        assert not left.beside
        assert left.draw("rand", (4,), None).shape == (4,)
        assert left.beside == (
            "rand draws random numbers of shape [4] that the original does not: the original draws no more"
        )


def network(middle: list[Any], opset: int = 17, **weights: Any) -> onnx.ModelProto:
    """From `h` to `g`, eight wide."""
    nodes = [node("Gemm", "x a ab", "i", transB=1), node("Relu", "i", "h"), *middle]
    nodes += [node("Relu", "g", "r"), node("Gemm", "r b bb", "y", transB=1)]
    own = {"a": normal(8, 5), "ab": normal(8), "b": normal(3, 8), "bb": normal(3)}
    return model(nodes, {**own, **weights}, [4, 5], [4, 3], opset)


ONNX = {
    "normal": network([node("RandomNormalLike", "h", "n"), node("Mul", "h n", "g")]),
    "normal, old": network([node("RandomNormalLike", "h", "n"), node("Mul", "h n", "g")], 13),
    "uniform": network([node("RandomUniform", "", "n", shape=[4, 8], low=-1.0), node("Mul", "h n", "g")]),
    "coins": network([node("Sigmoid", "h", "p"), node("Bernoulli", "p", "n"), node("Mul", "h n", "g")]),
    "dropout": network(
        [node("Dropout", "h ratio on", "g")], 13, ratio=np.array(0.4, np.float32), on=np.array(True)
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ONNX)
def test_onnx_models_draw_alike(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    result = gp.prune(ONNX[name], target=gp.channels(0.5))
    assert {i.name: list(i.dims) for i in result.model.graph.initializer}["a"] == [4, 5]
    kinds = [n.op_type for n in result.model.graph.node]
    assert kinds == [n.op_type for n in ONNX[name].graph.node]  # the result still draws by itself
    right = draws._Cut.__call__
    monkeypatch.setattr(draws._Cut, "__call__", lambda *given: _turned(right(*given)))
    with pytest.raises(GraphPruneError, match="differs"):
        gp.prune(ONNX[name], target=gp.channels(0.5))


def test_onnx_files_draw_alike(tmp_path: Any) -> None:
    """Also where one model is a file, and where a pass is proven."""
    onnx.save(ONNX["coins"], tmp_path / "net.onnx")
    result = gp.prune(tmp_path / "net.onnx", target=gp.channels(0.5))
    result.save(tmp_path / "small.onnx")
    graph = gp.load(tmp_path / "net.onnx")
    assert gp.verify(graph, str(tmp_path / "small.onnx"), result.plan).passed
    gp.optimize(graph, "remove-channels{channels=0.5},cleanup", verify_each=True)


def test_what_is_drawn_from_constants_stays_drawn() -> None:
    """Dropout in training mode and coins of constant chances are no constants: neither read as such, nor folded."""
    nodes = [
        node("Dropout", "ones ratio on", "d"),
        node("Bernoulli", "half", "coins"),
        node("Mul", "h coins", "m"),
        node("Add", "m d", "g"),
    ]
    weights = {"ones": np.ones((1, 8), np.float32), "half": np.full(8, 0.5, np.float32)}
    told = network(nodes, ratio=np.array(0.5, np.float32), on=np.array(True), **weights)
    graph, _ = gp.optimize(gp.load(told), "fold-constants,cleanup,remove-channels{channels=0.5}", verify_each=True)
    assert {"Dropout", "Bernoulli"} <= {n.op for n in graph.nodes}


def test_a_file_that_draws_elsewhere_is_told_why_it_differs() -> None:
    result = gp.prune(ONNX["normal"], target=gp.channels(0.5))
    for n in result.model.graph.node:
        n.input[:], n.output[:] = (
            ["other" if name == "n" else name for name in names] for names in (n.input, n.output)
        )
    proof = gp.verify(gp.load(ONNX["normal"]), result.model, result.plan)
    assert proof.failed
    assert "node 'n' (RandomNormalLike) draws random numbers that the original does not" in proof.detail


@pytest.mark.parametrize("drawn", [True, False])
def test_branches_are_not_decided_by_chance(drawn: bool) -> None:
    """A branch that a random number decides cannot be captured; one that the inputs decide can, noise or not."""

    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            h = torch.relu(self.a(x)) + torch.randn(8)
            if (torch.rand(()) < 0.5) if drawn else (x.abs().sum() > 0):
                h = 2 * h
            return self.b(h)

    if drawn:
        with pytest.raises(GraphPruneError, match="Branching"):
            gp.capture(Branching(), torch.randn(4, 6))
    else:
        assert gp.capture(Branching(), torch.randn(4, 6)).notes
