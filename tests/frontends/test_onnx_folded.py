"""Folding never enlarges a file: what nodes make of little stays with the nodes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import graphprune as gp
from graphprune.frontends import onnx as frontend
from tests.frontends.onnx_tools import assert_round_trip, ints, model, node, run, weight

WINDOW, BINS = 64, 48


def tracker() -> ModelProto:
    """A spectrum by a window and two tables of cosines, all made by nodes; then two layers."""
    nodes = [
        node("Range", "zero window one", "times"),
        node("Cast", "times", "seconds", to=TensorProto.FLOAT),
        node("Range", "zero bins one", "numbers"),
        node("Cast", "numbers", "hertz", to=TensorProto.FLOAT),
        node("Cos", "seconds", "hann"),
        node("Reshape", "seconds upright", "column"),
        node("Mul", "column hertz", "turns"),
        node("Cos", "turns", "real"),
        node("Sin", "turns", "imaginary"),
        node("ConstantOfShape", "many", "floor", value=numpy_helper.from_array(np.array([0.5], np.float32))),
        node("Mul", "x hann", "framed"),
        node("MatMul", "framed real", "a"),
        node("MatMul", "framed imaginary", "b"),
        node("Mul", "a a", "aa"),
        node("Mul", "b b", "bb"),
        node("Add", "aa bb", "power"),
        node("Max", "power floor", "floored"),
        node("MatMul", "floored w1", "h"),
        node("Relu", "h", "r"),
        node("MatMul", "r w2"),
    ]
    scalars = {"zero": 0, "one": 1, "window": WINDOW, "bins": BINS}
    weights = {name: np.array(n, np.int64) for name, n in scalars.items()}
    weights |= {"upright": ints(WINDOW, 1), "many": ints(1, 20, BINS)}
    weights |= {"w1": weight(BINS, 16), "w2": weight(16, 4)}
    return model(nodes, {"x": ("batch", 20, WINDOW)}, weights=weights)


def test_constants_that_nodes_make_of_little_are_not_stored() -> None:
    made = tracker()
    graph = assert_round_trip(made)
    assert {"real", "imaginary", "floor"} <= graph.weights().keys()  # known while pruning
    assert graph.parameter_count() == BINS * 16 + 16 * 4
    assert frontend.emit(graph).ByteSize() <= made.ByteSize()


def test_a_pruned_file_is_smaller_and_the_report_says_by_how_much(tmp_path: Path) -> None:
    path, small = tmp_path / "tracker.onnx", tmp_path / "small.onnx"
    onnx.save(tracker(), path)
    result = gp.prune(str(path), target=gp.channels(0.5))
    result.save(small)
    assert result.report.before.bytes == path.stat().st_size
    assert result.report.after.bytes == small.stat().st_size < path.stat().st_size
    assert result.report.before.parameters == BINS * 16 + 16 * 4


def test_folded_constants_smaller_than_their_nodes_are_stored() -> None:
    nodes = [node("Add", "one one", "two"), node("Mul", "x two")]
    graph = assert_round_trip(model(nodes, {"x": (2, 3)}, weights={"one": np.float32(1)}))
    assert [n.op_type for n in frontend.emit(graph).graph.node] == ["Mul"]


def test_a_slice_of_a_repeated_number_is_a_repeated_number() -> None:
    fill = numpy_helper.from_array(np.array([0.5], np.float32))
    nodes = [
        node("ConstantOfShape", "s", "c", value=fill),
        node("MatMul", "x w1", "h"),
        node("Mul", "h c", "m"),
        node("MatMul", "m w2"),
    ]
    weights = {"s": ints(1, 400, 32), "w1": weight(8, 32), "w2": weight(32, 4)}
    made = model(nodes, {"x": (2, 400, 8)}, weights=weights)
    small = gp.prune(made, target=gp.channels(0.5)).model
    assert small.ByteSize() < made.ByteSize()
    (repeats,) = [n for n in small.graph.node if n.op_type == "ConstantOfShape"]
    sizes = {t.name: numpy_helper.to_array(t).tolist() for t in small.graph.initializer}
    assert sizes[repeats.input[0]] == [1, 400, 16]


def test_constants_made_within_a_branch_stay_with_their_nodes() -> None:
    branch = helper.make_graph(
        [
            helper.make_node("Range", ["zero", "many", "one"], ["r"]),
            helper.make_node("Cos", ["r"], ["c"]),
            helper.make_node("Mul", ["x", "c"], ["o"]),
        ],
        "then",
        [],
        [helper.make_tensor_value_info("o", TensorProto.FLOAT, None)],
    )
    other = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["o"])],
        "else",
        [],
        [helper.make_tensor_value_info("o", TensorProto.FLOAT, None)],
    )
    made = model(
        [helper.make_node("If", ["flag"], ["y"], "choose", then_branch=branch, else_branch=other)],
        {"flag": (), "x": (2, 900)},
        weights={"zero": np.float32(0), "one": np.float32(1), "many": np.float32(900)},
        types={"flag": TensorProto.BOOL},
    )
    assert frontend.emit(assert_round_trip(made)).ByteSize() <= made.ByteSize() + 64


@pytest.mark.parametrize("external", [False, True])
def test_a_model_that_loses_nothing_does_not_grow(external: bool, tmp_path: Path) -> None:
    weights = {f"w{i}": weight(24, 24, seed=i) for i in range(12)}
    nodes = [node("MatMul", f"h{i - 1} w{i}" if i else "x w0", f"h{i}") for i in range(12)]
    made = model([*nodes, node("Relu", "h11")], {"x": (1, 24)}, weights=weights)
    path, again = tmp_path / "a.onnx", tmp_path / "b.onnx"
    onnx.save(made, path, save_as_external_data=external, location="a.data", size_threshold=0)
    frontend.save(frontend.load(path), again)
    before = sum(p.stat().st_size for p in tmp_path.glob("a.*"))
    assert sum(p.stat().st_size for p in tmp_path.glob("b.*")) <= before + 12 * 64
    feed = {"x": weight(1, 24)}
    np.testing.assert_array_equal(run(str(path), feed)[0], run(str(again), feed)[0])
