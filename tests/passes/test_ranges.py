"""Islands of float32 that calibration data ask for: numbers with and without them, reasons, sums, what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import helper
from onnx.reference import ReferenceEvaluator

import graphprune as gp
from graphprune.calibration.samples import read_samples
from graphprune.cli import run as command
from graphprune.errors import InputError
from graphprune.ir.graph import Graph
from graphprune.passes.cast_precision import CastPrecision
from graphprune.passes.support.ranges import ENDLESS, measure
from tests.passes.small import foreign, onnx_graph

HALF = CastPrecision()
node = helper.make_node
RANDOM = np.random.default_rng(0)


def wide_in_the_middle() -> Graph:
    """A hidden layer that reaches some 1e5, which the next brings back: what a float16 GPT-2 or T5 fails at."""
    nodes = [
        node("MatMul", ["x", "w"], ["h"], name="up"),
        node("Relu", ["h"], ["r"], name="relu"),
        node("MatMul", ["r", "v"], ["d"], name="down"),
        node("Tanh", ["d"], ["t"], name="tanh"),
        node("MatMul", ["t", "u"], ["y"], name="head"),
    ]
    w = RANDOM.standard_normal((16, 32)).astype(np.float32) * 3000
    v = (RANDOM.standard_normal((32, 16)) * 1e-5).astype(np.float32)
    u = RANDOM.standard_normal((16, 4)).astype(np.float32)
    return onnx_graph(nodes, ["n", 16], ["n", 4], {"w": w, "v": v, "u": u})


def samples(count: int = 20, width: int = 16, size: float = 8.0) -> np.ndarray:
    return (RANDOM.standard_normal((count, width)) * size).astype(np.float32)


def results(graph: Graph, x: np.ndarray) -> np.ndarray:
    """By onnx's own evaluator, which computes in the types that the graph says, and nothing wider."""
    with np.errstate(all="ignore"):
        (found,) = ReferenceEvaluator(foreign(graph)).run(None, {"x": x})
    return np.asarray(found)


def data_file(folder: Path, x: np.ndarray) -> Path:
    np.savez(folder / "data.npz", x=x)
    return folder / "data.npz"


def test_activations_that_overflow_are_right_with_islands_and_wrong_without(tmp_path: Path) -> None:
    graph, x = wide_in_the_middle(), samples()
    want = results(graph, x)
    broken = results(HALF.run(graph), x)
    assert np.abs(broken - want).max() > 0.5 or not np.isfinite(broken).all()
    step = CastPrecision(data=str(data_file(tmp_path, x)))
    after, remarks = step.applied(graph)
    about = {remark.about: remark.text for remark in remarks}
    assert set(about) == {"up", "relu", "down"}
    peak = np.abs(x @ graph.weights()["w"].weight.array()).max()
    assert about["up"] == f"left in float32: 'h' reaches {peak:.3g} on the data"
    assert np.abs(results(after, x) - want).max() < 2e-2
    types = {t.name: onnx.TensorProto.DataType.Name(t.data_type) for t in foreign(after).graph.initializer}
    assert types == {"w": "FLOAT", "v": "FLOAT", "u": "FLOAT16"}
    assert {r.about for r in CastPrecision(to="bfloat16", data=step.data).applied(graph)[1]}.isdisjoint({"up", "down"})


def test_a_mean_that_fits_may_overflow_on_its_way(tmp_path: Path) -> None:
    nodes = [
        node("Conv", ["x", "w"], ["h"], name="conv"),
        node("GlobalAveragePool", ["h"], ["p"], name="pool"),
        node("Flatten", ["p"], ["f"], name="flat"),
        node("Gemm", ["f", "v"], ["y"], name="head"),
    ]
    weights = {"w": np.ones((2, 1, 1, 1), np.float32), "v": np.eye(2, 3, dtype=np.float32)}
    graph = onnx_graph(nodes, ["n", 1, 32, 32], ["n", 3], weights)
    small, large = np.ones((3, 1, 32, 32), np.float32), np.full((3, 1, 32, 32), 100, np.float32)
    found = measure(graph, read_samples(graph, {"x": large}))
    assert found.sums == {"p": 102400.0}
    assert found.values["h"] == found.values["p"] == 100.0
    assert [n.name for n in HALF.islands(graph, measure(graph, read_samples(graph, {"x": small})))] == []
    assert {n.name: why for n, why in HALF.islands(graph, found).items()} == {
        "pool": "a sum inside reaches 1.02e+05 on the data"
    }
    near = HALF.islands(graph, measure(graph, read_samples(graph, {"x": 50 * small})))
    assert {n.name: why for n, why in near.items()} == {
        "pool": "a sum inside reaches 5.12e+04 on the data, within a factor of 2 of the largest number"
    }


@pytest.mark.parametrize(
    ("made", "expected"),
    [
        (node("ReduceMean", ["x"], ["y"], axes=[1], keepdims=1), 5 * 4.0),
        (node("ReduceL2", ["x"], ["y"], axes=[1], keepdims=1), 4 * 16.0 + 1),
        (node("LpNormalization", ["x"], ["y"], axis=1), 4 * 16.0 + 1),
        (node("LpNormalization", ["x"], ["y"], axis=1, p=1), 4 * 4.0 + 1),
        (node("CumSum", ["x", "axis"], ["y"]), 4 * 4.0 + 1),
    ],
)
def test_sums_inside_operators(made: onnx.NodeProto, expected: float) -> None:
    x = np.array([[4, -4, 4, -4, 1]], np.float32)
    if made.op_type == "ReduceMean":
        x[0, 4] = -4
    out = [1, 1] if made.op_type.startswith("Reduce") else [1, 5]
    weights = {"axis": np.array(1)} if made.op_type == "CumSum" else {}
    made.output[0] = "h"
    graph = onnx_graph([made, node("Relu", ["h"], ["y"])], [1, 5], out, weights)
    assert measure(graph, read_samples(graph, {"x": x})).sums == {"h": expected}
    assert HALF.islands(graph), "it sums in the type of its input, whatever the data"


@pytest.mark.parametrize(
    ("made", "shape", "expected"),
    [
        (node("AveragePool", ["x"], ["h"], kernel_shape=[2, 2]), [1, 3, 3, 3], 4 * 2.0),
        (node("LpPool", ["x"], ["h"], kernel_shape=[2, 2], p=3), [1, 3, 3, 3], 4 * 8.0),
        (node("GlobalLpPool", ["x"], ["h"], p=2), [1, 3, 1, 1], 16 * 4.0),
        (node("LRN", ["x"], ["h"], size=3), [1, 3, 4, 4], 3 * 4.0),
        (node("InstanceNormalization", ["x", "s", "s"], ["h"]), [1, 3, 4, 4], 16 * 4.0),
    ],
)
def test_sums_of_pools_and_norms(made: onnx.NodeProto, shape: list[int], expected: float) -> None:
    weights = {"s": np.ones(3, np.float32)} if len(made.input) > 1 else {}
    graph = onnx_graph([made, node("Relu", ["h"], ["y"])], [1, 3, 4, 4], shape, weights)
    assert measure(graph, read_samples(graph, {"x": np.full((1, 3, 4, 4), -2, np.float32)})).sums == {"h": expected}


def test_what_stands_for_infinity_is_no_range() -> None:
    graph = onnx_graph(
        [node("Add", ["x", "mask"], ["h"], name="mask"), node("Softmax", ["h"], ["y"])],
        ["n", 4],
        ["n", 4],
        {"mask": np.array([0, -2 * ENDLESS, -np.inf, 0], np.float32)},
    )
    found = measure(graph, read_samples(graph, {"x": np.array([[1, 2, 3, -7]], np.float32)}))
    assert found.values == {"x": 7.0, "h": 7.0, "y": pytest.approx(1, abs=1e-3)}


def test_spans_do_not_change_what_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    graph, x = wide_in_the_middle(), samples(40)
    whole = measure(graph, read_samples(graph, {"x": x}))
    monkeypatch.setattr("graphprune.passes.support.ranges._MOST_ELEMENTS", 1)
    assert measure(graph, read_samples(graph, {"x": x})) == whole


def test_what_nothing_needs_is_not_measured() -> None:
    """Nodes that no output needs are not written, so that nobody can look at them."""
    graph = onnx_graph(
        [node("Exp", ["x"], ["e"]), node("Log", ["e"], ["unused"]), node("Relu", ["x"], ["y"])], ["n", 4], ["n", 4]
    )
    assert set(measure(graph, read_samples(graph, {"x": samples(4, 4)})).values) == {"x", "y"}


def test_data_that_are_not_finite_say_nothing() -> None:
    graph = wide_in_the_middle()
    with pytest.raises(InputError, match="the calibration data for 'x' hold numbers that are not finite"):
        measure(graph, read_samples(graph, {"x": np.full((2, 16), np.nan, np.float32)}))


def test_ends_that_the_type_cannot_hold(tmp_path: Path) -> None:
    graph = wide_in_the_middle()
    path = data_file(tmp_path, samples(size=1e5))
    with pytest.raises(InputError, match="'x' reaches .* on the data, which float16 cannot hold: keep-io"):
        CastPrecision(keep_io=False, data=str(path)).run(graph)


def test_the_command_names_islands_and_reasons(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, made, told = (tmp_path / name for name in ("m.onnx", "half.onnx", "report.json"))
    graph, x = wide_in_the_middle(), samples()
    gp.save(graph, source)
    words = ["opt", str(source), "-o", str(made), "--passes", "cleanup,cast-precision"]
    path = data_file(tmp_path, x)
    assert command([*words, "--data", str(path), "--report", str(told)]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "cast-precision: up and 1 more left in float32: 'h' reaches" in out
    report = json.loads(told.read_text())
    assert report["format"] == "graphprune-passes/1"
    assert {r["about"] for r in report["passes"][1]["remarks"]} == {"up", "relu", "down"}
    assert np.abs(results(gp.load(made), x) - results(graph, x)).max() < 2e-2
    assert command([*words, "--json"]) == 0
    (remark,) = json.loads(capsys.readouterr().out)["passes"][1]["remarks"]
    assert remark["text"].startswith("what overflows on data was not measured")
    assert command([*words[:-1], "cleanup", "--data", str(path)]) == 2
    assert "none of the passes looks at data" in capsys.readouterr().err
    assert command([*words, "--data", str(tmp_path / "none.npz")]) == 2
