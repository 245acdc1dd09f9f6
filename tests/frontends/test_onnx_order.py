"""Files whose nodes are out of order: onnxruntime sorts the main graph, exporters leave it to that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, NodeProto, helper

from graphprune import channels, prune
from graphprune.errors import InputError
from graphprune.frontends import onnx as frontend
from graphprune.frontends.onnx.read import order, reading
from tests.frontends.onnx_tools import checked, feeds, linear, model, node, run, weight
from tests.work import lines_of_work


def two_layers() -> ModelProto:
    """`relu(x @ v) @ w`."""
    nodes = [node("MatMul", "x v", "h"), node("Relu", "h", "a"), node("MatMul", "a w", "y")]
    return model(nodes, {"x": ("batch", 16)}, weights={"v": weight(16, 24), "w": weight(24, 8)})


def reversed_nodes(made: ModelProto) -> ModelProto:
    """A copy with the last node first."""
    copy = ModelProto.FromString(made.SerializeToString())
    nodes = list(copy.graph.node)[::-1]
    del copy.graph.node[:]
    copy.graph.node.extend(nodes)
    return copy


def test_what_comes_in_any_order_is_read_in_order() -> None:
    made, mixed = two_layers(), reversed_nodes(two_layers())
    given = mixed.SerializeToString()
    graph = frontend.from_model(mixed)
    assert [n.op for n in graph.nodes] == ["MatMul", "Relu", "MatMul"]
    assert mixed.SerializeToString() == given
    inputs = feeds(graph)
    np.testing.assert_array_equal(run(checked(graph), inputs)[0], run(made, inputs)[0])


@pytest.mark.parametrize("external", [False, True])
def test_files_in_any_order_are_pruned_proven_and_written_in_order(tmp_path: Path, external: bool) -> None:
    path, out = tmp_path / "in.onnx", tmp_path / "out.onnx"
    onnx.save_model(reversed_nodes(two_layers()), path, save_as_external_data=external, size_threshold=0)
    result = prune(path, target=channels(0.5))
    assert result.report.proof is not None and result.report.proof.passed
    result.save(out)
    onnx.checker.check_model(str(out), full_check=True)
    assert {v.name: v.shape for v in frontend.load(out).weights().values()} == {"v": (16, 12), "w": (12, 8)}


def test_models_whose_data_lies_elsewhere_are_sorted_in_memory(tmp_path: Path) -> None:
    path = tmp_path / "in.onnx"
    onnx.save_model(reversed_nodes(two_layers()), path, save_as_external_data=True, size_threshold=0)
    graph = frontend.from_model(onnx.load(path, load_external_data=False), base_dir=tmp_path)
    assert [n.op for n in graph.nodes] == ["MatMul", "Relu", "MatMul"]


def test_bodies_come_in_order_before_the_node_that_has_them() -> None:
    """The body's second node makes what its first reads; the outer value it captures is made last of all."""
    shape = {"x": (2, 3)}
    inner = [helper.make_node("Mul", ["b", "late"], ["t"]), helper.make_node("Neg", ["x"], ["b"])]
    then, other = (
        helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(out, 1, (2, 3))])
        for nodes, name, out in ((inner, "then", "t"), ([helper.make_node("Relu", ["x"], ["e"])], "else", "e"))
    )
    choose = helper.make_node("If", ["c"], ["y"], then_branch=then, else_branch=other, name="choose")
    late = [node("ReduceSum", "x", "s", keepdims=0), node("Cast", "s", "c", to=9), node("Exp", "x", "late")]
    mixed = model([*late, node("Relu", "x")], shape)
    del mixed.graph.node[3:]
    mixed.graph.node.insert(0, choose)
    graph = frontend.from_model(mixed)
    assert [n.op for n in graph.nodes] == ["ReduceSum", "Cast", "Exp", "If"]
    x = np.abs(feeds(graph)["x"])
    np.testing.assert_allclose(run(checked(graph), {"x": x})[0], -x * np.exp(x), rtol=1e-5)


def cyclic() -> ModelProto:
    """Two nodes that wait for each other."""
    made = linear()
    made.graph.node[0].input[0] = "a"
    return made


def own_reader() -> ModelProto:
    """A node that reads what it makes."""
    made = linear()
    made.graph.node[1].input[1] = "a"
    return made


def dangling() -> ModelProto:
    """Reads what nothing makes, in the wrong order."""
    made = reversed_nodes(linear())
    made.graph.node[2].input[0] = "nowhere"
    return made


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (cyclic, r"the nodes form a cycle at '(MatMul_h|Add_a)'"),
        (own_reader, r"the nodes form a cycle at 'Add_a' \(Add\)"),
        (dangling, r"the node 'MatMul_h' \(MatMul\) reads 'nowhere', which nothing makes"),
    ],
)
def test_what_no_order_puts_right_is_refused(tmp_path: Path, make: Callable[[], ModelProto], message: str) -> None:
    path = tmp_path / "in.onnx"
    path.write_bytes(make().SerializeToString())
    with pytest.raises(InputError, match=f"in.onnx' is not a valid ONNX model: {message}"):
        frontend.load(path)
    with pytest.raises(InputError, match=f"the model is not a valid ONNX model: {message}"):
        frontend.from_model(make())


def test_files_in_order_are_not_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "put_in_order", None)
    frontend.from_model(linear())


def test_an_exporter_s_file_is_written_again_in_order(tmp_path: Path) -> None:
    path = tmp_path / "out.onnx"
    path.write_bytes(reversed_nodes(linear()).SerializeToString())
    reading.check_file(path)
    onnx.checker.check_model(str(path), full_check=True)


def test_sorting_is_linear() -> None:
    """Nodes backwards, each also reading the first value."""

    def work(count: int) -> int:
        nodes = [node("Add", f"v{i} v0", f"v{i + 1}") for i in range(count)][::-1]
        found: list[NodeProto] = []
        counted = lines_of_work(lambda: found.extend(order.in_order(nodes)))
        assert [n.output[0] for n in found] == [f"v{i + 1}" for i in range(count)]
        return counted

    assert work(8_000) < 10 * work(1_000)
