"""An If over a small input, as in voice detectors: each branch has sizes at which it runs, and both are proven."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

import graphprune as gp
from graphprune.calibration.random_inputs import random_inputs
from graphprune.frontends import onnx as frontend
from tests.frontends.onnx_tools import ints, run, weight

RATE, WIDTH, WIDER = 16000, 16, 32


def branch(tag: str, window: int) -> GraphProto:
    """Frames of `window` samples, two layers, a squeeze as exporters guard it, a gate by the state."""
    values = {
        "up": ints(1), "last": ints(-1), "one": ints(1), "pads": ints(0, 0, 0, 0, 0, window // 4),
        "frames": weight(24, 1, window, seed=window), "w1": weight(WIDER, 24, 1), "w2": weight(WIDER, WIDTH),
        "out": weight(WIDTH, 1),
    }  # fmt: skip
    own = {name: f"{tag}_{name}" for name in values}
    squeeze = helper.make_graph(
        [helper.make_node("Squeeze", [f"{tag}_ar", own["last"]], [f"{tag}_sq"])],
        "squeeze",
        [],
        [helper.make_tensor_value_info(f"{tag}_sq", TensorProto.FLOAT, [None, WIDER])],
    )
    keep = helper.make_graph(
        [helper.make_node("Identity", [f"{tag}_ar"], [f"{tag}_kept"])],
        "keep",
        [],
        [helper.make_tensor_value_info(f"{tag}_kept", TensorProto.FLOAT, [None, WIDER, None])],
    )

    def step(op: str, inputs: str, output: str, **attrs: object) -> NodeProto:
        return helper.make_node(
            op, [own.get(n, n) for n in inputs.split()], [f"{tag}_{output}"], f"{tag}/{output}", **attrs
        )

    nodes = [
        step("Unsqueeze", "x up", "u"),
        step("Pad", f"{tag}_u pads", "p", mode="reflect"),
        step("Conv", f"{tag}_p frames", "f", strides=[window // 2]),
        step("Relu", f"{tag}_f", "r"),
        step("Conv", f"{tag}_r w1", "a"),
        step("Relu", f"{tag}_a", "ar"),
        step("Shape", f"{tag}_ar", "shape"),
        step("Gather", f"{tag}_shape last", "length"),
        step("Equal", f"{tag}_length one", "single"),
        helper.make_node("If", [f"{tag}_single"], [f"{tag}_s"], f"{tag}/If", then_branch=squeeze, else_branch=keep),
        step("MatMul", f"{tag}_s w2", "b"),
        step("Add", f"{tag}_b state", "next"),
        step("MatMul", f"{tag}_next out", "speech"),
    ]
    outputs = [onnx.ValueInfoProto(name=f"{tag}_{name}") for name in ("speech", "next")]
    for info in outputs:
        info.type.tensor_type.elem_type = TensorProto.FLOAT
    weights = [numpy_helper.from_array(array, own[name]) for name, array in values.items()]
    return helper.make_graph(nodes, tag, [], outputs, weights)


def detector(dims: tuple[str | None, str | None] = (None, None)) -> ModelProto:
    """16,000 samples a second take one branch, anything else the other, whose windows are half as long."""
    nodes = [
        helper.make_node("Equal", ["rate", "usual"], ["fast"], "compare"),
        helper.make_node(
            "If", ["fast"], ["speech", "next"], "choose", then_branch=branch("fast", 64), else_branch=branch("slow", 32)
        ),
    ]
    inputs = [
        helper.make_tensor_value_info("x", TensorProto.FLOAT, dims),
        helper.make_tensor_value_info("state", TensorProto.FLOAT, [dims[0], WIDTH]),
        helper.make_tensor_value_info("rate", TensorProto.INT64, []),
    ]
    outputs = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [None, None]) for name in ("speech", "next")]
    usual = numpy_helper.from_array(np.array(RATE, np.int64), "usual")
    graph = helper.make_graph(nodes, "detector", inputs, outputs, [usual])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def feed(batch: int, samples: int, rate: int) -> dict[str, np.ndarray]:
    return {"x": weight(batch, samples), "state": weight(batch, WIDTH), "rate": np.array(rate)}


SIZES = [(1, 64, RATE), (3, 79, RATE), (1, 32, 8000), (4, 39, 8000)]


@pytest.mark.parametrize("dims", [(None, None), ("batch", "samples")])
@pytest.mark.parametrize("given", [None, {"x": (1, 64)}, {"x": (1, 32)}])
def test_both_branches_are_pruned_and_proven(
    dims: tuple[str | None, str | None], given: dict[str, tuple[int, int]] | None
) -> None:
    result = gp.prune(detector(dims), target=gp.channels(0.5), input_shapes=given)
    report = result.report
    assert report.proof is not None and report.proof.passed and not report.unknown
    assert report.after.parameters < 0.6 * report.before.parameters
    assert {int(case.values["rate"]) == RATE for case in result.graph.cases} == {True, False}
    rates = {int(random_inputs(result.graph, seed)["rate"]) for seed in range(2)}
    assert len(rates) == 2  # the proof runs both
    for size in SIZES:
        run(result.model, feed(*size))
    assert WIDER not in _declared(result.model.graph)
    if given is None:
        assert {*report.assumed["x"].values()} == {2, 64}  # as the first branch ran


def _declared(graph: GraphProto) -> set[int]:
    """The sizes that branches declare."""
    inner = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    sizes = {d.dim_value for body in inner for info in body.output for d in info.type.tensor_type.shape.dim}
    return sizes.union(*(_declared(body) for body in inner))


@pytest.mark.parametrize("given", [None, {"x": (1, 64)}, {"x": (1, 32)}, {"x": (1, 40)}])
def test_sizes_of_the_analysis_do_not_get_into_the_file(given: dict[str, tuple[int, int]] | None) -> None:
    made = detector()
    again = frontend.emit(frontend.from_model(made, given))
    for size in SIZES:
        for a, b in zip(run(made, feed(*size)), run(again, feed(*size)), strict=True):
            np.testing.assert_array_equal(a, b)
    before, after = (_nodes(m.graph) for m in (made, again))
    assert sorted(before) == sorted(after)


def _nodes(graph: GraphProto) -> list[str]:
    inner = [attribute.g for node in graph.node for attribute in node.attribute if attribute.HasField("g")]
    return [node.op_type for node in graph.node] + [op for body in inner for op in _nodes(body)]


def test_a_file_that_is_not_proven_loads(tmp_path: Path) -> None:
    path, small = tmp_path / "a.onnx", tmp_path / "b.onnx"
    onnx.save(detector(), path)
    gp.prune(path, target=gp.channels(0.5), input_shapes={"x": (1, 64)}, verify=False).save(small)
    onnxruntime.InferenceSession(str(small), providers=["CPUExecutionProvider"])
    for size in SIZES:
        run(str(small), feed(*size))


def test_values_for_nested_choices() -> None:
    """Three ways: `code` 5, `code` above 9, all others; a flag is one more."""

    def way(name: str, factor: float, *nodes: NodeProto) -> GraphProto:
        body = nodes or (helper.make_node("Mul", ["x", f"{name}_f"], [f"{name}_o"]),)
        weights = [numpy_helper.from_array(np.float32(factor).reshape(1), f"{name}_f")]
        return helper.make_graph(list(body), name, [], [onnx.ValueInfoProto(name=f"{name}_o")], weights)

    inner = [
        helper.make_node("Greater", ["code", "nine"], ["more"]),
        helper.make_node("If", ["more"], ["other_o"], then_branch=way("high", 2), else_branch=way("low", 3)),
    ]
    nodes = [
        helper.make_node("Equal", ["code", "five"], ["is5"]),
        helper.make_node("If", ["is5"], ["h"], then_branch=way("five", 1), else_branch=way("other", 0, *inner)),
        helper.make_node("If", ["flag"], ["y"], then_branch=_handing("a", "Neg"), else_branch=_handing("b", "Relu")),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "nested",
        [info("x", 1, [2, 4]), info("code", TensorProto.INT32, [1]), info("flag", TensorProto.BOOL, [])],
        [info("y", 1, [2, 4])],
        [numpy_helper.from_array(np.array([n], np.int32), name) for name, n in (("five", 5), ("nine", 9))],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    cases = frontend.from_model(made).cases
    ways = {(c.values["code"].tolist()[0], bool(c.values["flag"])) for c in cases}
    assert {(5 if code == 5 else 10 if code > 9 else 0, flag) for code, flag in ways} == {
        (code, flag) for code in (5, 10, 0) for flag in (True, False)
    }


def _handing(name: str, op: str) -> GraphProto:
    node = helper.make_node(op, ["h"], [f"{name}_out"])
    return helper.make_graph([node], name, [], [onnx.ValueInfoProto(name=f"{name}_out")])
