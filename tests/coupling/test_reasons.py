"""Why indices must stay: the value that was fixed is named, however many nodes lie between it and the weight."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from graphprune.coupling import Frozen, couple
from graphprune.coupling.reasons import CONSTANT, INPUT, LOOKUP, OPERATOR, OUTPUT, POSITION, SIZES, UNKNOWN
from graphprune.coupling.statements import MET
from tests.frontends import onnx_tools
from tests.helpers import graph_of
from tests.ops.examples_all import EXAMPLES
from tests.ops.registry import Example, Net, conv, image, parameter


def frozen(model: Any, example: Any = None) -> dict[tuple[str, int], Frozen]:
    return {(f.weight, f.axis): f for f in couple(graph_of(model, example)).frozen_axes()}


def test_an_input_is_named_through_the_nodes_it_passes() -> None:
    nodes = [
        onnx_tools.node("Cast", "picture", "c", to=1),
        onnx_tools.node("Div", "c scale", "d"),
        onnx_tools.node("Transpose", "d", "t", perm=[0, 3, 1, 2]),
        onnx_tools.node("Conv", "t w", "y"),
    ]
    weights = {"scale": np.array(255, np.float32), "w": onnx_tools.weight(4, 3, 1, 1)}
    found = frozen(onnx_tools.model(nodes, {"picture": (1, 6, 6, 3)}, weights=weights))["w", 1]
    assert (found.cause, found.node, found.op, found.indices) == (INPUT, "Conv_y", "Conv", 3)
    assert found.reason == "it meets axis 3 of the model's input 'picture'"


def test_positions_are_told_from_channels() -> None:
    """A table of positions is added to what a convolution made of a picture."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m.head((m.stem(x).flatten(2).transpose(1, 2) + m.table).relu())

    net = Net(call, stem=conv(3, 8, 3), table=parameter(1, 36, 8), head=nn.Linear(8, 2))
    found = frozen(net, image())
    assert set(found) == {("stem.weight", 1), ("table", 1), ("head.weight", 0), ("head.bias", 0)}
    assert found["table", 1].cause == POSITION and found["table", 1].node == "add"
    assert found["table", 1].reason == "it meets positions, along which aten.conv2d (conv2d) works"
    assert found["head.weight", 0].cause == OUTPUT


def test_what_an_unknown_operator_makes_is_named_where_it_is_met() -> None:
    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m.b(torch.linalg.inv(m.a(x)).relu())

    found = frozen(Net(call, a=nn.Linear(5, 4), b=nn.Linear(4, 3)), torch.randn(2, 4, 5))
    assert found["a.weight", 0].cause == found["b.weight", 1].cause == UNKNOWN
    assert "unknown operator aten.linalg_inv" in found["a.weight", 0].reason
    assert found["b.weight", 1].reason.startswith("it meets what aten.linalg_inv")
    assert found["b.weight", 1].reason.endswith("makes, an operator without a rule")


def test_an_operator_that_fixes_an_axis_says_how() -> None:
    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m.b(m.a(x).cumprod(2))

    found = frozen(Net(call, a=nn.Linear(5, 4), b=nn.Linear(4, 3)), torch.randn(2, 6, 5))
    assert found["b.weight", 1].cause == OPERATOR
    assert (
        found["b.weight", 1].reason
        == "it meets an axis that aten.cumprod (cumprod) fixes: aten.cumprod mixes this axis"
    )


def test_an_axis_in_one_piece_says_so() -> None:
    """Each channel is added to its neighbour: none can go without all others."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = m.a(x)
        return m.b(y + y.roll(1, -1))

    found = frozen(Net(call, a=nn.Linear(5, 4), b=nn.Linear(4, 3)), torch.randn(2, 5))
    assert {("a.weight", 0), ("a.bias", 0), ("b.weight", 1)} < set(found)
    assert (found["a.weight", 0].cause, found["a.weight", 0].indices) == (OPERATOR, 4)
    assert "all its indices hang together" in found["b.weight", 1].reason


def test_a_part_that_is_fixed_is_found_behind_a_concat() -> None:
    """Half of what the second layer reads is the input itself."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m.b(torch.cat([x, m.a(x)], 1).relu())

    found = frozen(Net(call, a=conv(3, 4), b=conv(7, 2)), image())
    assert (found["b.weight", 1].indices, found["b.weight", 1].cause) == (3, INPUT)
    assert found["b.weight", 1].reason == "it meets axis 1 of the model's input 'args_0'"


def test_tables_are_looked_up_and_positions_are_those_of_the_ids() -> None:
    def call(m: Any, ids: torch.Tensor) -> torch.Tensor:
        return m.head((m.words(ids) + m.places).relu())

    net = Net(call, words=nn.Embedding(9, 6), places=parameter(5, 6), head=nn.Linear(6, 2))
    found = frozen(net, torch.randint(0, 9, (2, 5)))
    assert (found["words.weight", 0].cause, found["words.weight", 0].reason) == (LOOKUP, "rows are looked up by index")
    assert (found["places", 0].cause, found["places", 0].node) == (POSITION, "add")
    assert found["places", 0].reason == "it meets positions, along which aten.embedding (embedding) works"


def test_constants_are_named() -> None:
    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m.b(m.grid * x.mean() + m.scale)

    net = Net(call, grid=torch.randn(2, 4), scale=parameter(4), b=nn.Linear(4, 2))
    found = frozen(net, torch.randn(3))
    assert {found["scale", 0].cause, found["b.weight", 1].cause} == {CONSTANT}
    assert found["scale", 0].reason == "it comes with the constant 'grid', which is part of the model's definition"


@pytest.mark.parametrize("worked", EXAMPLES, ids=lambda e: e.name)
def test_every_worked_example_has_reasons(worked: Example) -> None:
    known = {UNKNOWN, OPERATOR, CONSTANT, LOOKUP, POSITION, INPUT, OUTPUT, SIZES}
    for row in couple(worked.graph(), grouped=worked.grouped).frozen_axes():
        assert row.cause in known and MET not in row.reason, row


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_gates_meet_the_state_that_stays(kind: type[nn.Module]) -> None:
    """They are several times as many as the state is wide: no size tells which of the inputs they meet."""

    class Step(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer = kind(8, 32, batch_first=True)

        def forward(self, x: torch.Tensor, state: torch.Tensor) -> torch.Tensor:
            given = (state, torch.zeros_like(state)) if kind is nn.LSTM else state
            return self.layer(x, given)[0].mean((1, 2))  # type: ignore[no-any-return]

    found = frozen(Step(), (torch.randn(3, 20, 8), torch.randn(1, 3, 32)))
    gates = {name: row for name, row in found.items() if name[1] == 0}
    assert len(gates) == 4
    assert {(row.cause, row.reason) for row in gates.values()} == {
        (INPUT, "it meets axis 2 of the model's input 'state'")
    }
    assert found["layer.weight_ih_l0", 1].reason == "it meets axis 2 of the model's input 'x'"
