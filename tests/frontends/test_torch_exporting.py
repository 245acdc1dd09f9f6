"""Modules that `torch.export` alone refuses: branches on values, checked distributions, idle conversions."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv

import graphprune as gp
from graphprune.errors import InputError
from graphprune.frontends.torch.capture.exporting import _with_values


class Layers(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(4, 16), nn.Linear(16, 2)


class Branching(Layers):
    """Another activation where a mask is set anywhere."""

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        hidden = self.first(x)
        special = mask.flatten().any().item()
        return self.last(torch.tanh(hidden) if special else torch.relu(hidden))  # type: ignore[no-any-return]


class Sampled(Layers):
    def forward(self, x: Tensor) -> Tensor:
        spread = nn.functional.softplus(self.first(x))
        return self.last(torch.distributions.Normal(torch.zeros_like(spread), spread).stddev)  # type: ignore[no-any-return]


class Converting(Layers):
    def forward(self, x: Tensor) -> Tensor:
        self.first = self.first.to(torch.float32)
        return self.last(torch.relu(self.first(x)))  # type: ignore[no-any-return]


class Signed(Layers):
    """Another activation where the numbers add up to less than nothing."""

    def forward(self, x: Tensor) -> Tensor:
        hidden = self.first(x)
        return self.last(torch.tanh(hidden) if x.sum() < 0 else torch.relu(hidden))  # type: ignore[no-any-return]


class Counting(Layers):
    """As many rows as there are positive numbers."""

    def forward(self, x: Tensor) -> Tensor:
        rows = self.first(x)[x[:, 0] > 0]
        return self.last(rows if rows.shape[0] > 1 else -rows)  # type: ignore[no-any-return]


X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("special", [False, True])
def test_a_branch_is_taken_as_the_example_takes_it_and_the_report_says_so(special: bool) -> None:
    torch.manual_seed(0)
    module, mask = Branching().eval(), torch.full((3,), special)
    result = gp.prune(module, (X, mask), target=gp.channels(0.5))
    assert any("branches on the values of its inputs" in note for note in result.report.notes)
    assert result.report.after.parameters <= 0.6 * result.report.before.parameters
    (kept,) = next(group.keep for group in result.plan.groups if group.size == 16)
    with torch.no_grad():
        hidden = module.first(X)[:, list(kept)]
        hidden = torch.tanh(hidden) if special else torch.relu(hidden)
        expected = hidden @ module.last.weight[:, list(kept)].T + module.last.bias
        torch.testing.assert_close(result.model(X, mask), expected)


@pytest.mark.parametrize("kind", [Sampled, Converting])
def test_checks_and_conversions_do_not_keep_a_module_from_being_captured(kind: type[Layers]) -> None:
    torch.manual_seed(0)
    checks = torch.distributions.Distribution._validate_args
    result = gp.prune(kind().eval(), X, target=gp.channels(0.5))
    assert result.report.after.parameters <= 0.6 * result.report.before.parameters
    assert not result.report.notes and torch.distributions.Distribution._validate_args is checks


@pytest.mark.parametrize("kind", [Signed, Counting])
def test_branches_that_other_inputs_do_not_take_and_sizes_that_values_decide_are_refused(kind: type[Layers]) -> None:
    with pytest.raises(InputError, match=f"{kind.__name__} runs, but torch.export cannot capture it"):
        gp.capture(kind(), X)


class Compared(Layers):
    """As `nn.TransformerDecoder` does: looks whether a mask is the causal one."""

    def forward(self, x: Tensor) -> Tensor:
        mask = torch.full((3, 3), -torch.inf).triu(1)
        causal = bool((mask == torch.full((3, 3), -torch.inf).triu(1)).all())
        hidden = self.first(x)
        return self.last(torch.relu(hidden) if causal else hidden)  # type: ignore[no-any-return]


def test_a_branch_that_constants_decide_leaves_no_number_behind() -> None:
    torch.manual_seed(0)
    module = Compared().eval()
    assert [node.kind for node in gp.capture(module, X).nodes] == ["matmul", "elementwise", "matmul"]
    assert gp.prune(module, X, target="channels=0.5").report.proof.passed


def test_values_of_parameters_decide_as_they_are() -> None:
    """Beside its fake tensors torch computes real ones; of parameters it would take memory as it was found."""
    with _with_values():
        fake = FakeTensorMode(shape_env=ShapeEnv()).from_tensor(weight := nn.Parameter(torch.rand(64, 64)))
        assert fake.real_tensor is not None and torch.equal(fake.real_tensor, weight)


class Seldom(Layers):
    def forward(self, x: Tensor) -> Tensor:
        hidden = torch.relu(self.first(x))
        return self.last(hidden * 0 if hidden.mean() > 100 else hidden)  # type: ignore[no-any-return]


def test_a_branch_that_is_hardly_ever_taken_is_left_aside() -> None:
    torch.manual_seed(0)
    result = gp.prune(Seldom().eval(), X, target=gp.channels(0.5))
    assert result.report.after.parameters <= 0.6 * result.report.before.parameters
