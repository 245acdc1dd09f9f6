"""Weights that an exporter named get labels after the modules that read them, and both names can be asked for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, StringStringEntryProto

import graphprune as gp
from graphprune.frontends.onnx.lower.naming import says_nothing, scope_of
from graphprune.ir.graph import Graph

from . import onnx_tools as tools


@pytest.mark.parametrize(
    ("name", "nothing"),
    [
        ("val_32", True), ("onnx::MatMul_512", True), ("1234", True), ("/encoder/Constant_3_output_0", True),
        ("const_fold_opt__123", True), ("unsqueeze_1", True), ("scalar_tensor_default", True), ("Identity_2", True),
        ("conv1.weight", False), ("w", False), ("w1", False), ("pos_embed", False), ("val_head.weight", False),
        ("features.0.0.bias", False), ("conv", False), ("mean", False), ("Partitioned/block1/kernel", False),
    ],
)  # fmt: skip
def test_names_that_say_nothing(name: str, nothing: bool) -> None:
    assert says_nothing(name) == nothing


def named(name: str, scopes: str = "") -> NodeProto:
    made = tools.node("Relu", "x")
    made.name = name
    if scopes:
        made.metadata_props.append(StringStringEntryProto(key="pkg.torch.onnx.name_scopes", value=scopes))
    return made


@pytest.mark.parametrize(
    ("node", "scope"),
    [
        (named("node_conv2d_3", "['', 'layer1', 'layer1.0', 'layer1.0.conv1', 'conv2d_3']"), "layer1.0.conv1"),
        (named("node_add", "['', 'add']"), ""),
        (named("node_add", "broken"), ""),
        (named("/layer1/layer1.0/conv1/Conv"), "layer1.0.conv1"),
        (named("/features/features.1/features.1.0/attn/qkv/MatMul"), "features.1.0.attn.qkv"),
        (named("/encoder/layers/layers.3/fc/Gemm"), "encoder.layers.3.fc"),
        (named("/Add"), ""),
        (named("Conv_12"), ""),
    ],
)
def test_the_module_of_a_node(node: NodeProto, scope: str) -> None:
    assert scope_of(node) == scope


def network() -> ModelProto:
    """Two linear layers of which the exporter transposed the weights, one of them without a bias; a norm between."""
    nodes = [
        tools.node("MatMul", "x val_1", "a"),
        tools.node("Add", "a enc.0.fc.bias", "b"),
        tools.node("Relu", "b", "c"),
        tools.node("MatMul", "c val_2", "d"),
        tools.node("Relu", "d", "e"),
        tools.node("MatMul", "e onnx::MatMul_3", "y"),
    ]
    for node, name in zip(nodes, "enc/enc.0/fc enc/enc.0/fc enc/enc.0/act enc/enc.1 enc/act head".split(), strict=True):
        node.name = f"/{name}/{node.op_type}"
    weights = {"val_1": tools.weight(5, 8), "enc.0.fc.bias": tools.weight(8), "val_2": tools.weight(8, 6)}
    return tools.model(nodes, {"x": (4, 5)}, weights={**weights, "onnx::MatMul_3": tools.weight(6, 2)})


def loaded(model: ModelProto) -> Graph:
    from graphprune.frontends import onnx as frontend

    return frontend.from_model(model)


def labels(graph: Graph) -> dict[str, str]:
    return {name: value.label for name, value in graph.weights().items()}


def test_labels_come_from_the_bias_that_is_added_or_from_the_module() -> None:
    assert labels(loaded(network())) == {
        "val_1": "enc.0.fc.weight", "enc.0.fc.bias": "", "val_2": "enc.1.weight", "onnx::MatMul_3": "head.weight",
    }  # fmt: skip


def test_several_weights_of_one_module_are_told_apart_by_their_nodes() -> None:
    nodes = [tools.node("MatMul", "x val_1", "a"), tools.node("MatMul", "a val_2", "y")]
    for node, name in zip(nodes, ("MatMul", "MatMul_1"), strict=True):
        node.name = f"/attn/{name}"
    model = tools.model(nodes, {"x": (4, 5)}, weights={"val_1": tools.weight(5, 5), "val_2": tools.weight(5, 6)})
    assert labels(loaded(model)) == {"val_1": "attn.MatMul.weight", "val_2": "attn.MatMul_1.weight"}


def test_a_label_is_never_the_name_of_another_weight() -> None:
    nodes = [tools.node("MatMul", "x val_1", "a"), tools.node("MatMul", "a fc.weight", "y")]
    nodes[0].name = "/fc/MatMul"
    model = tools.model(nodes, {"x": (4, 5)}, weights={"val_1": tools.weight(5, 5), "fc.weight": tools.weight(5, 6)})
    assert labels(loaded(model)) == {"val_1": "fc.MatMul.weight", "fc.weight": ""}


def test_a_weight_that_an_identity_hands_on_is_called_after_its_reader() -> None:
    nodes = [tools.node("Identity", "val_1", "i"), tools.node("Conv", "x w i", "y")]
    nodes[1].name = "/stem/Conv"
    weights = {"val_1": tools.weight(4), "w": tools.weight(4, 3, 1, 1)}
    assert labels(loaded(tools.model(nodes, {"x": (1, 3, 4, 4)}, weights=weights)))["val_1"] == "stem.bias"


def test_other_operators_have_weights_too() -> None:
    nodes = [tools.node("LSTM", "x onnx::LSTM_1 onnx::LSTM_2", "y", hidden_size=3)]
    nodes[0].name = "/cell/LSTM"
    weights = {"onnx::LSTM_1": tools.weight(1, 12, 5), "onnx::LSTM_2": tools.weight(1, 12, 3)}
    found = labels(loaded(tools.model(nodes, {"x": (4, 2, 5)}, weights=weights)))
    assert found == {"onnx::LSTM_1": "cell.LSTM.weight", "onnx::LSTM_2": "/cell/LSTM.weight"}


def kept(graph: Graph, **options: Any) -> list[int]:
    return [group.kept for group in gp.plan(graph, gp.channels(0.5), **options).groups]


def test_both_names_choose_groups() -> None:
    graph = loaded(network())
    assert kept(graph) == [4, 3]
    for glob in ("enc.0.fc.weight[1]", "enc.0.*", "enc.{0-0}.fc.weight", "val_1", "val_1[1]"):
        assert kept(graph, include=[glob]) == [4, 6], glob
    assert kept(graph, exclude=["enc.1.weight[1]"], include=["enc.*"]) == [4, 6]


def test_reports_show_labels_and_plans_keep_the_names_of_the_file(tmp_path: Path) -> None:
    graph = loaded(network())
    report = gp.inspect(graph)
    assert [group.name for group in report.groups] == ["enc.0.fc.weight[1]", "enc.1.weight[1]"]
    assert report.groups[1].members == ["enc.1.weight[1]", "head.weight[0]"]
    assert report.renamed["enc.1.weight"] == "val_2"
    assert {row.weight for row in report.frozen} == {"enc.0.fc.weight", "head.weight"}
    plan = gp.plan(graph, gp.channels(0.5))
    assert [(g.name, g.label) for g in plan.groups] == [
        ("val_1[1]", "enc.0.fc.weight[1]"), ("val_2[1]", "enc.1.weight[1]"),
    ]  # fmt: skip
    plan.save(tmp_path / "plan.json")
    nameless = network()
    for node in nameless.graph.node:
        node.name = ""
    pruned = gp.apply(loaded(nameless), gp.Plan.load(tmp_path / "plan.json"))
    assert {name: value.sizes for name, value in pruned.weights().items()} == {
        "val_1": (5, 4), "enc.0.fc.bias": (4,), "val_2": (4, 3), "onnx::MatMul_3": (3, 2),
    }  # fmt: skip
    written = gp.emit(pruned)
    assert {t.name for t in written.graph.initializer} == set(pruned.weights())


def test_a_plan_without_labels_still_fits() -> None:
    graph = loaded(network())
    data = gp.plan(graph, gp.channels(0.5)).to_json()
    for group in data["groups"]:
        del group["label"]
    assert not np.all(gp.Plan.from_json(data).kept(gp.couple(graph)))
