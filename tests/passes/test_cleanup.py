"""Removing what does nothing and what nobody reads, and computing constants."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from onnx import NodeProto, TensorProto, helper
from torch import nn

from graphprune.passes.cleanup import Cleanup
from graphprune.passes.fold_constants import FoldConstants
from graphprune.passes.remove_dead import RemoveDead
from graphprune.passes.remove_identity import RemoveIdentity
from tests.passes.small import apply, assert_same, kinds, onnx_graph, rand, torch_graph

IDENTITY = RemoveIdentity()
RELU, NEG = helper.make_node("Relu", ["x"], ["a"]), helper.make_node("Neg", ["b"], ["y"])


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


NOTHING = {
    "identity": ("Identity", {}, {}),
    "dropout": ("Dropout", {}, {}),
    "cast": ("Cast", {}, {"to": TensorProto.FLOAT}),
    "reshape": ("Reshape", {"p": ints(2, -1, 4)}, {}),
    "transpose": ("Transpose", {}, {"perm": [0, 1, 2]}),
    "expand": ("Expand", {"p": ints(1, 3, 4)}, {}),
    "slice": ("Slice", {"p": ints(0), "q": ints(1 << 40), "r": ints(1)}, {}),
    "pad": ("Pad", {"p": ints(0, 0, 0, 0, 0, 0)}, {}),
    "tile": ("Tile", {"p": ints(1, 1, 1)}, {}),
    "concat": ("Concat", {}, {"axis": 1}),
}


@pytest.mark.parametrize("name", NOTHING)
def test_onnx_operators_that_do_nothing_go(name: str) -> None:
    op, weights, attributes = NOTHING[name]
    node = helper.make_node(op, ["a", *weights], ["b"], **attributes)
    after = apply(IDENTITY, onnx_graph([RELU, node, NEG], [2, 3, 4], [2, 3, 4], weights))
    assert kinds(after) == ["relu", "neg"]


SOMETHING = {
    "reshape": (helper.make_node("Reshape", ["a", "p"], ["b"]), {"p": ints(3, 2, 4)}, [3, 2, 4]),
    "transpose": (helper.make_node("Transpose", ["a"], ["b"], perm=[1, 0, 2]), {}, [3, 2, 4]),
    "slice": (
        helper.make_node("Slice", ["a", "p", "q", "r"], ["b"]),
        {"p": ints(1), "q": ints(3), "r": ints(1)},
        [2, 2, 4],
    ),
    "reverse": (
        helper.make_node("Slice", ["a", "p", "q", "r", "s"], ["b"]),
        {"p": ints(-1), "q": ints(-9), "r": ints(1), "s": ints(-1)},
        [2, 3, 4],
    ),
    "swap": (helper.make_node("Transpose", ["a"], ["b"], perm=[0, 2, 1]), {}, [2, 4, 3]),
}  # fmt: skip


@pytest.mark.parametrize("name", SOMETHING)
def test_operators_that_do_something_stay(name: str) -> None:
    node, weights, shape = SOMETHING[name]
    graph = onnx_graph([RELU, node, NEG], [2, 3, 4], shape, weights)
    assert IDENTITY.run(graph) is graph


def test_a_slice_of_a_dynamic_axis_stays() -> None:
    node = helper.make_node("Slice", ["a", "p", "q", "r"], ["b"])
    weights = {"p": ints(0), "q": ints(1), "r": ints(0)}
    graph = onnx_graph([RELU, node, NEG], ["n", 3], ["m", 3], weights)
    assert IDENTITY.run(graph) is graph


def test_square_reshapes_of_two_dynamic_axes_stay() -> None:
    """Both axes are bound to one size: that `x` and its reshape have equal sizes is chance."""
    nodes = [
        RELU,
        helper.make_node("Shape", ["x"], ["s"]),
        helper.make_node("Gather", ["s", "p"], ["t"]),
        helper.make_node("Reshape", ["a", "t"], ["b"]),
        NEG,
    ]
    graph = onnx_graph(nodes, ["n", "m"], ["m", "n"], {"p": ints(1, 0)})
    assert IDENTITY.run(graph) is graph


def chain(*names: str, ops: str) -> list[NodeProto]:
    return [helper.make_node(op, [a], [b]) for op, a, b in zip(ops.split(), names, names[1:], strict=False)]


def test_an_identity_that_makes_the_output_hands_its_name_on() -> None:
    after = apply(IDENTITY, onnx_graph(chain("x", "a", "b", "y", ops="Relu Identity Dropout"), [2, 3], [2, 3]))
    assert kinds(after) == ["relu"]


def test_an_output_does_not_become_an_input() -> None:
    graph = onnx_graph(chain("x", "y", ops="Identity"), [2, 3], [2, 3])
    assert IDENTITY.run(graph) is graph
    after = apply(IDENTITY, onnx_graph(chain("x", "a", "y", ops="Dropout Identity"), [2, 3], [2, 3]))
    assert kinds(after) == ["identity"]


def test_a_dropout_whose_mask_is_read_stays() -> None:
    nodes = [
        helper.make_node("Dropout", ["x"], ["a", "mask"]),
        helper.make_node("Cast", ["mask"], ["m"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["a", "m"], ["y"]),
    ]
    graph = onnx_graph(nodes, [2, 3], [2, 3])
    assert IDENTITY.run(graph) is graph


def test_identities_of_weights_go() -> None:
    nodes = [helper.make_node("Identity", ["w"], ["v"]), helper.make_node("MatMul", ["x", "v"], ["y"])]
    assert kinds(apply(IDENTITY, onnx_graph(nodes, ["n", 3], ["n", 5], {"w": rand(3, 5)}))) == ["matmul"]


class Idle(nn.Module):
    """Much ado about nothing."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.drop = nn.Linear(4, 6), nn.Dropout()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A linear layer."""
        h = self.drop(self.linear(x)).to(torch.float32).reshape(2, 3, 6)[:, 0:3].detach()
        h = h.transpose(1, 2).contiguous().view(2, 18)
        return nn.functional.dropout(h, training=self.training)


def test_torch_operators_that_do_nothing_go() -> None:
    after = apply(IDENTITY, torch_graph(Idle(), torch.randn(2, 3, 4)))
    assert kinds(after) == ["matmul", "transpose", "identity", "reshape"]
    assert after.nodes[2].op in ("aten.contiguous", "aten.clone")


def test_torch_output_does_not_become_an_input() -> None:
    graph = torch_graph(nn.Sequential(nn.Dropout()), torch.randn(2, 3))
    assert IDENTITY.run(graph) is graph


def constant_nodes() -> list[NodeProto]:
    return [
        helper.make_node("Sqrt", ["c"], ["d"]),
        helper.make_node("Add", ["d", "one"], ["e"]),
        helper.make_node("Reshape", ["e", "s"], ["f"]),
        helper.make_node("Transpose", ["f"], ["g"], perm=[1, 0]),
        helper.make_node("Slice", ["g", "from", "to"], ["h"]),
        helper.make_node("Concat", ["h", "h"], ["i"], axis=0),
        helper.make_node("Gather", ["i", "at"], ["j"], axis=0),
        helper.make_node("Mul", ["x", "j"], ["y"]),
    ]


CONSTANTS = {
    "c": rand(6), "one": rand(1), "s": ints(2, 3), "from": ints(1), "to": ints(3), "at": ints(0, 3, 1),
}  # fmt: skip


def test_onnx_constants_are_folded() -> None:
    after = apply(FoldConstants(), onnx_graph(constant_nodes(), [3, 2], [3, 2], CONSTANTS))
    assert kinds(after) == ["mul"]
    assert list(after.weights()) == ["j"]


def test_constants_that_numpy_cannot_compute_stay_nodes() -> None:
    """Found by `make fuzz`: a text that is no number."""
    nodes = [helper.make_node("Cast", ["t"], ["c"], to=TensorProto.FLOAT), helper.make_node("Add", ["x", "c"], ["y"])]
    assert len(FoldConstants().run(onnx_graph(nodes, [2, 3], [2, 3], {"t": np.array(["1.5"], object)})).nodes) == 1
    assert len(FoldConstants().run(onnx_graph(nodes, [2, 3], [2, 3], {"t": np.array(["a"], object)})).nodes) == 2


def test_large_constants_and_matrices_are_not_folded() -> None:
    graph = onnx_graph(constant_nodes(), [3, 2], [3, 2], CONSTANTS)
    assert kinds(FoldConstants(limit=8).run(graph))[:2] == ["sqrt", "add"]
    nodes = [helper.make_node("Transpose", ["w"], ["v"]), helper.make_node("MatMul", ["x", "v"], ["y"])]
    graph = onnx_graph(nodes, ["n", 3], ["n", 5], {"w": rand(5, 3)})
    assert FoldConstants().run(graph) is graph


def test_constants_that_are_larger_than_what_makes_them_are_not_stored() -> None:
    nodes = [
        helper.make_node("Mul", ["c", "c"], ["d"]),  # small, so stored
        helper.make_node("Tile", ["d", "times"], ["t"]),  # large, so it stays
        helper.make_node("Add", ["x", "t"], ["y"]),
    ]
    graph = onnx_graph(nodes, [2, 600], [2, 600], {"c": rand(3), "times": ints(200)})
    after = apply(FoldConstants(), graph)
    assert kinds(after) == ["tile", "add"]
    nodes = [
        *nodes[:2],
        helper.make_node("Slice", ["t", "from", "to"], ["s"]),
        helper.make_node("Add", ["x", "s"], ["y"]),
    ]
    bounds = {"from": ints(1), "to": ints(5)}
    graph = onnx_graph(nodes, [2, 4], [2, 4], {"c": rand(3), "times": ints(200), **bounds})
    assert kinds(apply(FoldConstants(), graph)) == ["add"]  # large only on the way


class Scaled(nn.Module):
    """A scale computed from a buffer, another from a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("log", torch.rand(3))
        self.gain = nn.Parameter(torch.rand(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scales."""
        return x * self.log.exp() * self.gain.exp()


def test_torch_buffers_are_folded_and_parameters_are_not() -> None:
    after = apply(FoldConstants(), torch_graph(Scaled(), torch.randn(2, 3)))
    assert kinds(after).count("exp") == 1 and "gain" in after.weights() and "log" not in after.weights()


def test_onnx_dead_nodes_go_with_their_weights() -> None:
    nodes = [
        *chain("x", "a", "y", ops="Relu Neg"),
        helper.make_node("MatMul", ["a", "w"], ["z"]),
        *chain("z", "zz", ops="Exp"),
    ]
    after = apply(RemoveDead(), onnx_graph(nodes, [2, 3], [2, 3], {"w": rand(3, 5)}))
    assert kinds(after) == ["relu", "neg"] and not after.weights()


def test_torch_dead_nodes_go() -> None:
    """The frontend leaves none, so one is cut off first."""
    graph = torch_graph(nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 4)), torch.randn(2, 4))
    assert RemoveDead().run(graph) is graph
    graph.outputs = [graph.nodes[1].outputs[0]]
    after = apply(RemoveDead(), graph)
    assert kinds(after) == ["matmul", "relu"] and list(after.weights()) == ["0.weight", "0.bias"]


def test_cleanup_is_all_of_them() -> None:
    nodes = [
        helper.make_node("Identity", ["c"], ["d"]),
        helper.make_node("Sqrt", ["d"], ["e"]),
        helper.make_node("Mul", ["x", "e"], ["a"]),
        *chain("a", "b", "y", ops="Identity Relu"),
        *chain("a", "z", ops="Exp"),
    ]
    after = apply(Cleanup(), onnx_graph(nodes, ["n", 3], ["n", 3], {"c": rand(3)}))
    assert kinds(after) == ["mul", "relu"] and list(after.weights()) == ["e"]


def test_cleanup_keeps_dynamic_shapes() -> None:
    """The shape arithmetic behind a reshape survives, though no node is seen to read it."""
    nodes = [
        *chain("x", "a", "b", ops="Identity Relu"),
        helper.make_node("Shape", ["a"], ["s"]),
        helper.make_node("Gather", ["s", "zero"], ["n"]),
        helper.make_node("Concat", ["n", "rest"], ["t"], axis=0),
        helper.make_node("Reshape", ["b", "t"], ["y"]),
    ]
    graph = onnx_graph(nodes, ["n", 2, 3], ["n", 6], {"zero": ints(0), "rest": ints(6)})
    after = apply(Cleanup(), graph)
    assert "identity" not in kinds(after)
    from graphprune.frontends import onnx as frontend

    wide = frontend.from_model(frontend.emit(after), {"x": (5, 2, 3)})
    assert wide.outputs[0].shape == (5, 6)
    assert_same(frontend.from_model(frontend.emit(graph), {"x": (5, 2, 3)}), wide)
