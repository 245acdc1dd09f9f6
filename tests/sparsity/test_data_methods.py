"""Wanda and SparseGPT against their formulas written plainly, in both routes; and what they do not see."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from torch import nn
from torch.nn import functional as nf

import graphprune as gp
from graphprune.errors import InputError
from graphprune.sparsity.sparsegpt import BLOCK, DAMPING, TOWARD
from tests.helpers import zero_in_fours

GENERATOR = np.random.default_rng(0)


def correlated(samples: int, width: int, dtype: Any = np.float64) -> np.ndarray:
    """Data whose columns differ in size and go together, as activations do."""
    mix = GENERATOR.standard_normal((width, width)) * GENERATOR.uniform(0.1, 3, width)
    return (GENERATOR.standard_normal((samples, width)) @ mix).astype(dtype)


def plain_sparsegpt(weights: np.ndarray, x: np.ndarray, n: int = 0, m: int = 0, share: float = 0.0) -> np.ndarray:
    """Algorithm 1 of the paper in float64, each update made at once; N:M masks by column, others by `BLOCK` columns."""
    w = weights.astype(np.float64).copy()
    hessian = 2 * x.T.astype(np.float64) @ x.astype(np.float64)
    hessian += DAMPING * np.mean(np.diag(hessian)) * np.eye(len(hessian))
    upper = np.linalg.cholesky(np.linalg.inv(hessian)).T
    columns = w.shape[1]
    gone = np.zeros(w.shape, bool)
    for j in range(columns):
        if m and j % m == 0:
            costs = w[:, j : j + m] ** 2 / np.diag(upper)[j : j + m] ** 2
            for row, cost in enumerate(costs):
                gone[row, j + np.argsort(cost, kind="stable")[: m - n]] = True
        if share and j % BLOCK == 0:
            costs = w[:, j : j + BLOCK] ** 2 / np.diag(upper)[j : j + BLOCK] ** 2
            flat = np.argsort(costs, axis=None)[: round(costs.size * share)]
            rows, places = np.unravel_index(flat, costs.shape)
            gone[rows, j + places] = True
        error = np.where(gone[:, j], w[:, j], 0) / upper[j, j]
        w[:, j:] -= np.outer(error, upper[j, j:])
    return np.where(gone, 0, w)


def loss(before: np.ndarray, after: np.ndarray, x: np.ndarray) -> float:
    return float(np.square(x @ (before - after).T).sum() / np.square(x @ before.T).sum())


def linear(width: int, rows: int) -> tuple[nn.Module, np.ndarray]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(width, rows)).double().eval()
    return net, net[0].weight.detach().numpy().copy()


def weight_of(module: nn.Module, name: str = "0.weight") -> np.ndarray:
    return module.get_parameter(name).detach().double().numpy()


@pytest.mark.parametrize("text", ["2:4", "1:4", "4:8", "unstructured:0.6"])
def test_sparsegpt_is_the_papers_algorithm(text: str) -> None:
    net, before = linear(160, 24)
    x = correlated(400, 160)
    made = gp.sparsify(net, torch.from_numpy(x[:10]), pattern=text, data={"input": x})
    assert made.report.method == "sparsegpt"
    n, _, m = text.partition(":") if text[0].isdigit() else ("0", "", "0")
    expected = plain_sparsegpt(before, x, int(n), int(m), 0.0 if m != "0" else 0.6)
    found = weight_of(made.model)
    assert np.array_equal(found != 0, expected != 0)
    assert np.allclose(found, expected, rtol=1e-8, atol=1e-10)
    row = made.report.rows[0]
    assert row.error == pytest.approx(loss(before, found, x), rel=1e-6)


@pytest.mark.parametrize("text", ["2:4", "unstructured:0.5", "block:4x4:0.5", "row:0.25", "64:2:8"])
def test_data_make_the_output_better(text: str) -> None:
    net, before = linear(64, 64)
    x = correlated(500, 64)
    lost = {}
    for method in ("magnitude", "wanda", "sparsegpt"):
        made = gp.sparsify(net, torch.from_numpy(x[:4]), pattern=text, method=method, data={"input": x})
        lost[method] = loss(before, weight_of(made.model), x)
        assert made.report.proof.passed
    assert lost["sparsegpt"] < min(lost["wanda"], lost["magnitude"])
    assert lost["wanda"] < lost["magnitude"] or not text[0].isdigit()


def test_wanda_keeps_the_largest_products() -> None:
    net, before = linear(32, 8)
    x = correlated(50, 32)
    made = gp.sparsify(net, torch.from_numpy(x[:5]), method="wanda", data={"input": x})
    for row, kept in zip(before, made.masks["0.weight"], strict=True):
        scores = [abs(w) * np.sqrt(sum(x[:, j] ** 2)) for j, w in enumerate(row)]
        for start in range(0, 32, 4):
            best = sorted(range(4), key=lambda i: -scores[start + i])[:2]
            assert sorted(best) == np.flatnonzero(kept[start : start + 4]).tolist()


CONVS = {
    "conv": (nn.Conv2d(8, 4, 3, stride=2, padding=1), (8, 9, 9)),
    "dilated": (nn.Conv2d(8, 4, (3, 1), dilation=(2, 1), padding=(2, 1)), (8, 9, 6)),
    "same": (nn.Conv1d(4, 4, 4, padding="same"), (4, 11)),
    "grouped": (nn.Conv2d(8, 6, 3, groups=2), (8, 6, 6)),
    "volume": (nn.Conv3d(4, 4, 2), (4, 4, 4, 4)),
    "transposed": (nn.ConvTranspose2d(8, 4, 3, stride=2, padding=1, output_padding=1), (8, 5, 6)),
    "transposed groups": (nn.ConvTranspose2d(8, 4, (2, 3), dilation=(2, 1), groups=2), (8, 4, 4)),
}


@pytest.mark.parametrize("name", CONVS)
def test_wanda_looks_at_each_position_of_a_kernel(name: str) -> None:
    conv, shape = CONVS[name]
    x = torch.randn(12, *shape) * torch.rand(shape[0]).reshape(-1, *[1] * (len(shape) - 1))
    made = gp.sparsify(nn.Sequential(conv).eval(), x[:3], method="wanda", data=[x[:6], x[6:]])
    weight = conv.weight.detach()
    alone = copy.deepcopy(conv)
    alone.bias = None
    squares = torch.zeros_like(weight)
    for place in np.ndindex(*weight.shape):  # what an entry is multiplied with: the convolution by it alone
        alone.weight.data = torch.zeros_like(weight)
        alone.weight.data[place] = 1
        squares[place] = alone(x).square().sum().detach()
    axis = 0 if isinstance(conv, nn.ConvTranspose2d) else 1
    scores = (weight.abs() * squares.sqrt()).movedim(axis, -1).reshape(-1, weight.shape[axis])
    mask = np.moveaxis(made.masks["0.weight"], axis, -1).reshape(-1, weight.shape[axis])
    for line, kept in zip(scores, mask, strict=True):
        for start in range(0, len(line), 4):
            best = line[start : start + 4].argsort(descending=True)[:2]
            assert sorted(best.tolist()) == np.flatnonzero(kept[start : start + 4]).tolist()


def unfolded(conv: nn.Module, x: torch.Tensor) -> np.ndarray:
    """Windows as rows, kernel positions first, then channels."""
    columns = nf.unfold(x, conv.kernel_size, conv.dilation, conv.padding, conv.stride)
    columns = columns.reshape(len(x), x.shape[1], -1, columns.shape[-1])
    return columns.permute(0, 3, 2, 1).reshape(-1, columns.shape[2] * x.shape[1]).double().numpy()


@pytest.mark.parametrize("name", ["conv", "grouped"])
def test_sparsegpt_solves_convolutions_group_by_group(name: str) -> None:
    conv, shape = CONVS[name]
    conv = conv.double()
    x = torch.randn(40, *shape, dtype=torch.float64)
    made = gp.sparsify(nn.Sequential(conv).eval(), x[:1], data=[x])
    own = shape[0] // conv.groups
    rows = len(conv.weight) // conv.groups
    for group in range(conv.groups):
        part = conv.weight.detach()[group * rows : (group + 1) * rows].flatten(2).permute(0, 2, 1).reshape(rows, -1)
        expected = plain_sparsegpt(part.numpy(), unfolded(conv, x[:, group * own : (group + 1) * own]), 2, 4)
        found = made.model[0].weight.detach()[group * rows : (group + 1) * rows].flatten(2).permute(0, 2, 1)
        assert np.allclose(found.reshape(rows, -1).numpy(), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("groups", [1, 2])
def test_a_transposed_convolution_loses_less_with_data(groups: int) -> None:
    torch.manual_seed(1)
    conv = nn.ConvTranspose2d(8, 6, 3, stride=2, padding=1, output_padding=1, groups=groups).double()
    x = torch.randn(30, 8, 5, 5, dtype=torch.float64).cumsum(1)
    net, lost = nn.Sequential(conv).eval(), {}
    for method in ("magnitude", "wanda", "sparsegpt"):
        made = gp.sparsify(net, x[:2], method=method, data=[x])
        gap = nn.Sequential(made.model[0])(x) - net(x)
        full = net(x) - conv.bias.reshape(1, -1, 1, 1)
        lost[method] = float((gap.square().sum() / full.square().sum()).detach())
    assert lost["sparsegpt"] < min(lost["wanda"], lost["magnitude"])
    row = made.report.rows[0]
    assert row.error == pytest.approx(lost["sparsegpt"], rel=1e-6)


class Net(nn.Module):
    """Two branches with the same data, a shared weight, experts."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(16, 32), nn.Linear(16, 32)
        self.shared = nn.Linear(32, 32)
        self.experts = nn.Parameter(torch.randn(3, 32, 8) * 0.2)
        self.last = nn.Linear(8, 4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(self.first(x)) * self.second(x)
        y = self.shared(torch.tanh(self.shared(y)))
        return self.last(torch.bmm(y.expand(3, -1, -1), self.experts).sum(0))


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_masks_are_exact_in_every_float_type(method: str, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    made = gp.sparsify(Net().to(dtype).eval(), torch.randn(8, 16).to(dtype), method=method, data=[torch.randn(64, 16)])
    axes = {"first.weight": 1, "second.weight": 1, "shared.weight": 1, "experts": 1, "last.weight": 1}
    assert dict.fromkeys(made.masks) == dict.fromkeys(axes)
    assert not [row.note for row in made.report.rows if row.note]
    for name, mask in made.masks.items():
        assert zero_in_fours(mask, axes[name]) == {2}
        assert not made.model.get_parameter(name).detach().float().numpy()[~mask].any()


def as_onnx(net: Net, folder: Path) -> Path:
    """The network as a file, written by hand: weights the other way round."""
    weights = {n: p.detach().numpy() for n, p in net.named_parameters()}
    tensors, nodes = [], []

    def product(name: str, x: str, out: str) -> None:
        tensors.extend(
            [
                numpy_helper.from_array(np.ascontiguousarray(weights[f"{name}.weight"].T), f"{name}.weight"),
                numpy_helper.from_array(weights[f"{name}.bias"], f"{name}.bias"),
            ]
        ) if f"{name}.weight" not in [t.name for t in tensors] else None
        nodes.append(helper.make_node("Gemm", [x, f"{name}.weight", f"{name}.bias"], [out]))

    product("first", "x", "a")
    product("second", "x", "b")
    nodes += [helper.make_node("Relu", ["a"], ["c"]), helper.make_node("Mul", ["c", "b"], ["d"])]
    product("shared", "d", "e")
    nodes.append(helper.make_node("Tanh", ["e"], ["f"]))
    product("shared", "f", "g")
    tensors.append(numpy_helper.from_array(weights["experts"], "experts"))
    tensors.append(numpy_helper.from_array(np.zeros(1, np.int64), "axis"))
    nodes += [
        helper.make_node("Unsqueeze", ["g", "axis"], ["h"]),
        helper.make_node("MatMul", ["h", "experts"], ["i"]),
        helper.make_node("ReduceSum", ["i", "axis"], ["j"], keepdims=0),
    ]
    product("last", "j", "y")
    ends = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["batch", k]) for n, k in (("x", 16), ("y", 4))]
    graph = helper.make_graph(nodes, "net", ends[:1], ends[1:], tensors)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), folder / "net.onnx")
    return folder / "net.onnx"


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_both_routes_agree(method: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, x = Net().eval(), torch.randn(96, 16)
    np.savez(tmp_path / "data.npz", x=x.numpy())
    one = gp.sparsify(net, x[:8], method=method, data=tmp_path / "data.npz")
    two = gp.sparsify(as_onnx(net, tmp_path), method=method, data=tmp_path / "data.npz")
    assert two.report.proof.passed
    found = {t.name: numpy_helper.to_array(t) for t in two.model.graph.initializer}
    for name, mask in one.masks.items():
        turned = name != "experts"
        other = two.masks[name].T if turned else two.masks[name]
        assert np.mean(mask == other) > 0.99
        mine, theirs = weight_of(one.model, name), found[name].T if turned else found[name]
        assert np.abs(mine - theirs).max() < 0.02 if np.array_equal(mask, other) else True


def aimed(weights: np.ndarray, met: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Part of the way to the weights of ridge regression: of the old outputs on what is met, near the old weights."""
    hessian = met.T @ met
    hessian += DAMPING * np.mean(np.diag(hessian)) * np.eye(len(hessian))
    return weights + TOWARD * np.linalg.solve(hessian, met.T @ (before - met) @ weights.T).T


def test_later_layers_make_up_for_earlier_ones() -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 16)).double().eval()
    x = torch.from_numpy(correlated(300, 32))
    made = gp.sparsify(net, x[:4], data=[x])
    hidden, before = (torch.relu(model[0](x)).detach().numpy() for model in (made.model, net))
    old = weight_of(net, "2.weight")
    expected = plain_sparsegpt(aimed(old, hidden, before), hidden, 2, 4)
    assert np.allclose(weight_of(made.model, "2.weight"), expected)
    gaps = [np.square(before @ old.T - hidden @ new.T).sum() for new in (expected, plain_sparsegpt(old, hidden, 2, 4))]
    assert gaps[0] < gaps[1]


def test_what_cannot_be_seen_is_judged_by_magnitude_and_named() -> None:
    class Cell(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.cell = nn.LSTM(8, 8, batch_first=True)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.cell(x)[0]

    made = gp.sparsify(Cell().eval(), torch.randn(2, 5, 8), data=[torch.randn(20, 5, 8)])
    notes = {row.name: row.note for row in made.report.rows}
    assert notes["cell.weight_ih_l0"] == ""
    assert notes["cell.weight_hh_l0"] == "by magnitude: what aten.lstm.input multiplies it with is no operand"
    assert zero_in_fours(made.masks["cell.weight_hh_l0"], 1) == {2}


def test_columns_that_meet_nothing_go_and_data_of_zeros_say_nothing() -> None:
    net, before = linear(16, 8)
    x = correlated(60, 16)
    x[:, 5] = 0
    made = gp.sparsify(net, torch.from_numpy(x[:2]), data={"input": x})
    assert not weight_of(made.model)[:, 5].any()
    empty = gp.sparsify(net, torch.from_numpy(x[:2]), data={"input": np.zeros((8, 16))})
    plain = gp.sparsify(net, torch.from_numpy(x[:2]), method="magnitude")
    assert np.array_equal(weight_of(empty.model), weight_of(plain.model))
    assert np.count_nonzero(before) == before.size


def test_methods_and_data_that_do_not_go_together_are_told() -> None:
    net, _ = linear(16, 8)
    x = torch.randn(4, 16, dtype=torch.float64)
    with pytest.raises(InputError, match="the method 'wanda' looks at data: give some"):
        gp.sparsify(net, x, method="wanda")
    with pytest.raises(InputError, match="compares all weights at once"):
        gp.sparsify(net, x, pattern="global:0.5", data=[x])
    assert "looks at no data" in gp.sparsify(net, x, method="magnitude", data=[x]).report.notes[0]


def test_a_pipeline_takes_data(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = as_onnx(Net(), tmp_path)
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).standard_normal((64, 16)).astype(np.float32))
    graph, _ = gp.optimize(gp.load(path), f"sparsify{{pattern=2:4 data={tmp_path / 'data.npz'}}}", True)
    assert zero_in_fours(graph.weights()["first.weight"].weight.array(), 0) == {2}


@pytest.mark.parametrize(("method", "against"), [("sparsegpt", "updated weights"), ("wanda", "the masked original")])
def test_the_proof_says_what_it_compares_with(method: str, against: str) -> None:
    """SparseGPT changes what stays: then the original's own weights are no reference, and nobody may read it so."""
    net, _ = linear(16, 8)
    x = correlated(40, 16)
    report = gp.sparsify(net, torch.from_numpy(x[:4]), method=method, data={"input": x}).report
    assert against in report.to_json()["proof"]["against"]
    out = io.StringIO()
    report.render(Console(file=out, width=300))
    (line,) = [line for line in out.getvalue().splitlines() if line.startswith("Verification passed")]
    assert against in line
    assert ("masked original" in line) == (method == "wanda")
    assert "groups" not in line
