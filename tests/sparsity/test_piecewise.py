"""Models with external data are proven part by part: the same numbers, few weights at once, and mistakes are seen."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

import graphprune as gp
from graphprune import frontends
from graphprune.calibration import dataflow
from graphprune.calibration.dataflow import Piecewise, ends_of_parts
from graphprune.calibration.random_inputs import random_inputs
from graphprune.errors import UnsupportedError, VerificationError
from graphprune.ir.graph import Graph, Weight
from graphprune.pipelines import sparsify
from graphprune.runtimes.onnxruntime import OnnxRuntime
from graphprune.sparsity import Outcome
from tests.sparsity.test_where_weights_lie import CASES, made

LAYERS, WIDTH = 6, 64


def stored(model: onnx.ModelProto, folder: Path) -> Path:
    """The model with each weight outside."""
    onnx.save(model, folder / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    return folder / "m.onnx"


def chain(folder: Path) -> Path:
    """Layers with a residual that skips several of them."""
    lines = "".join(f"h{i} = MatMul({'x' if i == 0 else f'r{i - 1}'}, w{i}) r{i} = Relu(h{i}) " for i in range(LAYERS))
    ends = f"float[n,{WIDTH}] y, float[n,{WIDTH}] again"
    text = f"(float[n,{WIDTH}] x) => ({ends}) {{ {lines} y = Add(r{LAYERS - 1}, r0) again = Identity(r1) }}"
    model = made(text, {f"w{i}": (WIDTH, WIDTH) for i in range(LAYERS)})
    return stored(model, folder)


@pytest.fixture
def fed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The bytes of weights in each model that onnxruntime is given."""
    sizes: list[int] = []
    plain = OnnxRuntime.compile

    def compiled(self: OnnxRuntime, model: Any, **settings: Any) -> Any:
        held = isinstance(model, onnx.ModelProto)  # a file's weights stay in it
        sizes.append(sum(len(t.raw_data) for t in model.graph.initializer) if held else 0)
        return plain(self, model, **settings)

    monkeypatch.setattr(OnnxRuntime, "compile", compiled)
    monkeypatch.setattr(dataflow, "_MOST_BYTES", 1)
    return sizes


@pytest.mark.parametrize("permute", [False, True])
@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
def test_the_proof_holds_one_layer_at_a_time(method: str, permute: bool, tmp_path: Path, fed: list[int]) -> None:
    source = chain(tmp_path)
    data = None if method == "magnitude" else {"x": np.random.default_rng(1).standard_normal((40, WIDTH))}
    result = gp.sparsify(source, method=method, data=data, permute=permute, seconds=0.2)
    proof = result.report.proof
    assert proof is not None and proof.passed
    assert len(fed) >= 2 * LAYERS
    assert max(fed) <= WIDTH * WIDTH * 4
    assert result.emitted is None, "no model with all weights was made"
    result.save(tmp_path / "sparse.onnx")
    run = OnnxRuntime().compile
    x = np.random.default_rng(2).standard_normal((5, WIDTH)).astype(np.float32)
    stored_model = onnx.load(tmp_path / "sparse.onnx")
    for a, b in zip(run(result.model).run({"x": x}), run(stored_model).run({"x": x}), strict=True):
        assert np.array_equal(a, b)


def _wrong_entry(outcome: Outcome) -> None:
    """One entry of one weight is another."""
    value = outcome.graph.weights()["w3"]
    array = value.weight.array().copy()
    array[np.nonzero(array)[0][0], np.nonzero(array)[1][0]] += 3
    value.weight = Weight.of(array)


def _wrong_place(outcome: Outcome) -> None:
    """Two weights of one shape change places."""
    values = outcome.graph.weights()
    values["w1"].weight, values["w2"].weight = values["w2"].weight, values["w1"].weight


@pytest.mark.parametrize("harm", [_wrong_entry, _wrong_place])
def test_mistakes_are_seen(
    harm: Callable[[Outcome], None], tmp_path: Path, fed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = sparsify.sparsity.make_sparse

    def harmed(*given: Any) -> Outcome:
        outcome = plain(*given)
        harm(outcome)
        return outcome

    monkeypatch.setattr(sparsify.sparsity, "make_sparse", harmed)
    with pytest.raises(VerificationError, match="differs from the masked original"):
        gp.sparsify(chain(tmp_path))
    assert max(fed) <= WIDTH * WIDTH * 4


@pytest.mark.parametrize("name", CASES)
def test_parts_compute_what_the_whole_does(name: str, tmp_path: Path) -> None:
    text, shapes, _ = CASES[name]
    graph = gp.load(stored(made(text, shapes), tmp_path))
    same(graph, 1)


def test_outputs_that_are_inputs_constants_or_twice_the_same(tmp_path: Path) -> None:
    text = "(float[2,8] x) => (float[2,8] y, float[8,8] w, float[2,8] z, float[2,8] x2) {"
    text += " t = MatMul(x, w) y = MatMul(t, v) z = Identity(y) x2 = Identity(x) }"
    same(gp.load(stored(made(text, {"w": (8, 8), "v": (8, 8)}), tmp_path)), 1)


def same(graph: Graph, limit: int) -> None:
    feeds = [random_inputs(graph, seed) for seed in range(2)]
    groups = ends_of_parts(graph, limit)
    assert groups
    whole = OnnxRuntime().compile(frontends.emit(graph))
    for feed, found in zip(feeds, Piecewise(graph).together(feeds, None), strict=True):
        for want, have in zip(whole.run(feed), found, strict=True):
            assert np.abs(want - have).max() < 1e-5


def test_what_does_not_run_in_parts_runs_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Piecewise, feeds: Any, progress: Any) -> Any:
        raise UnsupportedError("not this part")

    monkeypatch.setattr(Piecewise, "together", refuse)
    result = gp.sparsify(chain(tmp_path))
    assert result.report.proof is not None and result.report.proof.passed
    assert result.emitted is not None


def test_models_in_memory_are_proven_whole() -> None:
    text, shapes, _ = CASES["matmul"]
    assert gp.sparsify(made(text, shapes)).emitted is not None
