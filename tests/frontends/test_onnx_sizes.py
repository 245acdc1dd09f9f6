"""Sizes that nobody gave: some at which the model runs are found and told; placeholders are no names."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper
from rich.console import Console

import graphprune as gp
from graphprune import api
from graphprune.bench import feed_for
from graphprune.errors import InputError, VerificationError
from graphprune.frontends import onnx as frontend
from graphprune.frontends.onnx.write import saving
from graphprune.frontends.onnx.write.emit import build
from graphprune.ir.graph import Graph, Weight
from tests.frontends.onnx_tools import Dims, ints, model, node, run, weight


def spectrum(window: int = 40, dims: Dims = ("batch", "samples")) -> ModelProto:
    """Sound in frames, reflected at its end, then two layers."""
    nodes = [
        node("Unsqueeze", "x one", "u"),
        node("Pad", "u pads", "p", mode="reflect"),
        node("Conv", "p frames", "f", strides=[window // 2]),
        node("Relu", "f", "r"),
        node("Conv", "r w1", "h"),
        node("Relu", "h", "hr"),
        node("Conv", "hr w2"),
    ]
    weights = {"one": ints(1), "pads": ints(0, 0, window // 2, 0, 0, window // 2)}
    weights |= {"frames": weight(8, 1, window), "w1": weight(32, 8, 1), "w2": weight(4, 32, 1)}
    return model(nodes, {"x": dims}, weights=weights)


def shown(report: object) -> str:
    console = Console(file=StringIO(), width=10_000)
    report.render(console)  # type: ignore[attr-defined]
    return console.file.getvalue()  # type: ignore[attr-defined, no-any-return]


def test_sizes_are_found_at_which_the_model_runs() -> None:
    made = spectrum()
    result = gp.prune(made, target=gp.channels(0.5))
    assert result.report.proof is not None and not result.report.proof.failed and not result.report.unknown
    assert result.report.after.parameters < 0.7 * result.report.before.parameters
    for shape in [(1, 40), (3, 333)]:
        run(result.model, {"x": weight(*shape)})


def test_reports_say_which_sizes_were_assumed(tmp_path: Path) -> None:
    made = spectrum()
    report = gp.prune(made, target=gp.channels(0.5)).report
    size = report.assumed["x"]["1 (samples)"]
    assert size > 20 and f"x axis 1 (samples) = {size}" in shown(report)
    assert report.to_json()["assumed"]["x"]["1 (samples)"] == size
    looked = api.inspect(gp.load(made))
    assert looked.assumed == report.assumed and f"x axis 1 (samples) = {size}" in shown(looked)
    given = gp.prune(made, target=gp.channels(0.5), input_shapes={"x": (1, 80)}).report
    assert given.assumed == {} and "assumed" not in shown(given)
    assert json.loads(json.dumps(looked.to_json()))["assumed"]


@pytest.mark.parametrize("op", ["Gather", "GatherElements"])
def test_sizes_that_only_running_tells(op: str) -> None:
    """The hundredth position is picked; inference does not look at indices."""
    picked = ints(99) if op == "Gather" else np.full((1, 1, 32), 99, np.int64)
    nodes = [
        node("MatMul", "x w1", "h"),
        node("Relu", "h", "r"),
        node(op, "r i", "p", axis=1),
        node("MatMul", "p w2"),
    ]
    weights = {"w1": weight(8, 32), "w2": weight(32, 4), "i": picked}
    made = model(nodes, {"x": (1, "length", 8)}, weights=weights)
    report = gp.prune(made, target=gp.channels(0.5)).report
    assert report.proof is not None and report.proof.passed
    assert report.assumed["x"]["1 (length)"] >= 100


def test_a_model_of_sizes_of_its_own_can_be_timed() -> None:
    made = spectrum()
    feed = feed_for(frontend.from_model(made), given=False)
    assert feed["x"].shape[0] == 1
    run(made, feed)
    assert feed_for(frontend.from_model(made, {"x": (1, 80)}), given=True) is None
    assert feed_for(frontend.from_model(model([node("Relu", "x")], {"x": ("batch", 3, "h", "w")})), given=False) is None


def test_metadata_say_the_size_of_pictures() -> None:
    nodes = [node("Conv", "x w", "c", strides=[32, 32]), node("Flatten", "c", "f"), node("MatMul", "f head")]
    made = model(nodes, {"x": (1, 3, 320, 320)}, weights={"w": weight(4, 3, 32, 32), "head": weight(400, 5)})
    for dim in made.graph.input[0].type.tensor_type.shape.dim[2:]:
        dim.dim_param = "side"
    made.metadata_props.add(key="imgsz", value="[320, 320]")
    graph = frontend.from_model(made)
    assert graph.inputs[0].shape == (1, 3, 320, 320)
    assert all(value.shape is not None for n in graph.nodes for value in n.outputs)


def test_a_batch_axis_follows_although_other_axes_have_one_size() -> None:
    """A table of 16 positions is added: no other length runs, other numbers of samples do."""
    nodes = [
        node("Add", "x table", "h"),
        node("MatMul", "h w1", "m"),
        node("Shape", "m", "size"),
        node("Gather", "size first", "batch"),
        node("Concat", "batch rest", "target", axis=0),
        node("Reshape", "m target", "split"),
        node("Relu", "split", "r"),
        node("Reshape", "r back", "b"),
        node("MatMul", "b w2"),
    ]
    weights = {"table": weight(16, 8), "w1": weight(8, 24), "w2": weight(24, 3), "first": ints(0)}
    weights |= {"rest": ints(16, 6, 4), "back": ints(0, 16, -1)}
    made = model(nodes, {"x": ("batch", "length", 8)}, weights=weights)
    again = frontend.emit(frontend.from_model(made))
    pruned = gp.prune(made, target=gp.channels(0.5), verify=False).model
    for batch in (1, 2, 5):
        feed = {"x": weight(batch, 16, 8)}
        np.testing.assert_array_equal(run(made, feed)[0], run(again, feed)[0])
        assert run(pruned, feed)[0].shape == (batch, 16, 3)


def test_sums_of_symbols() -> None:
    nodes = [node("Concat", "past x", "all", axis=1), node("Add", "all mask", "y")]
    dims: dict[str, Dims] = {
        "x": ("batch", "length", 4), "past": ("batch", "before", 4), "mask": ("batch", "before + length", 1),
    }  # fmt: skip
    graph = frontend.from_model(model(nodes, dims))
    sizes = {value.name: value.sizes for value in graph.inputs}
    assert sizes["mask"][1] == sizes["x"][1] + sizes["past"][1]
    assert [n.kind for n in graph.nodes] == ["concat", "elementwise"]


@pytest.mark.parametrize("symbol", ["?", "None", "-1", "dynamic", "unknown"])
def test_placeholders_are_not_one_size(symbol: str) -> None:
    nodes = [node("Conv", "x w", "c"), node("Relu", "c")]
    made = model(nodes, {"x": (symbol, 3, symbol, symbol)}, weights={"w": weight(4, 3, 1, 1)})
    graph = frontend.from_model(made, {"x": (2, 3, 48, 192)})
    assert graph.inputs[0].shape == (2, 3, 48, 192) and graph.inputs[0].dynamic == {0, 2, 3}
    dims = frontend.emit(graph).graph.input[0].type.tensor_type.shape.dim
    assert [d.dim_param for d in dims if not d.dim_value] == [symbol] * 3


def test_names_are_one_size() -> None:
    made = model([node("Relu", "x")], {"x": ("unk__0", "unk__0")})
    with pytest.raises(InputError, match="'unk__0' of the model's inputs is given as 3 and as 4"):
        frontend.from_model(made, {"x": (3, 4)})


def test_sizes_that_stay_unknown_are_no_missing_operators() -> None:
    """What comes after a size that nobody knows has a rule and lacks the size; after a foreign operator, more."""
    nodes = [
        helper.make_node("Foreign", ["x"], ["h"], "foreign", domain="of.mine"),
        node("MatMul", "h w", "y"),
        node("Reshape", "x wanted", "r"),
        node("Relu", "r", "z"),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "unknown",
        [info("x", 1, [2, 4]), info("wanted", TensorProto.INT64, [2])],
        [onnx.ValueInfoProto(name=name) for name in ("y", "z")],
        [onnx.numpy_helper.from_array(weight(4, 6), "w")],
    )
    for output in graph.output:
        output.type.tensor_type.elem_type = 1
        output.type.tensor_type.shape.dim.add()
        output.type.tensor_type.shape.dim.add()
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("of.mine", 1)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    report = api.inspect(frontend.from_model(made))
    assert {row.op.removesuffix(" of unknown shape"): row.sizes for row in report.unknown} == {
        "of.mine.Foreign": False, "MatMul": False, "Reshape": True, "Relu": True,
    }  # fmt: skip
    hint = "give --input-shape with sizes at which the model runs: Reshape of unknown shape x1"
    assert hint in shown(report)


def test_a_file_that_does_not_load_does_not_appear(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two nodes of one name pass the checker; onnxruntime refuses them."""
    path = tmp_path / "out.onnx"
    nodes = [node("MatMul", "x w1", "h"), node("Relu", "h", "r"), node("MatMul", "r w2")]
    made = model(nodes, {"x": (2, 4)}, weights={"w1": weight(4, 16), "w2": weight(16, 4)})
    result = gp.prune(made, target=gp.channels(0.5), verify=False)

    def alike(graph: Graph) -> tuple[ModelProto, dict[str, Weight]]:
        written, weights = build(graph)
        for step in written.graph.node:
            step.name = "same"
        return written, weights

    monkeypatch.setattr(saving, "build", alike)
    with pytest.raises(VerificationError, match="what would be written cannot be used, so nothing was"):
        result.save(path)
    assert list(tmp_path.iterdir()) == []


def test_operators_of_its_owner_s_are_excused_with_a_note(tmp_path: Path) -> None:
    nodes = [
        helper.make_node("Foreign", ["x"], ["h"], "foreign", domain="of.mine"),
        node("MatMul", "h w1", "a"),
        node("Relu", "a", "r"),
        node("MatMul", "r w2", "y"),
    ]
    graph = helper.make_graph(
        nodes,
        "foreign",
        [helper.make_tensor_value_info("x", 1, [2, 4])],
        [helper.make_tensor_value_info("y", 1, [2, 3])],
        [onnx.numpy_helper.from_array(weight(*s), n) for n, s in (("w1", (4, 32)), ("w2", (32, 3)))],
        value_info=[helper.make_tensor_value_info("h", TensorProto.FLOAT, [2, 4])],
    )
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("of.mine", 1)]
    made = helper.make_model(graph, opset_imports=opsets, ir_version=8)
    result = gp.prune(made, target=gp.channels(0.5), verify=False)
    result.save(tmp_path / "out.onnx")
    assert any("onnxruntime has no of.mine.Foreign: the file was not loaded" in note for note in result.report.notes)
