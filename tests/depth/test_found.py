"""What is found in small networks, as text, and that taking out any of it gives what the masked original computes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper

from graphprune import depth, frontends
from graphprune.api import optimize
from graphprune.coupling import couple
from graphprune.depth import Block
from graphprune.ir.graph import Graph, Node, Value, Weight
from graphprune.passes.remove_blocks import remove_blocks
from graphprune.verification import proof
from tests.depth import nets
from tests.helpers import TIGHT, graph_of
from tests.ops.registry import Net
from tests.work import lines_of_work

LAYERS = """
block layers.0: linear to {0}, 21 nodes
block layers.1: {0} to {1}, 21 nodes
block layers.2: {1} to {2}, 21 nodes
"""
EXAMPLES: dict[str, tuple[Callable[[], Any], str]] = {
    "resnet": (
        nets.resnet,
        """
        block blocks.1: relu__1 to relu__3, 7 nodes
        block blocks.2: relu__3 to relu__5, 7 nodes
        branch blocks.1: relu__1 to batch_norm_3, 5 nodes
        branch blocks.2: relu__3 to batch_norm_5, 5 nodes
        """,
    ),
    "pre-norm": (
        lambda: nets.tower("pre", layers=2),
        """
        block layers.0: linear to add_1, 21 nodes
        block layers.1: add_1 to add_3, 21 nodes
        branch layers.0: linear to dropout, 14 nodes
        branch layers.0#2: add to dropout_1, 5 nodes
        branch layers.1: add_1 to dropout_2, 14 nodes
        branch layers.1#2: add_2 to dropout_3, 5 nodes
        """,
    ),
    "post-norm": (
        lambda: nets.tower("post", layers=2),
        """
        block layers.0: linear to layer_norm_1, 21 nodes
        block layers.1: layer_norm_1 to layer_norm_3, 21 nodes
        branch layers.0: linear to dropout, 13 nodes
        branch layers.0#2: layer_norm to dropout_1, 4 nodes
        branch layers.1: layer_norm_1 to dropout_2, 13 nodes
        branch layers.1#2: layer_norm_2 to dropout_3, 4 nodes
        """,
    ),
    "parallel": (
        lambda: nets.tower("parallel", layers=2),
        """
        block layers.0: linear to add_1, 20 nodes
        block layers.1: add_1 to add_3, 20 nodes
        branch layers.0: linear to dropout, 13 nodes
        branch layers.0#2: linear to dropout_1, 4 nodes
        branch layers.1: add_1 to dropout_2, 13 nodes
        branch layers.1#2: add_1 to dropout_3, 4 nodes
        """,
    ),
    "tapped": (
        lambda: nets.tower("pre", layers=2, taps=True),
        """
        block layers.0: linear to add_1, 21 nodes
        block layers.1: add_1 to add_3, 21 nodes
        branch layers.0: linear to dropout, 14 nodes
        branch layers.0#2: add to dropout_1, 5 nodes
        branch layers.1: add_1 to dropout_2, 14 nodes
        branch layers.1#2: add_2 to dropout_3, 5 nodes
        """,
    ),
    "scaled": (nets.scaled, "branch linear..mul_1: linear to mul_1, 4 nodes"),
    "crossed": (
        nets.crossed,
        """
        block layers.0: args_0 to add, 3 nodes
        block layers.1: add to add_1, 3 nodes
        branch layers.0: args_0 to linear_1, 2 nodes
        branch layers.1: add to linear_2, 2 nodes
        """,
    ),
    "plain": (
        nets.plain,
        """
        block 1: linear to tanh, 2 nodes
        block 3: tanh to tanh_1, 2 nodes
        block 5: tanh_1 to tanh_2, 2 nodes
        """,
    ),
    "unfit": (nets.unfit, ""),
}


def assert_removable(graph: Graph, blocks: list[Block], limit: float = TIGHT) -> Graph:
    """Taking these out, all at once, gives a model that computes what the original does with them masked."""
    coupling = couple(graph)
    after = remove_blocks(graph, blocks)
    after.check()
    emitted = frontends.emit(after)
    model = getattr(emitted, "module", emitted)
    if graph.frontend == "onnx":
        onnx.checker.check_model(model, full_check=True)
    found = proof.verify(coupling, np.ones(coupling.count, bool), model, without=blocks)
    assert found.passed and found.max_error <= limit, found
    gone = {v.name for b in blocks for v in b.weights}
    assert gone.isdisjoint(after.weights())
    assert after.parameter_count() < graph.parameter_count()
    return after


@pytest.mark.parametrize("name", EXAMPLES)
def test_what_is_found(name: str) -> None:
    torch.manual_seed(0)
    build, text = EXAMPLES[name]
    graph = graph_of(*build())
    blocks = depth.find_blocks(graph)
    assert "\n".join(map(str, blocks)) == "\n".join(line.strip() for line in text.strip().splitlines())
    for block in blocks:
        assert_removable(graph, [block])
    for kind in {block.kind for block in blocks}:
        chosen = [b for b in blocks if b.kind == kind]
        assert_removable(graph, chosen[:-1] or chosen)


@pytest.mark.parametrize("start", [0, None])
def test_weights_may_be_computed_and_sums_start_from_zero(start: int | None) -> None:
    """Residual blocks with weight norm, added up as Python's `sum` does."""
    norm = torch.nn.utils.parametrizations.weight_norm
    layers = {"a": torch.nn.Linear(3, 6), "b": norm(torch.nn.Linear(6, 6)), "c": torch.nn.Linear(6, 2)}

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        x = m.a(x)
        return m.c(x + m.b(x).relu() if start is None else start + x + m.b(x).relu())

    graph = graph_of(Net(call, **layers), torch.randn(4, 3))
    assert [b.kind for b in depth.find_blocks(graph)] == ["branch"]
    optimize(graph, "remove-blocks{count=1}", verify_each=True)


def test_blocks_built_alike_have_one_structure_and_their_counts() -> None:
    blocks = depth.find_blocks(graph_of(*nets.tower("pre")))
    layers = [b for b in blocks if b.kind == "block"]
    assert len({b.structure for b in layers}) == 1
    assert len({b.structure for b in blocks if b.kind == "branch"}) == 2
    first = nets.Layer("pre")
    assert {b.parameters for b in layers} == {sum(p.numel() for p in first.parameters())}
    matrices = sum(p.numel() for p in first.parameters() if p.ndim > 1)
    attention = 2 * 2 * 2 * 4 * 4 * 4  # two products of heads x queries x keys x width, batch 2
    assert {b.macs for b in layers} == {2 * 4 * matrices + attention}


def test_what_is_read_elsewhere_stays() -> None:
    """Attention weights that are an output of the model keep their branch; so does an input that only it reads."""

    def attend(net: Any, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        weights = torch.softmax(net.q(x) @ net.k(x).transpose(1, 2), -1)
        return net.head(x + net.out(weights @ net.v(x))), weights

    def call(net: Any, x: torch.Tensor, m: torch.Tensor) -> torch.Tensor:
        return net.head(x + net.q(x) * net.k(m))

    parts = {name: torch.nn.Linear(4, 4) for name in ("q", "k", "v", "out", "head")}
    assert depth.find_blocks(graph_of(nets.Net(attend, **parts), torch.randn(2, 3, 4))) == []
    assert depth.find_blocks(graph_of(nets.Net(call, **parts), (torch.randn(2, 4), torch.randn(2, 4)))) == []


def test_layers_of_two_kinds_in_turns_are_told_apart() -> None:
    def call(net: Any, x: torch.Tensor) -> torch.Tensor:
        for layer in net.layers:
            x = x + layer(x)
        return x

    def layer(width: int) -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Linear(4, width), torch.nn.Tanh(), torch.nn.Linear(width, 4))

    net = nets.Net(call, layers=torch.nn.ModuleList(layer(width) for width in (6, 3, 6, 3)))
    blocks = [b for b in depth.find_blocks(graph_of(net, torch.randn(2, 4))) if b.kind == "block"]
    assert [b.name for b in blocks] == ["layers.0", "layers.1", "layers.2", "layers.3"]
    assert blocks[0].structure == blocks[2].structure != blocks[1].structure


def test_onnx_sums_of_several_operands_and_mangled_names() -> None:
    """A `Sum` of three loses an operand; weights without dots in their names leave it to the nodes to name a block."""
    nodes, weights, x = [], {}, "x"
    for i in range(2):
        for branch in "ab":
            weights[f"onnx::MatMul_{i}{branch}"] = np.random.default_rng(i).normal(size=(4, 4)).astype(np.float32)
            product = f"{x}{branch}"
            nodes += [
                helper.make_node(
                    "MatMul", [x, f"onnx::MatMul_{i}{branch}"], [product], name=f"/layers.{i}/{branch}/MatMul"
                ),
                helper.make_node("Tanh", [product], [f"{product}t"], name=f"/layers.{i}/{branch}/Tanh"),
            ]
        nodes.append(helper.make_node("Sum", [f"{x}at", x, f"{x}bt"], [f"y{i}"], name=f"/layers.{i}/Sum"))
        x = f"y{i}"
    shape = ["n", 4]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in ("x", "y1")]
    constants = [numpy_helper.from_array(a, n) for n, a in weights.items()]
    graph = helper.make_graph(nodes, "sums", ends[:1], ends[1:], constants)
    model = graph_of(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8))
    blocks = depth.find_blocks(model)
    names = ["/layers.0", "/layers.1", "/layers.0/a", "/layers.0/b", "/layers.1/a", "/layers.1/b"]
    assert [b.name for b in blocks] == names
    for block in blocks:
        assert_removable(model, [block])
    after = assert_removable(model, blocks[2:3])
    assert [len(n.inputs) for n in after.nodes if n.op == "Sum"] == [2, 3]


def test_growth_is_linear() -> None:
    """A chain of 4,000 residual layers: 20,000 nodes."""

    def value(name: str, weight: bool = False) -> Value:
        held = Weight.of(np.zeros((4, 4), np.float32)) if weight else None
        return Value(name, (4, 4) if weight else (2, 4), np.dtype(np.float32), weight=held)

    def chain(layers: int) -> Graph:
        first = x = value("x")
        nodes = []
        for i in range(layers):
            a, b, c, d, e = (value(f"{name}{i}") for name in "abcde")
            up, down = (value(f"layers.{i}.{name}.weight", weight=True) for name in ("up", "down"))
            nodes += [
                Node("elementwise", a.name, [x], [a], {"fn": "tanh"}),
                Node("matmul", b.name, [a, up], [b], {"trans_a": False, "trans_b": False}),
                Node("elementwise", c.name, [b], [c], {"fn": "relu"}),
                Node("matmul", d.name, [c, down], [d], {"trans_a": False, "trans_b": False}),
                Node("elementwise", e.name, [x, d], [e], {"fn": "add"}),
            ]
            x = e
        return Graph("chain", nodes, [first], [x])

    def work(layers: int) -> int:
        graph = chain(layers)
        found: list[Block] = []
        counted = lines_of_work(lambda: found.extend(depth.find_blocks(graph)))
        assert len(found) == 2 * layers
        return counted

    assert work(1_600) < 10 * work(200)
