"""Running in float64: casts, constants, states and fused kernels included; and what the proof does with it."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from graphprune import frontends
from graphprune.calibration.running import wide_runner
from graphprune.coupling import couple
from graphprune.frontends.torch.run.execute import run
from graphprune.passes.remove_channels import remove_channels
from graphprune.pruning.budgets import targets
from graphprune.verification import proof, trial
from graphprune.verification.masking import treatment
from tests.helpers import graph_of, random_plan


class Mixed(nn.Module):
    """Whatever names a float type, or writes to a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.casts = True
        self.first = nn.Linear(4, 8)
        self.cell = nn.LSTM(8, 8, batch_first=True)
        self.mask = nn.Parameter(torch.randn(5, 5))
        self.register_buffer("count", torch.zeros(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.first(x)
        y = self.cell(y.float() if self.casts else y)[0]
        self.count += 0.1
        y = y + self.count + torch.full((8,), 0.3, dtype=torch.float32) + torch.tensor(1 / 3)
        return F.scaled_dot_product_attention(y, y.to(self.mask.dtype), y, self.mask)


def test_everything_runs_in_float64() -> None:
    torch.manual_seed(0)
    module, x = Mixed().eval(), torch.randn(2, 5, 4)
    narrow, wide = copy.deepcopy(module), copy.deepcopy(module)
    found, rough = run(wide, (x,), wide=True)[0], run(narrow, (x,))[0]
    module.casts = False
    torch.set_default_dtype(torch.float64)
    try:
        exact = run(module.double(), (x.double(),))[0]
    finally:
        torch.set_default_dtype(torch.float32)
    assert found.dtype == np.float64
    assert np.abs(found - rough).max() > 1e-9
    # The buffer grows by 0.1 of float32 or of float64: only what `float` rounds in `exact` may differ.
    np.testing.assert_allclose(found, exact, atol=1e-6)
    np.testing.assert_allclose(found, rough, atol=1e-5)


def cancelling() -> nn.Module:
    """Large numbers that cancel: the rounding of float32 shows in the result."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            generator = torch.Generator().manual_seed(0)
            self.a = nn.Parameter(torch.randn(96, 6, generator=generator))
            self.b = nn.Parameter(torch.randn(3, 96, generator=generator))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = F.linear(x, self.a)
            small = F.linear(y, self.b)
            return F.linear(y * 7.3e4, self.b) - small * 7.3e4 + small

    return Net()


def _proof(change: Any = None) -> proof.Proof:
    graph = graph_of(cancelling(), torch.randn(2, 6, generator=torch.Generator().manual_seed(1)))
    coupling = couple(graph)
    keep = random_plan(coupling, targets.channels(0.5)).kept(coupling)
    module = frontends.emit(remove_channels(coupling, keep)).module
    if change is not None:
        with torch.no_grad():
            change(module)
    return proof.verify(coupling, keep, module)


def test_rounding_is_told_by_float64() -> None:
    found = _proof()
    assert found.passed
    assert found.max_error <= trial.WIDE["float64"]
    assert found.tolerance == trial.WIDE["float64"]
    assert "in float64 they differ by" in found.detail


def test_a_real_difference_of_the_same_size_is_not_forgiven() -> None:
    found = _proof(lambda module: module.b.mul_(1.004))
    assert not found.passed
    assert found.max_error > 1e-3


def test_wrong_modules_are_told_by_one_input_and_the_reference_runs_in_float64_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The caller's own class is tried with many settings: most trials must be cheap."""
    graph = graph_of(cancelling(), torch.randn(2, 6, generator=torch.Generator().manual_seed(1)))
    coupling = couple(graph)
    keep = random_plan(coupling, targets.channels(0.5)).kept(coupling)
    right = frontends.emit(remove_channels(coupling, keep)).module
    reference, runs = proof.Reference(coupling, keep), Counter[str]()
    names = {id(reference._bench.model): "reference", id(right): "right"}

    def counted(graph: Any, model: Any, script: Any) -> Any:
        runs[names.get(id(model), "wrong")] += 0
        plain = wide_runner(graph, model, script)

        def run_wide(feed: Any) -> Any:
            runs[names.get(id(model), "wrong")] += 1
            return plain(feed)

        return run_wide

    monkeypatch.setattr(trial, "wide_runner", counted)
    for factor in (1.01, 1.02, 1.03):
        wrong = copy.deepcopy(right)
        with torch.no_grad():
            wrong.b.mul_(factor)
        assert "results differ by" in reference.problem(wrong)
    assert runs == {"reference": 1, "wrong": 3}
    with monkeypatch.context() as patch:
        patch.setattr(proof, "HOPELESS", 0.0)
        assert "results differ by" in reference.problem(wrong)
        assert runs == {"reference": 1, "wrong": 3}
    assert not reference.problem(right)
    assert runs["reference"] <= 3 and runs["right"] <= 4


def test_values_of_a_model_in_memory_are_held_for_one_input_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three inputs at once would need three times the memory; a checkpoint's weights are read once for all instead."""
    coupling = couple(graph_of(cancelling(), torch.randn(2, 6)))
    reference = frontends.of(coupling.graph).instrument(
        coupling.graph, treatment(coupling, np.ones(coupling.count, bool))
    )
    held: list[int] = []
    walk = reference._walk

    def counted(given: Any, progress: Any) -> Any:
        held.append(len(given))
        return walk(given, progress)

    monkeypatch.setattr(reference, "_walk", counted)
    told: list[float] = []
    inputs = [((torch.randn(2, 6),), {}) for _ in range(3)]
    found = reference.together(inputs, told.append)
    assert held == [1, 1, 1]
    assert told == sorted(told) and told[0] == 0 and 2 / 3 < told[-1] < 1
    for (args, _), result in zip(inputs, found, strict=True):
        torch.testing.assert_close(result, reference(*args))
