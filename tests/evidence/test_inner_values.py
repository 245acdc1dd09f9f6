"""Where outputs say nothing, further kinds of inputs are tried and what goes into the outputs is compared."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import graphprune as gp
from graphprune.verification.input_kinds import further_kinds
from tests.evidence.quiet import headed

FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64
node = helper.make_node


def saturated() -> onnx.ModelProto:
    """Scores that are one, whatever comes in."""
    tail = [node("Abs", ["z"], ["s"]), node("Add", ["s", "far"], ["f"]), node("Sigmoid", ["f"], ["y"])]
    return headed(tail, {"y": (FLOAT, [1, 3, 6, 6])}, far=np.full(1, 40.0))


def counted() -> onnx.ModelProto:
    """Nothing is above a threshold: empty lists, and a count of none."""
    tail = [
        node("Sigmoid", ["z"], ["s"]),
        node("Greater", ["s", "high"], ["g"]),
        node("NonZero", ["g"], ["y"]),
        node("Cast", ["g"], ["c"], to=INT64),
        node("ReduceSum", ["c"], ["n"], keepdims=0),
    ]
    return headed(tail, {"y": (INT64, [4, "n"]), "n": (INT64, [])}, high=np.full(1, 2.0))


def ranked() -> onnx.ModelProto:
    """The best of scores that a rounding apart: which it is says nothing."""
    tail = [
        node("Mul", ["z", "tiny"], ["t"]),
        node("Add", ["t", "one"], ["o"]),
        node("Reshape", ["o", "flat"], ["p"]),
        node("TopK", ["p", "k"], ["v", "i"], axis=1),
    ]
    flat, k = np.array([1, -1], np.int64), np.array([5], np.int64)
    return headed(
        tail, {"v": (FLOAT, [1, 5]), "i": (INT64, [1, 5])}, tiny=np.full(1, 1e-8), one=np.ones(1), flat=flat, k=k
    )


def spoiled(model: onnx.ModelProto) -> onnx.ModelProto:
    """A weight that is off by one channel."""
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    tensor = next(t for t in twin.graph.initializer if t.name == "b")
    tensor.CopyFrom(numpy_helper.from_array(np.roll(numpy_helper.to_array(tensor), 1, 1), "b"))
    return twin


@pytest.mark.parametrize("make", [saturated, counted, ranked], ids=lambda m: m.__name__)
@pytest.mark.parametrize("seed", range(4))
def test_what_goes_into_an_output_decides(make: Callable[[], onnx.ModelProto], seed: int) -> None:
    result = gp.prune(make(), target=gp.channels(0.5), align=1, seed=seed)
    proof = result.report.proof
    assert proof is not None and proof.passed, proof
    assert "says too little by itself, so that the value it is made from was compared" in proof.detail
    wrong = gp.verify(result.coupling, spoiled(result.model), result.plan, seed=seed)
    assert wrong.failed, wrong
    assert "the inner value 'z'" in wrong.detail


class Saturated(nn.Module):
    """Scores that are one, whatever comes in, also in float64."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Ones."""
        return torch.sigmoid(self.b(torch.relu(self.a(x))).abs() + 60)


def test_what_goes_into_an_output_decides_for_a_module_of_its_own_class() -> None:
    result = gp.prune(Saturated(), torch.zeros(4, 6), target=gp.channels(0.5), align=1)
    assert type(result.model) is Saturated
    assert result.report.proof is not None and result.report.proof.passed
    with torch.no_grad():
        result.model.b.weight.copy_(result.model.b.weight.roll(1, 1))
    assert not gp.verify(result.coupling, result.model, result.plan).passed


def test_what_goes_into_an_output_decides_for_a_graph_module() -> None:
    class Cut(Saturated):
        """Sizes are written down, so that no such class fits."""

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            """Ones."""
            return torch.sigmoid(self.b(torch.relu(self.a(x)).reshape(-1, 16)).abs() + 60)

    result = gp.prune(Cut(), torch.zeros(4, 6), target=gp.channels(0.5), align=1)
    assert result.report.output_form == "fx GraphModule"
    assert result.report.proof is not None and result.report.proof.passed
    with torch.no_grad():
        result.model.b.weight.copy_(result.model.b.weight.roll(1, 1))
    assert gp.verify(result.coupling, result.model, result.plan).failed


def test_a_value_that_says_nothing_itself_decides_nothing() -> None:
    """The output is what a dead layer makes."""
    tail = [node("Relu", ["w"], ["dead"]), node("Conv", ["dead", "c"], ["u"]), node("Sigmoid", ["u"], ["y"])]
    low = [node("Sub", ["z", "far"], ["w"])]
    model = headed([*low, *tail], {"y": (FLOAT, [1, 2, 6, 6])}, far=np.full(1, 1e9), c=np.ones((2, 3, 1, 1)))
    proof = gp.prune(model, target=gp.channels(0.5), align=1).report.proof
    assert proof is not None and proof.undecided


@pytest.mark.parametrize("threshold", [20.0, 120.0])
def test_inputs_of_other_sizes_wake_a_model_up(threshold: float) -> None:
    """Its first layer takes pictures of 0 to 255, and noise is black to it."""
    random = np.random.default_rng(0)
    weights = {"a": np.abs(random.standard_normal((8, 4, 1, 1))) / 4, "low": np.full(8, -threshold)}
    weights["b"] = random.standard_normal((3, 8, 1, 1))
    nodes = [node("Conv", ["x", "a", "low"], ["h"]), node("Relu", ["h"], ["r"]), node("Conv", ["r", "b"], ["y"])]
    graph = helper.make_graph(
        nodes,
        "pictures",
        [helper.make_tensor_value_info("x", FLOAT, [1, 4, 8, 8])],
        [helper.make_tensor_value_info("y", FLOAT, [1, 3, 8, 8])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    result = gp.prune(model, target=gp.channels(0.5), align=1)
    proof = result.report.proof
    assert proof is not None and proof.passed and proof.inputs > 3, proof
    assert gp.verify(result.coupling, spoiled(result.model), result.plan).failed


def test_kinds_of_inputs() -> None:
    class Both(nn.Module):
        """A table, and pictures."""

        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(50, 4)

        def forward(self, x: torch.Tensor, ids: torch.Tensor) -> Any:
            """Nothing of interest."""
            return x.mean() + self.table(ids)

    graph = gp.capture(Both(), (torch.zeros(1, 3, 32, 32), torch.zeros(2, 40, dtype=torch.int64)))
    feeds = [feed for kind in further_kinds(graph, 0) for feed in kind]
    assert len(feeds) >= 8
    pictures = [np.asarray(x) for x, _ in feeds]
    steps = [np.abs(np.diff(p, axis=-1)).max() / (np.ptp(p) or 1) for p in pictures]
    assert max(p.max() for p in pictures) > 200  # as bytes
    assert min(np.abs(p).max() for p in pictures) < 0.5  # nearly silence
    assert min(s for s, p in zip(steps, pictures, strict=True) if p.std(axis=(2, 3)).min() > 0) < 0.3  # smooth
    assert any(p.std(axis=(2, 3)).max() < 1e-6 for p in pictures)  # constant
    ids = np.stack([np.asarray(i) for _, i in feeds])
    assert ids.min() < 3 and ids.max() > 46 and ids.max() < 50


def test_soft_inputs_show_what_noise_saturates() -> None:
    """A gate that noise opens wide, whatever its weights are, beside a path of its own."""
    random = np.random.default_rng(0)
    weights = {
        "a": random.standard_normal((8, 16)),
        "c": 0.1 + random.random((16, 4)),
        "large": np.full(1, 20.0),
        "v": random.standard_normal((8, 4)),
    }
    nodes = [
        node("MatMul", ["x", "a"], ["h"]),
        node("Abs", ["h"], ["p"]),
        node("MatMul", ["p", "c"], ["q"]),
        node("Mul", ["q", "large"], ["l"]),
        node("Sigmoid", ["l"], ["g"]),
        node("MatMul", ["x", "v"], ["z"]),
        node("Mul", ["g", "z"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "gated",
        [helper.make_tensor_value_info("x", FLOAT, [3, 8])],
        [helper.make_tensor_value_info("y", FLOAT, [3, 4])],
        [numpy_helper.from_array(array.astype(np.float32), name) for name, array in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8)
    result = gp.prune(model, target=gp.channels(0.5), align=1)
    assert result.report.proof is not None and result.report.proof.passed and result.report.proof.inputs == 5
    wrong = onnx.ModelProto()
    wrong.CopyFrom(result.model)
    tensor = next(t for t in wrong.graph.initializer if t.name == "a")
    tensor.CopyFrom(numpy_helper.from_array(np.roll(numpy_helper.to_array(tensor), 1, 1), "a"))
    assert gp.verify(result.coupling, wrong, result.plan).failed
