"""Sparse tensors stay sparse, functions that are written out are told, names may hold anything."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, SparseTensorProto, helper, numpy_helper

import graphprune as gp
from graphprune.frontends import onnx as frontend
from graphprune.frontends.onnx.read.constants import dense_weight
from tests.frontends.onnx_tools import feeds, model, node, run, weight


def thin(array: np.ndarray, name: str, *, tuples: bool) -> SparseTensorProto:
    """A sparse tensor with flat indices, or with tuples."""
    flat = np.flatnonzero(array)
    places = np.stack(np.unravel_index(flat, array.shape), axis=-1) if tuples else flat
    indices = numpy_helper.from_array(places.astype(np.int64), f"{name}_places")
    values = numpy_helper.from_array(array.reshape(-1)[flat], name)
    return helper.make_sparse_tensor(values, indices, list(array.shape))


def sparse(*, tuples: bool, constant: bool = False) -> ModelProto:
    """Two layers; of the first weight one element in sixteen is not zero."""
    first = weight(32, 64) * (np.random.default_rng(0).random((32, 64)) < 1 / 16)
    tensor = thin(first, "" if constant else "w1", tuples=tuples)
    nodes = [node("MatMul", "x w1", "h"), node("Relu", "h", "r"), node("MatMul", "r w2")]
    made = model(nodes, {"x": ("n", 32)}, weights={"w1": first, "w2": weight(64, 8)})
    del made.graph.initializer[0]
    if constant:
        made.graph.node.insert(0, helper.make_node("Constant", [], ["w1"], "first", sparse_value=tensor))
    else:
        made.graph.sparse_initializer.append(tensor)
    onnx.checker.check_model(made)  # shape inference knows no sparse initializers
    return made


@pytest.mark.parametrize("constant", [False, True])
@pytest.mark.parametrize("tuples", [False, True])
def test_sparse_tensors_stay_sparse(tuples: bool, constant: bool, tmp_path: Path) -> None:
    made = sparse(tuples=tuples, constant=constant)
    graph = frontend.from_model(made)
    again, inputs = frontend.emit(graph), feeds(graph)
    assert again.ByteSize() <= made.ByteSize()
    np.testing.assert_array_equal(run(again, inputs)[0], run(made, inputs)[0])
    result = gp.prune(graph, target=gp.channels(0.5))
    assert result.report.proof is not None and result.report.proof.passed
    assert result.model.ByteSize() < 0.7 * made.ByteSize()
    result.save(tmp_path / "small.onnx")
    small = onnx.load(tmp_path / "small.onnx")
    assert (tmp_path / "small.onnx").stat().st_size == result.report.after.bytes
    found = small.graph.node[0].attribute[0].sparse_tensor if constant else small.graph.sparse_initializer[0]
    assert len(found.indices.dims) == (2 if tuples else 1)
    assert dense_weight(found).shape == (32, 32)
    np.testing.assert_array_equal(run(small, inputs)[0], run(result.model, inputs)[0])


def test_functions_that_are_written_out_are_told() -> None:
    nodes = [node("MatMul", "x w1", "h"), node("Relu", "h", "r"), node("MatMul", "r w2")]
    made = model(nodes, {"x": (2, 8)}, weights={"w1": weight(8, 32), "w2": weight(32, 4)})
    opsets = [helper.make_opsetid("", 17)]
    made.functions.append(helper.make_function("mine", "Bend", ["a"], ["b"], [node("Relu", "a", "b")], opsets))
    made.opset_import.append(helper.make_opsetid("mine", 1))
    made.graph.node[1].op_type, made.graph.node[1].domain = "Bend", "mine"
    result = gp.prune(made, target=gp.channels(0.5))
    assert any("functions of the file (Bend) are written out where they were called" in n for n in result.report.notes)
    assert not gp.prune(model(nodes, {"x": (2, 8)}, weights={"w1": weight(8, 32), "w2": weight(32, 4)}),
                        target=gp.channels(0.5)).report.notes  # fmt: skip


def test_names_may_hold_anything() -> None:
    names = {"h": "a::b/c d", "r": "ünï [1]", "w1": "w{0}, 'x'", "w2": "-1"}
    nodes = [node("MatMul", "x w1", "h"), node("Relu", "h", "r"), node("MatMul", "r w2")]
    for step in nodes:
        for slots in (step.input, step.output):
            slots[:] = [names.get(name, name) for name in slots]
    made = model(nodes, {"x": (2, 8)}, weights={names["w1"]: weight(8, 32), names["w2"]: weight(32, 4)})
    result = gp.prune(made, target=gp.channels(0.5))
    assert result.report.proof is not None and result.report.proof.passed
    assert {t.name for t in result.model.graph.initializer} == {names["w1"], names["w2"]}
