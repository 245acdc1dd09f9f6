"""What the issue promises for ONNX files, tried through the command line as a user would."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import ModelProto, helper, numpy_helper

from graphprune.cli.entry import run
from tests.audit.models import network


def prune(folder: Path, model: ModelProto, *options: str, target: str = "channels=0.5") -> ModelProto:
    """Prune a model in a folder; its plan and report are written as well."""
    onnx.save(model, folder / "in.onnx")
    files = ["--plan-out", str(folder / "plan.json"), "--report", str(folder / "report.json")]
    line = ["prune", str(folder / "in.onnx"), "-o", str(folder / "out.onnx"), "--target", target, *files, *options]
    assert run(line) == 0
    onnx.checker.check_model(str(folder / "out.onnx"), full_check=True)
    return onnx.load(folder / "out.onnx")


def elements(model: ModelProto) -> int:
    """Numbers in constants, wherever they are kept."""
    tensors = [*model.graph.initializer]
    tensors += [a.t for n in model.graph.node if n.op_type == "Constant" for a in n.attribute]
    return sum(int(np.prod(t.dims)) for t in tensors)


def shapes(model: ModelProto) -> dict[str, tuple[int, ...]]:
    return {t.name: tuple(t.dims) for t in model.graph.initializer}


def notes(model: ModelProto) -> dict[str, Any]:
    """What must survive: everything about a model but its nodes and weights."""
    bare = ModelProto()
    bare.CopyFrom(model)
    for field in ("node", "initializer", "value_info"):
        bare.graph.ClearField(field)
    return {field.name: str(value) for field, value in bare.ListFields()}


CASES = [(opset, np.float32, False) for opset in (9, 11, 13, 17, 18, 21, 23)]
CASES += [(9, np.float16, False), (23, np.float16, False), (9, np.float32, True), (21, np.float32, True)]


@pytest.mark.parametrize(("opset", "dtype", "as_nodes"), CASES)
def test_every_opset_keeps_what_it_should_and_runs_at_other_sizes(
    tmp_path: Path, opset: int, dtype: type, as_nodes: bool
) -> None:
    before = network(opset, dtype, as_nodes)
    after = prune(tmp_path, before)
    assert elements(after) < 0.42 * elements(before)
    assert notes(after) == notes(before)
    if not as_nodes:
        assert {name for name in shapes(before) if "." in name} == {name for name in shapes(after) if "." in name}
    session = onnxruntime.InferenceSession(tmp_path / "out.onnx")
    for batch, height, width in ((1, 32, 32), (3, 17, 50)):
        logits, spatial = session.run(None, {"x": np.ones((batch, 3, height, width), dtype)})
        assert logits.shape == (batch, 10)
        assert spatial.shape == (batch, 4, (height + 1) // 2, (width + 1) // 2)


def mlp(middle: list[onnx.NodeProto], last: str, **weights: np.ndarray) -> ModelProto:
    """x -> w1 -> relu (named r) -> `middle` -> w3 -> relu -> w4."""
    random = np.random.default_rng(0)
    sizes = {"w1": (8, 16), "w3": (16, 16), "w4": (16, 4)}
    made = {name: random.standard_normal(size).astype(np.float32) for name, size in sizes.items()} | weights
    nodes = [helper.make_node("MatMul", ["x", "w1"], ["a"], "m1"), helper.make_node("Relu", ["a"], ["r"], "relu")]
    nodes += [*middle, helper.make_node("MatMul", [last, "w3"], ["b"], "m3"), helper.make_node("Relu", ["b"], ["c"])]
    nodes.append(helper.make_node("MatMul", ["c", "w4"], ["y"], "m4"))
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["N", 8])
    y = helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["N", 4])
    tensors = [numpy_helper.from_array(array, name) for name, array in made.items()]
    graph = helper.make_graph(nodes, "g", [x], [y], tensors)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def test_what_a_branch_captures_is_pruned_with_the_rest(tmp_path: Path) -> None:
    out = helper.make_tensor_value_info("t", onnx.TensorProto.FLOAT, None)
    branches = {
        side: helper.make_graph([helper.make_node("MatMul", ["r", "w2"], ["t"])], side, [], [out])
        for side in ("then_branch", "else_branch")
    }
    middle = [
        helper.make_node("ReduceSum", ["r"], ["total"], keepdims=0),
        helper.make_node("Greater", ["total", "zero"], ["condition"]),
        helper.make_node("If", ["condition"], ["q"], "branch", **branches),
    ]
    weights = {"w2": np.eye(16, dtype=np.float32), "zero": np.zeros((), np.float32)}
    after = shapes(prune(tmp_path, mlp(middle, "q", **weights)))
    assert after == {"w1": (8, 8), "w2": (8, 8), "w3": (8, 8), "w4": (8, 4), "zero": ()}
    assert json.loads((tmp_path / "report.json").read_text())["unknown"] == []


def test_weights_of_one_value_are_sliced_too(tmp_path: Path) -> None:
    fill = helper.make_node("ConstantOfShape", ["size"], ["bias"], value=numpy_helper.from_array(np.float32([0.5])))
    model = mlp([fill, helper.make_node("Add", ["r", "bias"], ["q"], "add")], "q", size=np.array([16]))
    assert shapes(prune(tmp_path, model))["w3"] == (8, 8)


def test_weights_stored_as_bfloat16(tmp_path: Path) -> None:
    import ml_dtypes

    weight = np.random.default_rng(0).standard_normal((16, 16)).astype(ml_dtypes.bfloat16)
    middle = [
        helper.make_node("Cast", ["w2"], ["wide"], "cast", to=onnx.TensorProto.FLOAT),
        helper.make_node("MatMul", ["r", "wide"], ["q"], "m2"),
    ]
    after = prune(tmp_path, mlp(middle, "q", w2=weight))
    stored = next(t for t in after.graph.initializer if t.name == "w2")
    assert (stored.data_type, list(stored.dims)) == (onnx.TensorProto.BFLOAT16, [8, 8])


def test_output_never_overwrites_the_weights_of_the_input(tmp_path: Path) -> None:
    """A model file was renamed, and its old name is the output: its data file still has the old name."""
    data = tmp_path / "model.onnx.data"
    onnx.save_model(
        network(), tmp_path / "dense.onnx", save_as_external_data=True, location=data.name, size_threshold=256
    )
    before = data.read_bytes()
    line = f"prune {tmp_path}/dense.onnx -o {tmp_path}/model.onnx --target channels=0.5"
    assert run(line.split()) == 0
    assert data.read_bytes() == before
    for name in ("dense.onnx", "model.onnx"):
        onnx.checker.check_model(str(tmp_path / name), full_check=True)
        onnxruntime.InferenceSession(tmp_path / name)


def test_data_files_of_several_names_are_read(tmp_path: Path) -> None:
    model = network()
    for number, tensor in enumerate(model.graph.initializer):
        if len(tensor.dims) > 1:
            onnx.external_data_helper.set_external_data(tensor, location=f"part{number % 2}.bin")
    onnx.save_model(model, tmp_path / "in.onnx")
    (tmp_path / "out").mkdir()
    line = f"prune {tmp_path}/in.onnx -o {tmp_path}/out/small.onnx --target channels=0.5"
    assert run(line.split()) == 0
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["small.onnx", "small.onnx.data"]
    onnxruntime.InferenceSession(tmp_path / "out" / "small.onnx")


def test_plans_can_be_edited_applied_and_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prune(tmp_path, network(), target="macs=0.6")
    dense, small, plan = (str(tmp_path / name) for name in ("in.onnx", "again.onnx", "plan.json"))
    assert run(["apply", dense, "--plan", plan, "-o", small]) == 0
    assert Path(small).read_bytes() == (tmp_path / "out.onnx").read_bytes()
    edited = json.loads(Path(plan).read_text())
    edited["groups"][0]["keep"] = [row[2:] for row in edited["groups"][0]["keep"]]
    (tmp_path / "edited.json").write_text(json.dumps(edited))
    smaller = str(tmp_path / "smaller.onnx")
    assert run(["apply", dense, "--plan", str(tmp_path / "edited.json"), "-o", smaller]) == 0
    assert run(["verify", dense, smaller, "--plan", str(tmp_path / "edited.json")]) == 0
    assert run(["verify", dense, smaller, "--plan", plan]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def test_one_changed_filter_fails_verification(tmp_path: Path) -> None:
    model = prune(tmp_path, network())
    tensor = next(t for t in model.graph.initializer if t.name == "c2.w")
    array = numpy_helper.to_array(tensor).copy()
    array[0] *= 1.5
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    onnx.save(model, tmp_path / "tampered.onnx")
    names = [str(tmp_path / name) for name in ("in.onnx", "tampered.onnx", "plan.json")]
    assert run(["verify", *names[:2], "--plan", names[2]]) == 1
