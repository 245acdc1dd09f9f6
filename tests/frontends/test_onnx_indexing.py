"""Constant indices, in whatever form an operator takes them: an axis that they keep whole can be pruned."""

from __future__ import annotations

import numpy as np
import pytest
from onnx import ModelProto, NodeProto

import graphprune as gp
from graphprune.errors import InputError
from graphprune.frontends import onnx as frontend
from tests.frontends.onnx_tools import assert_round_trip, checked, ints, model, node, weight

CHANNELS, SIDE = 16, 3


def around(nodes: list[NodeProto], weights: dict[str, np.ndarray]) -> ModelProto:
    """A convolution, what is tested (from `h` to `k`, with channels second again), and a second convolution."""
    steps = [node("Conv", "x w1", "c"), node("Relu", "c", "h"), *nodes, node("Conv", "k w2")]
    both = {"w1": weight(CHANNELS, 3, 1, 1), "w2": weight(8, CHANNELS, 1, 1), **weights}
    return model(steps, {"x": (2, 3, SIDE, SIDE)}, weights=both, opset=18)


def grid(*rows: np.ndarray) -> np.ndarray:
    """Tuples of all combinations."""
    return np.stack(np.meshgrid(*rows, indexing="ij"), axis=-1).astype(np.int64)


PERM = np.random.default_rng(0).permutation(CHANNELS)
LARGER = np.array([0, 0, 1, 1, 1, 2, -1])
PLACES = np.arange(SIDE)

CASES: dict[str, tuple[list[NodeProto], dict[str, np.ndarray]]] = {
    "GatherND of positions": (
        [
            node("Transpose", "h", "t", perm=[2, 3, 0, 1]),
            node("GatherND", "t i", "g"),
            node("Transpose", "g", "k", perm=[2, 3, 0, 1]),
        ],
        {"i": grid(LARGER, LARGER)},
    ),
    "GatherND of channels and rows": (
        [
            node("Transpose", "h", "t", perm=[1, 2, 0, 3]),
            node("GatherND", "t i", "g"),
            node("Transpose", "g", "k", perm=[2, 0, 1, 3]),
        ],
        {"i": grid(PERM, np.array([0, 2]))},
    ),
    "GatherND of everything": ([node("GatherND", "h i", "k")], {"i": grid(np.arange(2), PERM, PLACES, PLACES[::-1])}),
    "GatherND of channels only": (
        [
            node("Transpose", "h", "t", perm=[1, 0, 2, 3]),
            node("GatherND", "t i", "g"),
            node("Transpose", "g", "k", perm=[1, 0, 2, 3]),
        ],
        {"i": PERM[:, None]},
    ),
    "GatherElements of channels": (
        [node("GatherElements", "h i", "k", axis=1)],
        {"i": np.broadcast_to(PERM[:, None, None], (2, CHANNELS, SIDE, SIDE)).copy()},
    ),
    "GatherElements of rows": (
        [node("GatherElements", "h i", "k", axis=2)],
        {"i": np.broadcast_to(np.array([2, 0])[:, None], (2, CHANNELS, 2, SIDE)).copy()},
    ),
    "ScatterND of a slice": (
        [
            node("Neg", "h", "n"),
            node("Slice", "n from to three", "v"),
            node("ScatterND", "h i v", "k"),
        ],
        {
            "from": ints(1), "to": ints(3), "three": ints(3),
            "i": grid(np.arange(2), np.arange(CHANNELS), PLACES, np.array([0, 2])),
        },
    ),
    "ScatterND of channels": (
        [
            node("Transpose", "h", "t", perm=[1, 0, 2, 3]),
            node("Conv", "x w3", "b"),
            node("Transpose", "b", "v", perm=[1, 0, 2, 3]),
            node("ScatterND", "t i v", "s"),
            node("Transpose", "s", "k", perm=[1, 0, 2, 3]),
        ],
        {"w3": weight(6, 3, 1, 1), "i": PERM[:6, None]},
    ),
    "Gather of a matrix of indices": (
        [node("Gather", "h i", "g", axis=2), node("Reshape", "g s", "k")],
        {"i": np.array([[0, 1], [-1, 0]]), "s": ints(0, 0, -1, SIDE)},
    ),
    "Slice backwards": (
        [node("Slice", "h from to one back", "k")],
        {"from": ints(-1), "to": ints(-99), "one": ints(1), "back": ints(-1)},
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_axes_that_constant_indices_keep_are_pruned(name: str) -> None:
    nodes, weights = CASES[name]
    made = around(nodes, weights)
    graph = assert_round_trip(made)
    result = gp.prune(graph, target=gp.channels(0.5))
    assert result.report.proof is not None and result.report.proof.passed
    assert not result.report.unknown
    assert result.report.after.parameters <= 0.6 * result.report.before.parameters, result.report.frozen
    checked(result.graph)


def test_tuples_that_mix_axes_freeze_them() -> None:
    """A diagonal: neither axis can lose an index alone."""
    nodes = [
        node("Transpose", "h", "t", perm=[1, 2, 0, 3]),
        node("GatherND", "t i", "g"),
        node("Unsqueeze", "g one", "u"),
        node("Transpose", "u", "k", perm=[2, 0, 1, 3]),
    ]
    tuples = np.stack([np.arange(CHANNELS), np.arange(CHANNELS) % SIDE], axis=-1)
    with pytest.raises(InputError, match="rows are looked up by index"):
        gp.plan(frontend.from_model(around(nodes, {"i": tuples, "one": ints(1)})), gp.channels(0.5))
