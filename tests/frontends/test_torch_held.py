"""Models as people hold them: in wrappers, as TorchScript, without values, packed; what is said where none helps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel

import graphprune as gp
from graphprune.errors import InputError

X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU())
        self.head = nn.Linear(16, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x).mean((2, 3)))  # type: ignore[no-any-return]


def made() -> Net:
    torch.manual_seed(0)
    return Net().eval()


def distributed(net: nn.Module, folder: Path) -> nn.Module:
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
    return DistributedDataParallel(net)


WRAPPERS: dict[str, Callable[[nn.Module, Path], nn.Module]] = {
    "DataParallel": lambda net, _: DataParallel(net),
    "DistributedDataParallel": distributed,
    "OptimizedModule": lambda net, _: torch.compile(net, backend="eager"),  # type: ignore[return-value]
    "AveragedModel": lambda net, _: torch.optim.swa_utils.AveragedModel(net),
}


@pytest.mark.parametrize("name", WRAPPERS)
def test_wrappers_are_taken_off_and_the_report_says_so(name: str, tmp_path: Path) -> None:
    try:
        result = gp.prune(WRAPPERS[name](made(), tmp_path), X, target=gp.channels(0.5))
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()
    assert type(result.model) is Net and result.model.head.in_features == 8
    assert any(f"{name} was taken off" in note for note in result.report.notes)


@pytest.mark.parametrize("script", [torch.jit.script, lambda m: torch.jit.trace(m, X)], ids=["scripted", "traced"])
def test_torchscript_comes_back_as_a_graph_module(script: Callable[[Any], Any]) -> None:
    net = made()
    result = gp.prune(script(net), X, target=gp.channels(0.5))
    assert result.emitted.form == "graph" and "TorchScript holds no Python class" in result.emitted.reason
    assert dict(result.model.named_parameters())["head.weight"].shape == (4, 8)
    kept = list(result.plan.groups[0].keep[0])
    with torch.no_grad():
        gone = sorted(set(range(16)) - set(kept))
        net.features[1].weight[gone], net.features[1].bias[gone] = 0, 0  # type: ignore[index, union-attr]
        torch.testing.assert_close(result.model(X), net(X))


class Odd(Net):
    """TorchScript that torch cannot translate: a dictionary of lists, filled in a loop over text."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: dict[str, list[torch.Tensor]] = {}
        for letter in "ab":
            found[letter] = [self.features(x)]
        return self.head(found["a"][0].mean((2, 3)))  # type: ignore[no-any-return]


def test_torchscript_that_torch_cannot_translate_is_refused_in_a_sentence() -> None:
    with pytest.raises(InputError, match="cannot translate this TorchScript module.*the Python module"):
        gp.capture(torch.jit.script(Odd().eval()), X)


def test_tensors_without_values_are_told() -> None:
    with torch.device("meta"):
        empty = Net().eval()
    with pytest.raises(InputError, match="meta device, without values: load its weights"):
        gp.prune(empty, X, target=gp.channels(0.5))
    with pytest.raises(InputError, match="meta device, without values"):
        gp.prune(empty, X.to("meta"), target=gp.channels(0.5))


def test_packed_integers_are_told_with_their_place() -> None:
    packed = torch.ao.quantization.quantize_dynamic(made(), {nn.Linear})
    with pytest.raises(InputError, match=r"'head' holds packed integers.*before it is converted"):
        gp.prune(packed, X, target=gp.channels(0.5))


class Listed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.parameters = nn.ParameterList([torch.randn(16, 3)])  # type: ignore[assignment]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        held: Any = self._modules["parameters"]
        return x.movedim(1, -1) @ held[0].t()  # type: ignore[no-any-return]


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Module()
        self.inner.modules = [nn.Linear(3, 4)]  # type: ignore[assignment]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x


@pytest.mark.parametrize(
    ("kind", "said"), [(Listed, "'Listed' keeps.*'parameters'"), (Plain, "'inner' keeps.*'modules'")]
)
def test_names_that_torch_has_for_itself_are_told(kind: type[nn.Module], said: str) -> None:
    with pytest.raises(InputError, match=f"{said}.*give it another name"):
        gp.prune(kind(), X, target=gp.channels(0.5))


class Gaps(nn.Module):
    """Layers with holes between them."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3, 16, 3), None, nn.Conv2d(16, 16, 3), nn.Conv2d(16, 4, 1)])  # type: ignore[list-item]
        del self.layers._modules["2"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        for layer in self.layers._modules.values():
            x = x if layer is None else layer(x).relu()
        return x


def test_lists_of_modules_may_have_gaps() -> None:
    torch.manual_seed(0)
    result = gp.prune(Gaps().eval(), X, target=gp.channels(0.5))
    assert result.emitted.form == "module" and set(result.model.layers._modules) == {"0", "1", "3"}
    assert result.model.layers._modules["3"].in_channels == 8


class Deciding(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        hidden = self.features(x)
        if hidden.mean() > x.mean():
            hidden = hidden.sqrt()
        return self.head(hidden.mean((2, 3)))  # type: ignore[no-any-return]


class Failing(Net):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(x))  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        (
            Deciding,
            r"decides by values .*\(at .*test_torch_held.py:\d+: if hidden.mean\(\) > x.mean\(\):\); .*--submodule",
        ),
        (Failing, r"Failing cannot be run on inputs .*\(at .*test_torch_held.py:\d+: return self.head\(self.features"),
    ],
)
def test_the_line_of_the_user_is_named(kind: type[nn.Module], said: str) -> None:
    torch.manual_seed(0)
    net = kind().eval()
    with pytest.raises(InputError, match=said):
        gp.prune(net, X + torch.randn(2, 3, 8, 8), target=gp.channels(0.5))


class Energy(nn.Module):
    """Forces, as the gradient of an energy."""

    def __init__(self, inside: bool) -> None:
        super().__init__()
        self.inside = inside
        self.net = nn.Sequential(nn.Linear(8, 16), nn.Tanh(), nn.Linear(16, 4))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        with torch.set_grad_enabled(self.inside or torch.is_grad_enabled()):
            x = x.detach().requires_grad_(True)
            return torch.autograd.grad(self.net(x).sum(), x)[0]


@pytest.mark.parametrize("inside", [True, False])
def test_gradients_in_forward_are_told_and_the_part_without_them_is_pruned(inside: bool) -> None:
    torch.manual_seed(0)
    net, x = Energy(inside).eval(), torch.randn(3, 8)
    with pytest.raises(InputError, match="computes gradients in its forward.*--submodule NAME"):
        gp.prune(net, x, target=gp.channels(0.5))
    result = gp.prune(net, x, target=gp.channels(0.5), submodule="net")
    assert result.model.net[0].out_features == 8
    assert result.model(x).shape == x.shape


class Labelled(nn.Module):
    """A layer that keeps a label under the name of a method that nobody needs."""

    def __init__(self, label: str) -> None:
        super().__init__()
        self.layer = nn.Linear(16, 16)
        self.type = label  # type: ignore[assignment]
        self.half = 0.5  # type: ignore[assignment]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.layer(x).relu() * self.half
        return y


def test_names_of_methods_that_nobody_calls_may_be_taken() -> None:
    module = nn.Sequential(Labelled("first"), Labelled("second"), nn.Linear(16, 2))
    result = gp.prune(module, torch.randn(3, 16), target="channels=0.5")
    assert isinstance(result.model, nn.Sequential)
    assert [layer.type for layer in list(result.model)[:2]] == ["first", "second"]
    assert result.report.after.parameters < result.report.before.parameters
