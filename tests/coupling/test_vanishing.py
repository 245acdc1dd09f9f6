"""Whole values that vanish with an index: experts in a loop, with their row of the router."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from graphprune import frontends
from graphprune.coupling import Coupling, couple
from graphprune.ir.graph import Graph
from graphprune.ops.base import Array
from graphprune.passes.remove_channels import remove_channels
from graphprune.pruning.budgets import targets
from graphprune.pruning.cost import Counter
from graphprune.pruning.criteria import magnitude
from graphprune.verification.proof import verify
from tests.helpers import graph_of, prune_coupling

Tensor = torch.Tensor
COUNT, WIDTH = 6, 8


class Expert(nn.Module):
    """Two layers with biases."""

    def __init__(self) -> None:
        super().__init__()
        self.up, self.down = nn.Linear(WIDTH, 5), nn.Linear(5, WIDTH)

    def forward(self, x: Tensor) -> Tensor:
        return self.down(torch.relu(self.up(x)))


class Mixture(nn.Module):
    """A dense mixture of experts: `gates` from scores, `join` of gates and the experts' results."""

    def __init__(self, gates: Callable[[Tensor], Tensor], join: Callable[..., Tensor]) -> None:
        super().__init__()
        self.first, self.router = nn.Linear(4, WIDTH), nn.Linear(WIDTH, COUNT)
        self.experts = nn.ModuleList(Expert() for _ in range(COUNT))
        self.last = nn.Linear(WIDTH, 3)
        self._gates, self._join = gates, join

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.first(x))
        return self.last(x + self._join(self._gates(self.router(x)), self.experts, x))


def best_two(scores: Tensor) -> Tensor:
    """Dense gates with all but the two largest zero."""
    share, ids = scores.softmax(-1).topk(2, -1)
    return torch.zeros_like(scores).scatter(-1, ids, share / share.sum(-1, keepdim=True))


GATES: dict[str, Callable[[Tensor], Tensor]] = {
    "softmax": lambda scores: scores.softmax(-1),
    "sigmoid": lambda scores: scores.sigmoid(),
    "topk": best_two,
}


def _loop(pick: Callable[[Tensor, int], Tensor]) -> Callable[..., Tensor]:
    def join(gates: Tensor, experts: Any, x: Tensor) -> Tensor:
        y = torch.zeros_like(x)
        for e, expert in enumerate(experts):
            y = y + pick(gates, e) * expert(x)
        return y

    return join


def _listed(take: Callable[[Tensor], Any]) -> Callable[..., Tensor]:
    return lambda gates, experts, x: sum(g * expert(x) for g, expert in zip(take(gates), experts, strict=True))


def _stacked(combine: Callable[[Tensor, Tensor], Tensor], dim: int) -> Callable[..., Tensor]:
    return lambda gates, experts, x: combine(gates, torch.stack([expert(x) for expert in experts], dim))


def _first_plain(gates: Tensor, experts: Any, x: Tensor) -> Tensor:
    found = gates[..., :1] * experts[0](x)
    for e in range(1, len(experts)):
        found = found + experts[e](x) * gates[..., e : e + 1]
    return found


JOINS: dict[str, Callable[..., Tensor]] = {
    "slice": _loop(lambda gates, e: gates[..., e : e + 1]),
    "select": _loop(lambda gates, e: gates[..., e].unsqueeze(-1)),
    "select then sigmoid": _loop(lambda gates, e: gates[..., e].sigmoid().unsqueeze(-1)),
    "no zeros": _first_plain,
    "unbind": _listed(lambda gates: [g.unsqueeze(-1) for g in gates.unbind(-1)]),
    "split": _listed(lambda gates: gates.split(1, -1)),
    "chunk": _listed(lambda gates: gates.chunk(gates.shape[-1], -1)),
    "einsum": _stacked(lambda gates, ys: torch.einsum("be,bed->bd", gates, ys), 1),
    "matmul": _stacked(lambda gates, ys: (gates.unsqueeze(1) @ ys).squeeze(1), 1),
    "product": _stacked(lambda gates, ys: (gates.unsqueeze(-1) * ys).sum(1), 1),
    "last axis": _stacked(lambda gates, ys: (gates.unsqueeze(1) * ys).sum(-1), -1),
    "stack of products": lambda gates, experts, x: torch.stack(
        [gates[:, e : e + 1] * expert(x) for e, expert in enumerate(experts)], 0
    ).sum(0),
    "cat": lambda gates, experts, x: (
        torch.cat([expert(x).unsqueeze(1) for expert in experts], 1) * gates.unsqueeze(-1)
    ).sum(1),
}


def _built(gates: str, join: str) -> tuple[Mixture, Tensor]:
    torch.manual_seed(0)
    return Mixture(GATES[gates], JOINS[join]).eval(), torch.randn(5, 4)


def _exported(module: nn.Module, x: Tensor) -> Any:
    program = torch.onnx.export(module, (x,), dynamo=True, verbose=False)
    assert program is not None
    return program.model_proto


def _by_hand(module: Mixture, kept: list[int], x: Tensor) -> np.ndarray:
    """The plain module with experts and rows of the router deleted, and nothing else."""
    module.experts = nn.ModuleList(module.experts[e] for e in kept)
    module.router.weight = nn.Parameter(module.router.weight[kept])
    module.router.bias = nn.Parameter(module.router.bias[kept])
    with torch.no_grad():
        return np.asarray(module(x))


def _only_experts(graph: Graph, router: str, seed: int) -> tuple[tuple[Coupling, Array], list[int]]:
    """Half of the experts removed at random, everything else kept."""
    coupling = couple(graph)
    group = next(g for g in coupling if g.label.startswith(router) or g.name.startswith(router))
    assert group.size == COUNT, str(coupling)
    plan_keep = np.ones(coupling.count, bool)
    kept = sorted(np.random.default_rng(seed).permutation(COUNT)[: COUNT // 2].tolist())
    plan_keep[group.components] = False
    plan_keep[group.components[0, kept]] = True
    return (coupling, plan_keep), kept


def _run(model: Any, x: Tensor) -> np.ndarray:
    if isinstance(model, nn.Module):
        with torch.no_grad():
            return np.asarray(model(x))
    import onnxruntime

    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: np.asarray(x)})[0])


CASES = [(gates, join) for at, join in enumerate(JOINS) for gates in (list(GATES)[at % 3], "softmax") if gates]


@pytest.mark.parametrize(("gates", "join"), dict.fromkeys(CASES))
def test_whole_experts_go(gates: str, join: str) -> None:
    """The pruned module is the caller's own, is what deleting by hand gives, and what the plan promised is left."""
    module, x = _built(gates, join)
    graph = graph_of(module, (x,))
    (coupling, keep), kept = _only_experts(graph, "router.weight", 1)
    pruned = remove_channels(coupling, keep)
    pruned.check()
    assert pruned.parameter_count() == Counter(coupling).parameters(keep)
    assert {name.split(".")[1] for name in pruned.weights() if name.startswith("experts")} == {str(e) for e in kept}
    emitted = frontends.emit(pruned)
    assert emitted.form == "module", emitted.reason
    assert len(emitted.module.experts) == len(kept)
    assert verify(coupling, keep, emitted.module).passed
    expected = _by_hand(module, kept, x)
    assert np.abs(_run(emitted.module, x) - expected).max() < 1e-5


def _counted(self: Any, gates: Tensor, x: Tensor) -> Tensor:
    y = torch.zeros_like(x)
    for e in range(self.num_experts):
        y = y + gates[:, e, None] * self.experts[e](x)
    return y


def test_a_number_of_experts_follows() -> None:
    """A `forward` that counts its experts by a setting stays the caller's own."""
    module, x = _built("softmax", "slice")
    module.num_experts = COUNT
    module._join = lambda gates, experts, x: x
    counted = type("Counted", (Mixture,), {"forward": _forward_counted})
    module.__class__ = counted
    (coupling, keep), kept = _only_experts(graph_of(module, (x,)), "router.weight", 1)
    emitted = frontends.emit(remove_channels(coupling, keep))
    assert emitted.form == "module" and emitted.module.num_experts == len(kept), emitted.reason


def _forward_counted(self: Any, x: Tensor) -> Tensor:
    x = torch.relu(self.first(x))
    return self.last(x + _counted(self, self.router(x).softmax(-1), x))


def test_an_expert_weighs_with_its_index() -> None:
    """All weights of an expert count for its component, its biases and matrices alike."""
    module, x = _built("softmax", "slice")
    with torch.no_grad():
        module.experts[2].up.weight.mul_(100)
    coupling = couple(graph_of(module, (x,)))
    group = next(g for g in coupling if g.name == "router.weight[0]")
    scores = magnitude.score(coupling, "l2", normalization="none")[group.components[0]]
    own = [module.router.weight[2], module.router.bias[2], *module.experts[2].parameters()]
    assert np.argmax(scores) == 2
    np.testing.assert_allclose(scores[2], float(sum((p.detach() ** 2).sum() for p in own)) ** 0.5, rtol=1e-4)


def test_what_cannot_do_without_keeps_the_index() -> None:
    """A piece that is normalised, or handed out, stays; so does an axis picked from by position of which one piece is
    needed.
    """
    module, x = _built("softmax", "slice")
    module._join = lambda gates, experts, x: sum(
        nn.functional.layer_norm(gates[:, e : e + 1] * expert(x), (WIDTH,)) for e, expert in enumerate(experts)
    )
    coupling = couple(graph_of(module, (x,)))
    for seed in range(2):
        found = prune_coupling(coupling, targets.channels(0.5), seed)
        assert found.proof.passed and found.graph.weights()["router.weight"].sizes[0] == COUNT
    module._join = lambda gates, experts, x: (
        torch.cos(gates[:, 0, None] + 1) + sum(gates[:, e, None] * expert(x) for e, expert in enumerate(experts))
    )
    assert "router" not in str(couple(graph_of(module, (x,)))).replace("router.weight[1]", "")


def test_an_expert_of_a_sum_without_zeros_stays() -> None:
    """Two gates of six, summed alone and read by a layer with a bias: one of the two must stay."""
    module, x = _built("softmax", "slice")
    module._join = lambda gates, experts, x: (
        module.first((gates[:, :1] * experts[0](x) + gates[:, 1:2] * experts[1](x))[:, :4])
        + sum(gates[:, e : e + 1] * experts[e](x) for e in range(2, COUNT))
    )
    coupling = couple(graph_of(module, (x,)))
    for seed in range(4):
        assert prune_coupling(coupling, targets.channels(0.3), seed).proof.passed


@pytest.mark.parametrize("join", JOINS)
def test_whole_experts_go_from_files(join: str) -> None:
    """The same from an ONNX file."""
    module, x = _built("topk" if join in ("slice", "einsum") else "softmax", join)
    graph = graph_of(_exported(module, x))
    (coupling, keep), kept = _only_experts(graph, "router", 2)
    pruned = remove_channels(coupling, keep)
    pruned.check()
    expected = _by_hand(module, kept, x)
    assert np.abs(_run(frontends.emit(pruned), x) - expected).max() < 1e-5


@pytest.mark.parametrize("join", ["slice", "einsum", "unbind"])
def test_everything_at_half(join: str) -> None:
    """With all other groups, at random, proven."""
    module, x = _built("topk", join)
    coupling = couple(graph_of(module, (x,)))
    for seed in range(3):
        found = prune_coupling(coupling, targets.channels(0.5), seed)
        assert found.proof.passed, found.proof
        assert found.graph.parameter_count() == found.plan.notes["params"]
