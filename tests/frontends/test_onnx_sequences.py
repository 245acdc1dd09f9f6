"""Sequences whose parts are known become Split and Concat; all others stay as they are."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from onnx import NodeProto, TensorProto, helper

from graphprune.frontends import onnx as frontend
from graphprune.ir.graph import Graph
from tests.helpers import assert_equality

from .onnx_tools import assert_round_trip, checked, feeds, ints, model, node, run, weight
from .ort_tools import assert_prunes

WEIGHTS = {
    "w": weight(6, 12),
    "v": weight(12, 6),
    "n": np.array(4),
    "five": np.array(5, np.int32),
    "one": np.array(1),
    "sizes": ints(2, 3, 7),
    "thirds": ints(4, 4, 4),
    **{f"p{i}": np.array(i) for i in (0, 1, 2, 11)},
    "m1": np.array(-1, np.int32),
}
OPSETS = (11, 12, 13, 18, 23)


def at(*pairs: str, sequence: str = "s") -> list[NodeProto]:
    """`SequenceAt`s, each "position name" (`y` unless said)."""
    split_up = [[*pair.split(), "y"][:2] for pair in pairs]
    return [node("SequenceAt", f"{sequence} {position}", name) for position, name in split_up]


def split(inputs: str = "h", name: str = "s", **attrs: int) -> NodeProto:
    return node("SplitToSequence", inputs, name, **{"axis": 1, **attrs})


def made(nodes: Sequence[NodeProto], opset: int = 17, **extra: Any) -> onnx.ModelProto:
    """From `x` `[4, 6]` over `h` `[4, 12]` to `y`, with the weights that are read."""
    read = {name for n in nodes for name in n.input} | {"w"}
    weights = {name: w for name, w in WEIGHTS.items() if name in read}
    inputs = extra.pop("inputs", {"x": (4, 6)})
    return model([node("MatMul", "x w", "h"), *nodes], inputs, weights=weights, opset=opset, **extra)


def ops(graph: Graph) -> str:
    return " ".join(n.op for n in graph.flat_nodes)


CASES: dict[str, tuple[list[NodeProto], str]] = {
    "equal parts": ([split("h n"), *at("p0 a", "m1 b"), node("Mul", "a b")], "MatMul Split Mul"),
    "the last part is shorter": (
        [split("h five"), *at("p0 a", "p1 b", "p2 c"), node("Mul", "a b", "d"), node("Concat", "d c", axis=1)],
        "MatMul Split Mul Concat",
    ),
    "sizes, a negative axis": (
        [split("h sizes", axis=-1), *at("p0 a", "p2 b"), node("Concat", "b a", axis=1)],
        "MatMul Split Concat",
    ),
    "sizes, which overrule keepdims": ([split("h sizes", keepdims=0), *at("p1")], "MatMul Split"),
    "parts of one": ([split(), *at("p0 a", "p11 b"), node("Sub", "a b")], "MatMul Split Sub"),
    "unbind": ([split(keepdims=0), *at("p0 a", "m1 b"), node("Sub", "a b")], "MatMul Split Squeeze Squeeze Sub"),
    "one position twice": (
        [split("h n"), *at("p0 a", "p0 b", "p1 c"), node("Sum", "a b c")],
        "MatMul Split Identity Sum",
    ),
    "one constant part, unused ones": ([split("h n"), *at("p1")], "MatMul Split"),
    "length": (
        [split("h n"), *at("p1 a"), node("SequenceLength", "s", "l"), node("Cast", "l", "f", to=1), node("Mul", "a f")],
        "MatMul Split Mul",
    ),
    "joined": ([split("h n"), node("ConcatFromSequence", "s", axis=0)], "MatMul Split Concat"),
    "joined on a new axis": (
        [split("h n"), node("ConcatFromSequence", "s", axis=-1, new_axis=1)],
        "MatMul Split Unsqueeze Unsqueeze Unsqueeze Concat",
    ),
    "unbound and stacked": (
        [split(keepdims=0, axis=0), node("ConcatFromSequence", "s", axis=1, new_axis=1)],
        "MatMul Split" + 4 * " Squeeze" + 4 * " Unsqueeze" + " Concat",
    ),
    "constructed": (
        [node("Relu", "h", "r"), node("SequenceConstruct", "h r h", "s"), *at("m1 a", "p1 b"), node("Mul", "a b")],
        "MatMul Relu Identity Identity Mul",
    ),
    "constructed and stacked": (
        [node("Relu", "h", "r"), node("SequenceConstruct", "h r", "s"), node("ConcatFromSequence", "s", axis=0)],
        "MatMul Relu Concat",
    ),
    "one out of another": (
        [
            split("h n"),
            *at("p1 a"),
            split("a", "t"),
            *at("p0 b", "p2 c", sequence="t"),
            node("SequenceConstruct", "b c", "u"),
            node("ConcatFromSequence", "u", axis=1),
        ],
        "MatMul Split Split Concat",
    ),
    "nobody reads it": ([split("h n"), node("Relu", "h")], "MatMul Relu"),
}


@pytest.mark.parametrize("opset", OPSETS)
@pytest.mark.parametrize("case", CASES)
def test_a_known_sequence_is_taken_apart(case: str, opset: int) -> None:
    nodes, expected = CASES[case]
    graph = assert_round_trip(made(nodes, opset))
    assert ops(graph) == expected
    assert not [n for n in graph.nodes if n.kind == "unknown"]


ALONE: dict[str, list[NodeProto]] = {
    "a computed position": [
        split("h n"),
        node("ReduceMax", "x", "top", keepdims=0),
        node("Cast", "top", "whole", to=TensorProto.BOOL),
        node("Cast", "whole", "p", to=TensorProto.INT64),
        *at("p a", "p0 b"),
        node("Mul", "a b"),
    ],
    "inserted into": [
        split("h n"),
        node("SequenceInsert", "s h", "t"),
        *at("p0 a", sequence="s"),
        *at("m1 b", sequence="t"),
        node("Concat", "a b", axis=1),
    ],
    "parts of one, said so, without the axis": [split("h one", keepdims=0), *at("p0 a", "p1 b"), node("Mul", "a b")],
}


@pytest.mark.parametrize("case", ALONE)
def test_any_other_sequence_stays(case: str) -> None:
    graph = assert_round_trip(made(ALONE[case]))
    assert any(n.op == "SplitToSequence" and n.kind == "unknown" for n in graph.nodes)
    assert not any(n.op == "Split" for n in graph.nodes)


def test_a_sequence_that_is_an_output_stays() -> None:
    source = made([split("h n"), *at("p0 a"), node("Relu", "a")])
    source.graph.output.append(helper.make_tensor_sequence_value_info("s", TensorProto.FLOAT, None))
    graph = frontend.from_model(source)
    again, inputs = checked(graph), feeds(graph)
    assert ops(graph) == "MatMul SplitToSequence SequenceAt Relu"
    for a, b in zip(run(source, inputs), run(again, inputs), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_a_position_beyond_the_end_stays() -> None:
    graph = frontend.from_model(made([split("h n"), *at("p11 a"), node("Relu", "a")]))
    assert "SplitToSequence SequenceAt" in ops(graph)


def test_an_axis_that_follows_the_input_stays() -> None:
    nodes = [split(axis=0), *at("p0 a", "m1 b"), node("Add", "a b")]
    graph = assert_round_trip(made(nodes, inputs={"x": ("batch", 6)}), {"x": (5, 6)})
    assert "SplitToSequence SequenceAt SequenceAt" in ops(graph)


def test_another_axis_may_follow_the_input() -> None:
    nodes = [split("h n"), *at("p0 a", "m1 b"), node("Add", "a b")]
    graph = assert_round_trip(made(nodes, inputs={"x": ("batch", 6)}), {"x": (5, 6)})
    assert ops(graph) == "MatMul Split Add"


def branch(nodes: Sequence[NodeProto]) -> onnx.GraphProto:
    out = helper.make_tensor_value_info("o", TensorProto.FLOAT, (4, 4))
    return helper.make_graph(list(nodes), "branch", [], [out])


def choice(then: onnx.GraphProto, other: onnx.GraphProto) -> list[NodeProto]:
    return [
        node("ReduceMax", "x", "top", keepdims=0),
        node("Cast", "top", "c", to=TensorProto.BOOL),
        node("If", "c", then_branch=then, else_branch=other),
    ]


def test_sequences_in_a_body() -> None:
    """Branches that use the same names; a position in one of them, a constant between sequence and reader."""
    constant = node("Constant", "", "q", value_int=-1)
    then = branch([split("h n"), *at("p0 a", "p1 b"), node("Mul", "a b", "o")])
    other = branch([split("h n"), constant, *at("q o")])
    source = made(choice(then, other))
    source.graph.initializer.extend(onnx.numpy_helper.from_array(WEIGHTS[n], n) for n in ("n", "p0", "p1"))
    graph = assert_round_trip(source)
    assert ops(graph).split()[-4:] == ["Split", "Mul", "Split", "If"]


def test_a_sequence_that_a_body_reads_stays() -> None:
    then, other = branch([node("SequenceAt", "s p0", "o")]), branch([node("SequenceAt", "s p1", "o")])
    source = made([split("h n"), *choice(then, other)])
    source.graph.initializer.extend(onnx.numpy_helper.from_array(WEIGHTS[n], n) for n in ("p0", "p1"))
    graph = assert_round_trip(source)
    assert "SplitToSequence" in ops(graph)


def test_sequences_in_a_branch_that_is_always_taken() -> None:
    """The branch's output has another name outside."""
    then, other = branch([split("h n"), *at("p0 a", "p0 o")]), branch([split("h n"), *at("p1 o")])
    source = made([node("If", "true", then_branch=then, else_branch=other)])
    source.graph.initializer.extend(onnx.numpy_helper.from_array(WEIGHTS[n], n) for n in ("n", "p0", "p1"))
    source.graph.initializer.append(onnx.numpy_helper.from_array(np.array(True), "true"))
    assert ops(assert_round_trip(source)) == "MatMul Split Identity"


@pytest.mark.parametrize("grows", [False, True])
def test_sequences_in_a_loop(grows: bool) -> None:
    """Where each round sees another size, what was taken apart in the first walk of the body is a sequence again."""
    nodes = [
        node("Identity", "go", "stay"),
        split("c n"),
        *at("p0 a", "p1 b"),
        node("Mul", "a b", "d"),
        node("SequenceConstruct", "a b d d" if grows else "a b d", "t"),
        node("ConcatFromSequence", "t", "e", axis=1),
    ]
    carried = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4, None]) for name in "cey"]
    start = [helper.make_tensor_value_info("i", TensorProto.INT64, []), truth("go")]
    body = helper.make_graph(nodes, "body", [*start, carried[0]], [truth("stay"), carried[1]])
    source = made([node("Loop", "two _ h", "z", body=body), node("Relu", "z")])
    source.graph.output[0].CopyFrom(carried[2])
    source.graph.initializer.extend(onnx.numpy_helper.from_array(WEIGHTS[n], n) for n in ("n", "p0", "p1"))
    source.graph.initializer.append(onnx.numpy_helper.from_array(np.array(2), "two"))
    graph = assert_round_trip(source)
    assert ("SplitToSequence" in ops(graph)) == grows
    assert ("Split" in ops(graph).split()) != grows


def truth(name: str) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.BOOL, [])


def test_a_length_that_is_an_output() -> None:
    nodes = [split("h n"), *at("p0 a"), node("Relu", "a"), node("SequenceLength", "s", "l")]
    source = made(nodes, outputs=("y", "l"), types={"l": TensorProto.INT64})
    assert ops(assert_round_trip(source)) == "MatMul Split Relu"


@pytest.mark.parametrize("opset", OPSETS)
def test_what_a_sequence_held_together_is_pruned(opset: int) -> None:
    """Gates in three parts, of which one goes past the others; half of each goes, and the proof holds."""
    nodes = [
        split("h n"),
        *at("p0 a", "p1 b", "m1 c"),
        node("Mul", "a b", "d"),
        node("SequenceConstruct", "d c b", "t"),
        node("ConcatFromSequence", "t", "e", axis=1),
        node("MatMul", "e v"),
    ]
    pruned = assert_equality(frontend.from_model(made(nodes, opset)))
    assert pruned.graph.weights()["w"].shape == (6, 6)
    assert pruned.graph.weights()["v"].shape == (6, 6)


class Gated(torch.nn.Module):
    """A transformer layer whose projections are split and chunked."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.head = torch.nn.Linear(8, 16), torch.nn.Linear(16, 4)
        self.qkv, self.out = torch.nn.Linear(16, 48), torch.nn.Linear(16, 16)
        self.up, self.down = torch.nn.Linear(16, 64), torch.nn.Linear(32, 16)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.words(x)
        q, k, v = (t.unflatten(-1, (4, 4)).transpose(1, 2) for t in self.qkv(x).split(16, -1))
        x = x + self.out((torch.softmax(q @ k.transpose(-1, -2), -1) @ v).transpose(1, 2).flatten(2))
        gate, value = self.up(x).chunk(2, -1)
        return self.head(x + self.down(F.gelu(gate) * value))


def test_what_torch_exports_without_optimisation(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "model.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            Gated().eval(),
            (torch.randn(2, 6, 8),),
            str(path),
            dynamo=True,
            optimize=False,
            external_data=False,
            verbose=False,
        )
    assert any(n.op_type == "SplitToSequence" for n in onnx.load(str(path)).graph.node)
    result = assert_prunes(path, most=0.45)
    result.save(tmp_path / "small.onnx")
    onnx.checker.check_model(str(tmp_path / "small.onnx"), full_check=True)
