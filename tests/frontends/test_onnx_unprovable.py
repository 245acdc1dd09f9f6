"""Models that no runtime here can run: the error says what the way out leaves unchecked."""

from __future__ import annotations

from pathlib import Path

import onnx
import pytest
from onnx import ModelProto, TensorProto, helper

from graphprune.cli.entry import run
from tests.frontends.onnx_tools import weight

SENTENCE = "--no-verify (verify=False) writes the result without the proof that it computes what the original does"


def model(nodes: list[onnx.NodeProto], element: int, domains: dict[str, int]) -> ModelProto:
    """`x` in, `y` out, with weights for an embedding and two layers."""
    arrays = {"e": weight(3, 8), "a": weight(8, 32), "b": weight(32, 4)}
    stored = [onnx.numpy_helper.from_array(array, name) for name, array in arrays.items()]
    shape = [2] if element == TensorProto.STRING else [2, 8]
    x, y = helper.make_tensor_value_info("x", element, shape), helper.make_tensor_value_info("y", 1, [2, 4])
    graph = helper.make_graph(nodes, "g", [x], [y], stored)
    opsets = [helper.make_opsetid(domain, version) for domain, version in {"": 17, **domains}.items()]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9)


def layers(first: str, last: str) -> list[onnx.NodeProto]:
    return [
        helper.make_node("MatMul", [first, "a"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "b"], [last]),
    ]


def custom() -> ModelProto:
    """An operator of its owner's."""
    own = helper.make_node("Swoosh", ["z"], ["y"], domain="my.ops", name="swoosh_1")
    return model([*layers("x", "z"), own], TensorProto.FLOAT, {"my.ops": 1})


def text() -> ModelProto:
    """Words for input."""
    words = helper.make_node(
        "CategoryMapper", ["x"], ["i"], domain="ai.onnx.ml", cats_int64s=[0, 1, 2], cats_strings=["a", "b", "c"]
    )
    nodes = [words, helper.make_node("Gather", ["e", "i"], ["v"]), *layers("v", "y")]
    return model(nodes, TensorProto.STRING, {"ai.onnx.ml": 2})


@pytest.mark.parametrize(
    ("made", "why"),
    [(custom, "(the node 'swoosh_1' is a my.ops.Swoosh)"), (text, "the input 'x' is a tensor(string)")],
    ids=["custom operator", "text"],
)
def test_the_way_out_is_said(made: object, why: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, out = tmp_path / "m.onnx", tmp_path / "o.onnx"
    path.write_bytes(made().SerializeToString())  # type: ignore[operator]
    given = ["prune", str(path), "-o", str(out), "--target", "channels=0.5"]
    assert run(given) == 2
    said = capsys.readouterr().err
    assert why in said and SENTENCE in said and said.count("\n") == 1 and not out.exists()
    assert run([*given, "--no-verify"]) == 0
    assert out.exists()
