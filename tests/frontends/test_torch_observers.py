"""Models between `prepare_qat` and `convert` are pruned as they are: the usual order."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn
from torch.ao.quantization import (
    DeQuantStub,
    FakeQuantize,
    MovingAverageMinMaxObserver,
    QConfig,
    QuantStub,
    convert,
    default_per_channel_weight_fake_quant,
    fuse_modules_qat,
    get_default_qat_qconfig,
    prepare_qat,
)

import graphprune as gp

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))
PLAIN = QConfig(
    activation=FakeQuantize.with_args(observer=MovingAverageMinMaxObserver, quant_min=0, quant_max=255),
    weight=default_per_channel_weight_fake_quant,
)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inside, self.outside = QuantStub(), DeQuantStub()
        self.a, self.norm, self.relu = nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU()
        self.b, self.head = nn.Conv2d(16, 16, 3), nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.b(self.relu(self.norm(self.a(self.inside(x)))))
        return self.outside(self.head(hidden.mean((2, 3))))  # type: ignore[no-any-return]


def prepared(how: Any, *, observed: bool = True) -> nn.Module:
    torch.manual_seed(0)
    net = Net().train()
    net = fuse_modules_qat(net, [["a", "norm", "relu"]])
    net.qconfig = how
    prepare_qat(net, inplace=True)
    if observed:
        net(X)
    return net.eval()


@pytest.mark.parametrize("how", [get_default_qat_qconfig("fbgemm"), get_default_qat_qconfig("qnnpack"), PLAIN])
@pytest.mark.parametrize("observed", [True, False])
def test_a_model_that_learns_to_be_integer_is_pruned_in_its_own_class(how: Any, observed: bool) -> None:
    net = prepared(how, observed=observed)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    result = gp.prune(net, X, target=gp.channels(0.5))
    assert result.emitted.form == "module" and result.report.proof is not None and result.report.proof.passed
    assert result.report.after.parameters <= 0.6 * result.report.before.parameters
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())
    observing = [m for m in result.model.modules() if isinstance(m, FakeQuantize)]
    assert observing and all(m.observer_enabled.item() == 1 for m in observing)


def test_after_pruning_it_trains_on_and_becomes_integers() -> None:
    result = gp.prune(prepared(get_default_qat_qconfig("fbgemm")), X, target=gp.channels(0.5))
    model = result.model.train()
    model(X).sum().backward()
    assert all(p.grad is not None for p in model.parameters())
    assert convert(model.eval())(X).shape == (2, 4)
