"""A module that was handed over is afterwards as it was: attributes, containers, buffers, modes, random numbers."""

from __future__ import annotations

import functools
import random
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import torch.nn.functional as nf
from torch import nn

import graphprune as gp
from graphprune.frontends.torch import PrunedModule, to_graph_module


@functools.lru_cache
def ramp(count: int) -> torch.Tensor:
    """A table made once, on whatever tensors are in fashion."""
    return torch.arange(count).float()


class _Placeholder:
    """What a package puts where an optional dependency is missing."""

    def __getattr__(self, name: str) -> Any:
        raise ImportError(f"no package that has '{name}'")


missing = _Placeholder()


class Remembers(nn.Module):
    """A layer whose forward leaves results wherever it can."""

    everywhere: ClassVar[dict[str, Any]] = {}

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)
        self.register_buffer("steps", torch.zeros(()))
        self.last: Any = None
        self.all: list[Any] = []
        self.nested: dict[str, list[Any]] = {"h": []}
        self.anchors = torch.empty(0)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.layer(x))
        self.last = self.fresh = h
        self.all.append(h)
        self.nested["h"].append(h)
        self.everywhere["h"] = h
        self.anchors = h.sum(0)
        return h + ramp(1)


def net(*, training: bool = True) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(Remembers(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 2)).train(training)


@pytest.mark.parametrize("training", [True, False])
def test_what_forward_sets_is_taken_back(training: bool) -> None:
    Remembers.everywhere.clear()
    module = net(training=training)
    first = module[0]
    before, weights = dict(vars(first)), {k: v.clone() for k, v in module.state_dict().items()}
    module.register_forward_hook(lambda *_: None)
    gp.prune(module, torch.randn(3, 6), target="channels=0.6")
    assert vars(first) == before and first.anchors.numel() == 0
    assert first.last is None and first.all == [] and first.nested == {"h": []} and not Remembers.everywhere
    assert all(torch.equal(v, weights[k]) for k, v in module.state_dict().items())
    assert module(torch.randn(3, 6)).sum().item() is not None  # a fake tensor in the table of `ramp` would raise


def test_random_numbers_go_on_as_if_nothing_had_been() -> None:
    def draws() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), torch.rand(()).item()

    module, x = net(), torch.ones(3, 6)
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    expected = draws()
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])
    gp.prune(module, x, target="channels=0.6")
    assert draws() == expected


def test_the_result_remembers_nothing_either() -> None:
    result = gp.prune(net(), torch.randn(3, 6), target="channels=0.6")
    assert result.report.output_form == "own class"
    assert result.model[0].last is None and result.model[0].all == []


class Mixed(nn.Module):
    """Dropout and a norm that the caller holds in eval mode while the rest trains."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), nn.Linear(8, 2)
        self.drop = nn.Dropout(0.5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(nf.relu(self.norm(self.conv(x))).mean(2)))


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_of_each_submodule_comes_back(training: bool) -> None:
    module = Mixed().train(training)
    module.norm.eval()
    result = gp.prune(module, torch.randn(4, 3, 9), target="channels=0.5")
    assert result.report.output_form == "own class"
    modes = {path: child.training for path, child in module.named_modules()}
    assert {path: child.training for path, child in result.model.named_modules()} == modes


def test_a_graph_module_has_the_modes_of_the_module_it_came_from() -> None:
    module = Mixed()
    module.norm.eval()
    x = torch.randn(4, 3, 9)
    written = to_graph_module(gp.capture(module, x))
    assert isinstance(written, PrunedModule) and written.training
    before = {k: v.clone() for k, v in written.state_dict().items()}
    assert not torch.equal(written(x), written(x))  # dropout
    assert all(torch.equal(v, before[k]) for k, v in written.state_dict().items())  # the norm is in eval mode
    written.eval()
    assert torch.equal(written(x), written(x))


def test_placeholders_of_missing_packages_beside_a_class_are_left_alone() -> None:
    assert isinstance(missing, _Placeholder)  # in the file of `Remembers`, of which functions' caches are emptied
    result = gp.prune(net(), torch.randn(3, 6), target="channels=0.6")
    assert result.report.after.parameters < result.report.before.parameters
