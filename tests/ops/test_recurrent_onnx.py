"""ONNX recurrent layers: hidden units and inputs go, whatever outputs are left out, against the original with zeros."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest
from onnx import NodeProto, numpy_helper

from tests.frontends.onnx_tools import feeds, model, node, run, weight
from tests.helpers import assert_equality, graph_of

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
INPUT, HIDDEN, STEPS, BATCH = 10, 6, 5, 2
#: The layer's outputs, with which of them is read.
FORMS = {"all": ("s h", "s"), "the last state alone": ("_ h", "h"), "the sequence alone": ("s", "s")}
LSTM_FORMS = {"the cells alone": ("_ _ c", "c"), "sequence and cells": ("s _ c", "c")}


def layer(
    op: str, way: str, outputs: str, name: str = "r", peepholes: bool = False
) -> tuple[NodeProto, dict[str, Any]]:
    """One layer on `i`, with weights of its own."""
    directions = 2 if way == "bidirectional" else 1
    rows = GATES[op] * HIDDEN
    weights = {
        f"{name}_w": weight(directions, rows, INPUT),
        f"{name}_r": weight(directions, rows, HIDDEN),
        f"{name}_b": weight(directions, 2 * rows),
    }
    operands = ["i", *weights]
    if peepholes:
        weights[f"{name}_p"] = weight(directions, 3 * HIDDEN)
        operands += ["_", "_", "_", f"{name}_p"]
    return node(op, " ".join(operands), outputs, hidden_size=HIDDEN, direction=way), weights


def network(op: str, way: str, outputs: str, read: str, peepholes: bool = False) -> onnx.ModelProto:
    recurrent, weights = layer(op, way, outputs, peepholes=peepholes)
    weights |= {"inp": weight(3, INPUT), "out": weight(HIDDEN, 2)}
    nodes = [node("MatMul", "x inp", "i"), recurrent, node("MatMul", f"{read} out")]
    return model(nodes, {"x": (STEPS, BATCH, 3)}, weights=weights)


def zeroed(source: onnx.ModelProto, inputs: list[int], hidden: list[int]) -> onnx.ModelProto:
    """The original in which whatever makes other inputs and hidden units is zero: a cell without gates adds nothing."""
    made = onnx.ModelProto()
    made.CopyFrom(source)
    for stored in made.graph.initializer:
        array = numpy_helper.to_array(stored).copy()
        if stored.name == "inp":
            array[:, np.setdiff1d(np.arange(INPUT), inputs)] = 0
        elif stored.name.startswith("r_"):
            gates = array.reshape(len(array), -1, HIDDEN, *array.shape[2:])
            gates[:, :, np.setdiff1d(np.arange(HIDDEN), hidden)] = 0
        stored.CopyFrom(numpy_helper.from_array(array, stored.name))
    return made


def assert_prunes(source: onnx.ModelProto) -> None:
    graph = graph_of(source)
    pruned = assert_equality(graph)
    kept = {group.size: list(group.keep[0]) for group in pruned.plan.groups}
    assert (len(kept[INPUT]), len(kept[HIDDEN])) == (5, 3)
    fed = feeds(graph)
    (expected,) = run(zeroed(source, kept[INPUT], kept[HIDDEN]), fed)
    np.testing.assert_allclose(run(pruned.model, fed)[0], expected, rtol=1e-4, atol=1e-5)
    assert np.abs(expected - run(source, fed)[0]).max() > 0.01, "what went makes no difference"


@pytest.mark.parametrize("way", ["forward", "reverse", "bidirectional"])
@pytest.mark.parametrize("op", GATES)
def test_whichever_outputs_are_left_out(op: str, way: str) -> None:
    for outputs, read in {**FORMS, **(LSTM_FORMS if op == "LSTM" else {})}.values():
        assert_prunes(network(op, way, outputs, read))


@pytest.mark.parametrize("way", ["forward", "reverse", "bidirectional"])
def test_peepholes(way: str) -> None:
    """Hidden units that the gates look at, each at its own."""
    assert_prunes(network("LSTM", way, "s", "s", peepholes=True))


def test_outputs_left_out_by_nodes_without_names() -> None:
    """Such outputs were once called alike."""
    first, weights = layer("LSTM", "forward", "_ h", "a")
    second, more = layer("GRU", "forward", "_ g", "b")
    third, others = layer("LSTM", "forward", "_ k", "c")
    nodes = [node("MatMul", "x inp", "i"), first, second, third, node("Sum", "h g k", "s"), node("MatMul", "s out")]
    for one in nodes:
        one.name = ""
    weights |= {**more, **others, "inp": weight(3, INPUT), "out": weight(HIDDEN, 2)}
    pruned = assert_equality(graph_of(model(nodes, {"x": (STEPS, BATCH, 3)}, weights=weights)))
    assert pruned.graph.weights()["c_r"].shape == (1, 12, 3)
    assert [list(n.output) for n in pruned.model.graph.node if n.op_type == "LSTM"] == [["", "h"], ["", "k"]]
