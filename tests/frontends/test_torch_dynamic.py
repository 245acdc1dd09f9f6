"""What was captured at one batch size runs at others: as a graph module, as `.pt2` and as ONNX."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import nn

from graphprune.coupling import couple
from graphprune.frontends.torch import Emitted, capture, emit, load, run, save, to_graph_module
from graphprune.pruning.budgets import targets
from tests import torchvision_shim  # noqa: F401  (first)
from tests.helpers import prune_coupling

from torchvision import models  # isort: skip


class Net(nn.Module):
    """A module made from a function of the module and its inputs."""

    def __init__(self, function: Callable[..., Any], **parts: Any) -> None:
        super().__init__()
        self.function = function
        for name, part in parts.items():
            setattr(self, name, nn.Parameter(part) if isinstance(part, torch.Tensor) else part)

    def forward(self, *inputs: torch.Tensor) -> Any:
        return self.function(self, *inputs)


def class_token(net: Any, x: torch.Tensor) -> torch.Tensor:
    joined: torch.Tensor = net.linear(torch.cat([net.token.expand(x.shape[0], -1, -1), x], 1))
    return joined[:, 0]


def repeated_token(net: Any, x: torch.Tensor) -> torch.Tensor:
    return torch.cat([net.token.repeat(x.shape[0], 1, 1), x], 1) + net.token


def windows(net: Any, x: torch.Tensor) -> torch.Tensor:
    """Cut into windows, look at neighbors across them, and put together again."""
    b, h, w, c = x.shape
    x = x.view(b, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(b * (h // 2) * (w // 2), 4, c)
    x = x + net.linear(x)
    scores = (x @ x.mT).view(b, -1, 4, 4) + torch.arange(4.0)
    x = scores.view(-1, 4, 4).softmax(-1) @ x
    return x.view(b, h // 2, w // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)


def sequence_first(net: Any, x: torch.Tensor) -> torch.Tensor:
    """Time before batch, flattened together: what `nn.MultiheadAttention` does."""
    y: torch.Tensor = net.attention(x, x, x, need_weights=False)[0]
    z: torch.Tensor = net.attention(y, y, x, need_weights=True)[0]
    return z


def grouped_query(net: Any, x: torch.Tensor) -> torch.Tensor:
    b, t, _ = x.shape
    q = net.linear(x).view(b, t, 4, 2).transpose(1, 2)
    k = x[..., :4].reshape(b, t, 2, 2).transpose(1, 2)
    k = k[:, :, None].expand(b, 2, 2, t, 2).reshape(b, 4, t, 2)
    return (q @ k.mT).softmax(-1).sum(1)


def token_types(net: Any, x: torch.Tensor) -> torch.Tensor:
    """Ids made up for the batch."""
    kinds = torch.zeros(x.shape[:2], dtype=torch.long)
    return x + net.table(kinds) + torch.zeros(x.shape[0], x.shape[1], 1)


def pooled(net: Any, x: torch.Tensor) -> Any:
    image = x.unsqueeze(1).repeat_interleave(2, 1)
    return {"flat": image.flatten(1), "squeezed": image.mean((2, 3)).squeeze(-1), "split": image.chunk(2, 1)[1]}


NETS: dict[str, Callable[[], nn.Module]] = {
    "class token": lambda: Net(class_token, token=torch.randn(1, 1, 8), linear=nn.Linear(8, 8)),
    "repeated token": lambda: Net(repeated_token, token=torch.randn(1, 1, 8)),
    "sequence first": lambda: Net(sequence_first, attention=nn.MultiheadAttention(8, 2, batch_first=True)),
    "grouped query": lambda: Net(grouped_query, linear=nn.Linear(8, 8)),
    "token types": lambda: Net(token_types, table=nn.Embedding(2, 8)),
    "pooled": lambda: Net(pooled),
    "lstm": lambda: Net(lambda n, x: n.lstm(x)[0], lstm=nn.LSTM(8, 4, 2, batch_first=True, bidirectional=True)),
    "projected lstm": lambda: Net(lambda n, x: n.lstm(x)[0], lstm=nn.LSTM(8, 6, proj_size=4, batch_first=True)),
    "gru, time first": lambda: Net(lambda n, x: n.gru(x.transpose(0, 1))[0].mean(0), gru=nn.GRU(8, 4)),
    "encoder": lambda: nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1),
}


def one_by_one(module: nn.Module, x: torch.Tensor) -> list[np.ndarray]:
    runs = [run(module, x[i : i + 1]) for i in range(len(x))]
    return [np.concatenate(outputs) for outputs in zip(*runs, strict=True)]


def assert_close(got: list[np.ndarray], expected: list[np.ndarray]) -> None:
    assert len(got) == len(expected)
    for a, b in zip(got, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("name", list(NETS))
def test_other_batch_sizes(name: str, batch: int) -> None:
    torch.manual_seed(0)
    net = NETS[name]().eval()
    graph = capture(net, torch.randn(batch, 5, 8))
    assert all(v.dynamic for v in graph.outputs)
    x = torch.randn(3, 5, 8)
    assert_close(run(to_graph_module(graph, dynamic=True), x), one_by_one(net, x))


@pytest.mark.parametrize("batch", [1, 2, 4])
def test_windows(batch: int) -> None:
    net = Net(windows, linear=nn.Linear(6, 6)).eval()
    graph = capture(net, torch.randn(batch, 4, 4, 6))
    x = torch.randn(3, 4, 4, 6)
    assert_close(run(to_graph_module(graph, dynamic=True), x), one_by_one(net, x))


def test_several_inputs_of_which_one_stays() -> None:
    net = Net(lambda n, x, y, m: x.masked_fill(m, 0.0) @ y.reshape(len(y), 4, 2))
    graph = capture(net, (torch.randn(2, 3, 4), torch.randn(2, 8), torch.ones(3, 4) > 0))
    assert [set(v.dynamic) for v in graph.inputs] == [{0}, {0}, set()]
    x, y, mask = torch.randn(5, 3, 4), torch.randn(5, 8), torch.rand(3, 4) > 0.5
    assert_close(run(to_graph_module(graph, dynamic=True), (x, y, mask)), run(net, (x, y, mask)))


def centered(net: Any, x: torch.Tensor) -> torch.Tensor:
    return x - x.mean(0, keepdim=True)


def last(net: Any, x: torch.Tensor) -> torch.Tensor:
    return x[torch.arange(len(x)), [4] * len(x)]


def interleaved(net: Any, x: torch.Tensor) -> torch.Tensor:
    return x.transpose(0, 1).reshape(x.shape)


@pytest.mark.parametrize("function", [centered, last, interleaved])
def test_what_cannot_follow_takes_the_example_s_sizes(function: Callable[..., Any], tmp_path: Path) -> None:
    x = torch.randn(2, 5, 8)
    net = Net(function).eval()
    torch.export.save(torch.export.export(net, (x,)), tmp_path / "model.pt2")
    emitted = emit(load(tmp_path / "model.pt2"))
    assert not emitted.dynamic and emitted.reason.endswith("it takes the example's sizes only")
    assert_close(run(emitted.module, x), run(net, x))
    save(emitted, tmp_path / "model.onnx")
    assert dims(tmp_path / "model.onnx") == [[2, 5, 8]]


def dims(path: Path) -> list[list[Any]]:
    found = onnx.load(path).graph.input
    return [[d.dim_param or d.dim_value for d in v.type.tensor_type.shape.dim] for v in found]


CONVOLUTIONAL: dict[str, Callable[[], nn.Module]] = {
    "swin": lambda: models.SwinTransformer([4, 4], 24, [2, 2], [2, 4], [4, 4], num_classes=10),
    "shufflenet": lambda: models.ShuffleNetV2([1, 2, 1], [8, 16, 24, 32, 48], num_classes=10),
}


@pytest.fixture(params=[f"{name}, {batch}" for name in CONVOLUTIONAL for batch in (1, 2)])
def pruned(request: pytest.FixtureRequest) -> Emitted:
    torch.manual_seed(0)
    name, batch = request.param.split(", ")
    graph = capture(CONVOLUTIONAL[name]().eval(), torch.randn(int(batch), 3, 32, 32))
    return emit(prune_coupling(couple(graph), targets.channels(0.5)).graph, trial=lambda _: "not wanted here")


def test_pruned_graph_modules(pruned: Emitted, tmp_path: Path) -> None:
    assert pruned.form == "graph" and pruned.dynamic
    x = torch.randn(3, 3, 32, 32)
    expected = one_by_one(pruned.module, x)
    assert_close(run(pruned.module, x), expected)
    pruned.module.train()
    pruned.module(x).sum().backward()
    pruned.module.eval()
    save(pruned, tmp_path / "model.onnx")
    assert dims(tmp_path / "model.onnx") == [["batch", 3, 32, 32]]
    assert all(n.op_type != "Range" for n in onnx.load(tmp_path / "model.onnx").graph.node), "strides were mended"
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert_close(session.run(None, {session.get_inputs()[0].name: x.numpy()}), one_by_one(pruned.module, x))


@pytest.mark.parametrize("batch", [1, 2])
def test_files_of_the_own_class(batch: int, tmp_path: Path) -> None:
    net = NETS["class token"]().eval()
    graph = capture(net, torch.randn(batch, 5, 8))
    x = torch.randn(3, 5, 8)
    save(graph, tmp_path / "model.pt2")
    loaded = load(tmp_path / "model.pt2")
    assert loaded.inputs[0].shape == (batch, 5, 8)
    emitted = emit(loaded)
    assert emitted.dynamic
    assert_close(run(emitted.module, x), run(net, x))
    assert_close(run(torch.export.load(tmp_path / "model.pt2").module(), x), run(net, x))
    save(graph, tmp_path / "model.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx")
    assert_close(session.run(None, {session.get_inputs()[0].name: x.numpy()}), run(net, x))
