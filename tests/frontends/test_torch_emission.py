"""Modules written back: own class where it does, graph module where not, and both trainable."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as nf
from torch import nn
from torch.utils import _pytree as pytree

from graphprune.frontends.torch import Emitted, capture, capture_training, emit, random_inputs, run, to_graph_module
from graphprune.ir.graph import Graph, Value, Weight


def keep(graph: Graph, name: str, axis: int, indices: list[int]) -> None:
    """Slice one weight of a graph, as the pruning pass does."""
    for node in graph.nodes:
        for at, value in enumerate(node.inputs):
            if value is not None and value.name == name:
                assert value.weight is not None
                array = np.take(value.weight.array(), indices, axis)
                weight = Weight.of(array, trainable=value.weight.trainable, tied=value.weight.tied)
                node.inputs[at] = Value(name, array.shape, value.dtype, weight=weight)


def agree(module: nn.Module, other: nn.Module, inputs: Any) -> None:
    for a, b in zip(run(module, inputs), run(other, inputs), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def trains(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
    """A few steps of SGD lower a loss."""
    module.train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
    losses = []
    for _ in range(8):
        torch.manual_seed(0)  # the same elements dropped each time
        optimizer.zero_grad()
        loss = sum((t**2).mean() for t in pytree.tree_leaves(module(*inputs)))
        assert isinstance(loss, torch.Tensor)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


class Net(nn.Module):
    """Convolution, norm, dropout and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, padding=1)
        self.norm = nn.BatchNorm2d(8)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.drop(nf.relu(self.norm(self.conv(x))).mean((2, 3))))


def pruned_net() -> tuple[Graph, Net]:
    net = Net().eval()
    graph = capture(net, torch.randn(4, 3, 6, 6)).copy()
    for name, axis in [("conv.weight", 0), ("conv.bias", 0), ("head.weight", 1)]:
        keep(graph, name, axis, [0, 2, 5])
    for name in ("norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"):
        keep(graph, name, 0, [0, 2, 5])
    return graph, net


def test_own_class_with_sizes_updated() -> None:
    graph, net = pruned_net()
    emitted = emit(graph)
    assert (emitted.form, emitted.reason) == ("module", "")
    module = emitted.module
    assert type(module) is Net
    assert (module.conv.out_channels, module.norm.num_features, module.head.in_features) == (3, 3, 3)
    assert list(module.state_dict()) == list(net.state_dict())
    assert net.conv.out_channels == 8 and net.conv.weight.shape[0] == 8
    agree(module, to_graph_module(graph), emitted.inputs)


@pytest.mark.parametrize("form", ["module", "graph"])
def test_both_forms_train(form: str) -> None:
    graph, _ = pruned_net()
    trains(emit(graph).module if form == "module" else to_graph_module(graph), (torch.randn(4, 3, 6, 6),))


def test_the_original_is_untouched_by_training_the_result() -> None:
    net = Net()
    before = {k: v.clone() for k, v in net.state_dict().items()}
    trains(emit(capture(net, torch.randn(4, 3, 6, 6))).module, (torch.randn(4, 3, 6, 6),))
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())


def test_graph_module_keeps_names_modes_and_copies() -> None:
    graph, net = pruned_net()
    module = to_graph_module(graph)
    assert set(module.state_dict()) == set(net.state_dict()) - {"norm.num_batches_tracked"}
    x = torch.randn(4, 3, 6, 6)
    agree(copy.deepcopy(module), module, (x,))
    module.train()
    assert not torch.equal(module(x), module(x))
    module.eval()
    assert torch.equal(module(x), module(x))


def test_frozen_parameters_stay_frozen() -> None:
    net = Net()
    net.conv.weight.requires_grad_(False)
    graph = capture(net, torch.randn(4, 3, 6, 6))
    for module in (emit(graph).module, to_graph_module(graph)):
        assert not module.get_parameter("conv.weight").requires_grad
        assert module.get_parameter("head.weight").requires_grad


class Tied(nn.Module):
    """Embedding and output projection share a weight; a second pair shares memory only."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(11, 6)
        self.out = nn.Linear(6, 11, bias=False)
        self.out.weight = self.embed.weight
        self.a, self.b = nn.Linear(6, 6), nn.Linear(6, 6)
        self.b.weight.data = self.a.weight.data

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.b(nf.relu(self.a(self.embed(ids)))))


def test_tied_weights_stay_tied() -> None:
    net = Tied()
    graph = capture(net, torch.tensor([[1, 2, 3]]))
    assert [n for n in graph.weights() if n.endswith("weight")] == ["embed.weight", "a.weight"]
    emitted = emit(graph)
    assert emitted.form == "module"
    for module in (emitted.module, to_graph_module(graph), copy.deepcopy(to_graph_module(graph))):
        assert set(module.state_dict()) == set(net.state_dict())
        assert module.get_parameter("out.weight") is module.get_parameter("embed.weight")
        assert module.get_parameter("a.weight").data_ptr() == module.get_parameter("b.weight").data_ptr()


class Heads(nn.Module):
    """Sizes written into attributes that `forward` reads."""

    def __init__(self) -> None:
        super().__init__()
        self.heads, self.width = 4, 3
        self.shape = (4, 3)
        self.qkv, self.out = nn.Linear(5, 36), nn.Linear(12, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, self.width)).permute(2, 0, 3, 1, 4)
        y = nf.scaled_dot_product_attention(q, k, v).transpose(1, 2)
        return self.out(y.reshape(*y.shape[:2], self.shape[0] * self.shape[1]))


def pruned_heads(module: nn.Module) -> Graph:
    graph = capture(module, torch.randn(2, 4, 5)).copy()
    kept = [h * 3 + d for h in (0, 3) for d in range(3)]
    rows = [part * 12 + i for part in range(3) for i in kept]
    for name, axis, indices in [("qkv.weight", 0, rows), ("qkv.bias", 0, rows), ("out.weight", 1, kept)]:
        keep(graph, name, axis, indices)
    for node in graph.nodes:
        shape = node.attrs.get("shape")
        if node.kind == "reshape" and shape is not None:
            node.change(shape=tuple({4: 2, 12: 6}.get(n, n) if at > 1 else n for at, n in enumerate(shape)))
    return graph


def test_size_attributes_follow() -> None:
    graph = pruned_heads(Heads())
    emitted = emit(graph)
    assert emitted.form == "module", emitted.reason
    assert "heads: 4 -> 2" in emitted.reason
    assert (emitted.module.heads, emitted.module.width, emitted.module.shape) == (2, 3, (2, 3))


class BakedHeads(Heads):
    """The same with sizes in the code."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).unflatten(-1, (3, 4, 3)).permute(2, 0, 3, 1, 4)
        return self.out(nf.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(2, 4, 12))


class Scaled(nn.Module):
    """A layer with two numbers that equal a size, of which one follows it."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 6)
        self.width, self.divisor = 6, 6

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.layer(x)).reshape(3, self.width) / self.divisor


def test_attributes_of_alike_layers_are_tried_together() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(*(Scaled() for _ in range(4)), nn.Linear(6, 2)).eval()
    graph = capture(module, torch.randn(3, 6)).copy()
    for layer in range(4):
        keep(graph, f"{layer}.layer.weight", 0, [0, 2, 5])
        keep(graph, f"{layer}.layer.bias", 0, [0, 2, 5])
        keep(graph, f"{layer + 1}.layer.weight" if layer < 3 else "4.weight", 1, [0, 2, 5])
    for node in graph.nodes:
        if node.kind == "reshape":
            node.change(shape=(3, 3))
    emitted = emit(graph)
    assert emitted.form == "module", emitted.reason
    assert [(s.width, s.divisor) for s in list(emitted.module.children())[:4]] == [(3, 6)] * 4


def test_sizes_in_the_code_give_a_graph_module() -> None:
    graph = pruned_heads(BakedHeads())
    emitted = emit(graph)
    assert emitted.form == "graph"
    assert emitted.reason.startswith("BakedHeads as it stands does not do: ")
    assert emitted.module.get_parameter("out.weight").shape == (2, 6)


def test_take_gathers_after_the_operator() -> None:
    net = nn.Sequential(nn.Unflatten(1, (2, 3)), nn.Flatten())
    x = torch.randn(2, 6)
    graph = capture(net, x).copy()
    graph.nodes[-1].change(take=[(1, np.array([5, 0]))])
    assert torch.equal(to_graph_module(graph)(x), x[:, [5, 0]])


@dataclass
class Pair:
    """A result type of a user."""

    first: torch.Tensor
    second: torch.Tensor | None = None


torch.export.register_dataclass(Pair, serialized_type_name="tests.Pair")


class Structured(nn.Module):
    """Keyword arguments in; a dict, nested lists, constants and a dataclass out."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4)

    def forward(self, x: torch.Tensor, *, mask: torch.Tensor | None = None, scale: float = 1.0) -> Any:
        y = self.layer(x) * scale
        return {"y": y, "rest": [y + 1, None, 3], "pair": Pair(y if mask is None else y * mask)}


def test_structured_inputs_and_results() -> None:
    net = Structured().eval()
    inputs = {"x": torch.randn(2, 4), "mask": torch.tensor([[True], [False]]), "scale": 2.0}
    graph = capture(net, inputs)
    assert [v.name for v in graph.inputs] == ["x", "mask"]
    emitted = emit(graph)
    assert emitted.form == "module"
    for module in (emitted.module, to_graph_module(graph)):
        result = module(**inputs)
        assert list(result) == ["y", "rest", "pair"] and result["rest"][1:] == [None, 3]
        assert isinstance(result["pair"], Pair) and result["pair"].second is None
        agree(module, net, inputs)
    fresh = random_inputs(graph, 3)
    assert fresh["scale"] == 2.0 and fresh["mask"].dtype is torch.bool and not torch.equal(fresh["x"], inputs["x"])
    agree(to_graph_module(graph), net, fresh)


def test_random_integers_stay_valid() -> None:
    graph = capture(nn.Embedding(5, 2), torch.tensor([[4, 0, 1]]))
    (ids,) = random_inputs(graph, 0)
    assert sorted(ids.flatten().tolist()) == [0, 1, 4]


@pytest.mark.parametrize(
    ("module", "shape"),
    [
        (nn.Sequential(nn.Conv1d(4, 4, 3, groups=2), nn.GroupNorm(2, 4), nn.PReLU(4)), (2, 4, 8)),
        (nn.Sequential(nn.ConvTranspose2d(3, 4, 2), nn.InstanceNorm2d(4, affine=True)), (2, 3, 5, 5)),
        (nn.Sequential(nn.Linear(4, 4), nn.RMSNorm(4), nn.LayerNorm(4)), (2, 4)),
        (nn.LSTM(4, 3, 2, bidirectional=True), (5, 2, 4)),
        (nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (2, 5, 8)),
    ],
)
def test_unpruned_modules_come_back(module: nn.Module, shape: tuple[int, ...]) -> None:
    graph = capture(module, torch.randn(shape))
    emitted = emit(graph)
    assert (emitted.form, emitted.reason) == ("module", "")
    assert type(emitted.module) is type(module)
    trains(to_graph_module(graph), (torch.randn(shape),))


def test_mode_is_restored() -> None:
    net = Net()
    net.norm.eval()
    capture(net, torch.randn(4, 3, 6, 6))
    assert net.training and net.conv.training and not net.norm.training


class Auxiliary(nn.Module):
    """A second head that only training uses."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.norm = nn.Linear(4, 6), nn.BatchNorm1d(6)
        self.head, self.aux = nn.Linear(6, 2), nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> Any:
        y = nf.relu(self.norm(self.body(x)))
        return (self.head(y), self.aux(y)) if self.training else self.head(y)


def test_heads_of_training_are_captured_and_sliced() -> None:
    net = Auxiliary()
    graph = capture(net, torch.randn(1, 4))
    training = capture_training(graph)
    assert training is not None and "aux.weight" in training.weights() and "aux.weight" not in graph.weights()
    assert training.weights()["body.weight"] is graph.weights()["body.weight"]
    pruned, pruned_training = graph.copy(), training.copy()
    for each in (pruned, pruned_training):
        keep(each, "body.weight", 0, [1, 4])
        keep(each, "head.weight", 1, [1, 4])
        keep(each, "aux.weight", 1, [1, 4])
        for name in ("body.bias", "norm.weight", "norm.bias", "norm.running_mean", "norm.running_var"):
            keep(each, name, 0, [1, 4])
    pruned.training = pruned_training
    emitted = emit(pruned)
    assert emitted.form == "module"
    trains(emitted.module, (torch.randn(8, 4),))


def test_nothing_more_in_training() -> None:
    assert capture_training(capture(Net(), torch.randn(4, 3, 6, 6))) is None


def test_emitted_is_frozen() -> None:
    emitted = emit(capture(nn.Linear(2, 2), torch.randn(1, 2)))
    assert isinstance(emitted, Emitted)
    with pytest.raises(AttributeError):
        emitted.form = "graph"  # type: ignore[misc]
