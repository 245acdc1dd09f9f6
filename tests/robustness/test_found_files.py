"""Broken files that random search found wanting once: each ended as a bug before its fix, now in a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from onnx import AttributeProto, ModelProto, TensorProto, helper, numpy_helper

from graphprune.frontends import frontend
from tests.robustness.attempts import _planned, command
from tests.robustness.originals import originals


def _entry(model: ModelProto, **entries: str) -> None:
    tensor = model.graph.initializer[0]
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in entries.items():
        tensor.external_data.add(key=key, value=value)


def _offset(model: ModelProto) -> None:
    _entry(model, location="in.onnx", offset="many")


def _null(model: ModelProto) -> None:
    _entry(model, location="in\0.onnx")


def _negative(model: ModelProto) -> None:
    _entry(model, location="in.onnx", offset="-8")


def _type(model: ModelProto) -> None:
    model.graph.initializer[0].data_type = -7


def _handed_on(model: ModelProto) -> None:
    model.graph.output[0].CopyFrom(model.graph.input[0])


def _lonely(model: ModelProto) -> None:
    model.graph.node[0].op_type = "Conv"
    del model.graph.node[0].input[1:]


def _rows(model: ModelProto) -> None:
    """An index far outside the rows it looks into."""
    model.graph.initializer.append(numpy_helper.from_array(np.array([2**31 - 1]), "far"))
    model.graph.node.append(helper.make_node("Gather", ["w0", "far"], ["rows"], "rows", axis=1))
    model.graph.node.append(helper.make_node("Add", ["y", "rows"], ["z"], "sum"))
    model.graph.output[0].name = "z"


def _immense(model: ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array([1 << 40, 8]), "huge"))
    model.graph.node.append(helper.make_node("ConstantOfShape", ["huge"], ["immense"], "immense"))
    model.graph.node.append(helper.make_node("Add", ["y", "immense"], ["z"], "sum"))
    model.graph.output[0].name = "z"


def _long(model: ModelProto) -> None:
    model.graph.node[0].input[0] = "n" * 70_000


def _blocks(model: ModelProto) -> None:
    """A block whose square is zero modulo 2**64: onnxruntime divides by it, which ends the process."""
    model.graph.node.append(helper.make_node("DepthToSpace", ["y"], ["z"], "pixels", blocksize=1 << 62))
    model.graph.output[0].name = "z"


def _groups(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("Conv", ["y", "w0"], ["z"], "grouped", group=0))
    model.graph.output[0].name = "z"


def _infinite(model: ModelProto) -> None:
    weight = next(t for t in model.graph.initializer if t.name == "w1")
    array = numpy_helper.to_array(weight).copy()
    array[0, 0] = np.inf
    weight.CopyFrom(numpy_helper.from_array(array, "w1"))


def _wide(model: ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1 << 62


def _bits(model: ModelProto) -> None:
    """Integers in a field of their own, fewer than the shape says."""
    model.graph.initializer.append(TensorProto(name="few", data_type=TensorProto.INT4, dims=[7], int32_data=[1]))
    model.graph.initializer[-1].dims[0] = 1 << 20


BREAKS: dict[str, tuple[Callable[[ModelProto], None], str]] = {
    "offset": (_offset, "at the offset 'many', which is no number of bytes"),
    "null": (_null, "which is no name of a file"),
    "negative": (_negative, "at the offset '-8'"),
    "type": (_type, "element type -7, which does not exist"),
    "handed_on": (_handed_on, "its outputs are its inputs"),
    "lonely": (_lonely, "is not a valid ONNX model"),
    "blocks": (_blocks, "has blocksize [4611686018427387904]"),
    "groups": (_groups, "has group [0]"),
    "infinite": (_infinite, "hold NaN or infinite numbers"),
    "wide": (_wide, "too large to be tried"),
    "bits": (_bits, "few"),
    "rows": (_rows, "onnxruntime cannot run the model"),
    "immense": (_immense, ""),
    "long": (_long, "[...]"),
}


@pytest.mark.parametrize("name", list(BREAKS))
def test_found_models(name: str, tmp_path: Path) -> None:
    model = ModelProto.FromString(originals()["large"]["in.onnx"])
    change, text = BREAKS[name]
    change(model)
    (tmp_path / "in.onnx").write_bytes(model.SerializeToString())
    line = ["prune", str(tmp_path / "in.onnx"), "-o", str(tmp_path / "out.onnx"), "--target", "channels=0.5"]
    code, errors = command(line)
    assert (code, errors.count("\n")) == (2, 1), errors
    assert text in errors and len(errors) < 1500
    assert [path.name for path in tmp_path.iterdir()] == ["in.onnx"]


def test_counts_that_a_function_leaves_to_its_caller_are_no_zeros() -> None:
    """An attribute that refers to the function's own has no value where it stands."""
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    body = helper.make_node("Conv", ["p", "k"], ["q"])
    body.attribute.append(AttributeProto(name="group", ref_attr_name="g", type=AttributeProto.INT))
    function = helper.make_function("own", "Grouped", ["p", "k"], ["q"], [body], opsets, ["g"])
    call = helper.make_node("Grouped", ["x", "k"], ["y"], domain="own", g=2)
    x, y = (helper.make_tensor_value_info(n, TensorProto.FLOAT, [1, 4, 3, 3]) for n in "xy")
    kernel = numpy_helper.from_array(np.ones((4, 2, 1, 1), np.float32), "k")
    graph = helper.make_graph([call], "g", [x], [y], [kernel])
    model = helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=9)
    assert frontend("onnx").from_model(model).nodes[0].attrs["groups"] == 2


def test_found_plan(tmp_path: Path) -> None:
    """A list where the plan's mode should stand."""
    for name, data in _planned().items():
        (tmp_path / name).write_bytes(data)
    plan = json.loads((tmp_path / "plan.json").read_text()) | {"grouped": []}
    (tmp_path / "plan.json").write_text(json.dumps(plan))
    line = ["apply", str(tmp_path / "in.onnx"), "--plan", str(tmp_path / "plan.json"), "-o", str(tmp_path / "o.onnx")]
    assert command(line)[0] == 2
