"""`nn.LSTM` with `proj_size`: inputs, hidden units and projections go, against the plain original with zeros."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import nn

import graphprune as gp
from graphprune.frontends.torch import run, to_graph_module

from .registry import Net, stirred

INPUT, HIDDEN, PROJECTED = 6, 12, 4


def network(layers: int, both: bool, given: bool) -> nn.Module:
    """Everything that an LSTM makes is read, and its states are made by layers if they are given."""
    rows = layers * (2 if both else 1)

    def call(m: Any, x: torch.Tensor) -> Any:
        first = x[0].expand(rows, -1, -1)
        y, (h, c) = m.lstm(m.inp(x), (m.h(first), m.c(first))) if given else m.lstm(m.inp(x))
        return m.out(y), m.short(h), m.long(c)

    lstm = nn.LSTM(INPUT, HIDDEN, layers, bidirectional=both, proj_size=PROJECTED)
    states = {"h": nn.Linear(3, PROJECTED), "c": nn.Linear(3, HIDDEN)} if given else {}
    heads = {"short": nn.Linear(PROJECTED, 2), "long": nn.Linear(HIDDEN, 2)}
    out = nn.Linear(PROJECTED * (2 if both else 1), 2)
    return stirred(Net(call, inp=nn.Linear(3, INPUT), lstm=lstm, out=out, **heads, **states)).eval()


def kept(result: gp.Result, size: int) -> list[int]:
    return next(list(group.keep[0]) for group in result.plan.groups if group.size == size)


def zeroed(module: nn.Module, inputs: list[int], hidden: list[int], projected: list[int]) -> Any:
    """A copy in which whatever makes something else than these is zero: a cell without gates adds nothing."""
    module = copy.deepcopy(module)
    gates = [gate * HIDDEN + i for gate in range(4) for i in hidden]
    rows = {"inp": inputs, "h": projected, "c": hidden, "lstm.weight_hr": projected, "lstm": gates}
    with torch.no_grad():
        for name, tensor in module.named_parameters():
            mine = next((v for prefix, v in rows.items() if name.startswith(prefix)), None)
            if mine is not None:
                gone = sorted(set(range(len(tensor))) - set(mine))
                tensor[gone] = 0
    return module


@pytest.mark.parametrize("given", [False, True], ids=["zero states", "states"])
@pytest.mark.parametrize(("layers", "both"), [(1, False), (2, False), (1, True), (2, True)])
def test_every_width_goes(layers: int, both: bool, given: bool) -> None:
    torch.manual_seed(0)
    module, x = network(layers, both, given), torch.randn(5, 2, 3)
    result = gp.prune(module, x, target=gp.channels(0.5), criterion="random", seed=1)
    inputs, hidden, projected = (kept(result, size) for size in (INPUT, HIDDEN, PROJECTED))
    assert result.report.output_form == "own class"
    pruned, fresh = result.model.lstm, torch.randn(7, 2, 3)
    assert (pruned.input_size, pruned.hidden_size, pruned.proj_size) == (3, 6, 2)
    nn.LSTM(3, 6, layers, bidirectional=both, proj_size=2).load_state_dict(pruned.state_dict())
    expected = zeroed(module, inputs, hidden, projected)
    torch.testing.assert_close(result.model(fresh), expected(fresh))
    assert (expected(fresh)[0] - module(fresh)[0]).abs().max() > 0.01, "what went makes no difference"
    for a, b in zip(run(to_graph_module(result.graph), x), expected(x), strict=True):
        torch.testing.assert_close(torch.as_tensor(a), b.detach())


def test_weights_are_those_of_the_original() -> None:
    torch.manual_seed(0)
    module, x = network(2, True, given=False), torch.randn(5, 2, 3)
    result = gp.prune(module, x, target=gp.channels(0.5), criterion="random")
    hidden, projected = kept(result, HIDDEN), kept(result, PROJECTED)
    gates = [gate * HIDDEN + i for gate in range(4) for i in hidden]
    sides = [*projected, *(PROJECTED + i for i in projected)]
    old, new = module.lstm, result.model.lstm
    assert torch.equal(new.weight_hr_l1_reverse, old.weight_hr_l1_reverse[projected][:, hidden])
    assert torch.equal(new.weight_hh_l1, old.weight_hh_l1[gates][:, projected])
    assert torch.equal(new.weight_ih_l1, old.weight_ih_l1[gates][:, sides])
    assert torch.equal(new.bias_hh_l0_reverse, old.bias_hh_l0_reverse[gates])
    assert torch.equal(result.model.out.weight, module.out.weight[:, sides])


def test_hidden_units_stay_more_than_projections() -> None:
    """`nn.LSTM` asks for that, and ATen takes equal widths for no projection."""
    torch.manual_seed(0)
    module, x = network(1, False, given=True), torch.randn(5, 2, 3)
    overrides = {"lstm.weight_hr_l0[[]1]": 0.1, "lstm.weight_hr_l0[[]0]": 1.0}
    result = gp.prune(module, x, target=gp.channels(0.5), overrides=overrides)
    assert (result.model.lstm.hidden_size, result.model.lstm.proj_size) == (PROJECTED + 1, PROJECTED)


def test_budgets_count_on_no_more_than_may_go() -> None:
    """Where projections are nearly as many as hidden units, hardly any of these can go."""
    torch.manual_seed(0)
    lstm, wide, narrow = nn.LSTM(64, 256, proj_size=192, batch_first=True), nn.Linear(40, 64), nn.Linear(192, 30)
    net = Net(lambda m, x: m.narrow(m.lstm(m.wide(x))[0]), wide=wide, lstm=lstm, narrow=narrow)
    result = gp.prune(net, torch.randn(2, 5, 40), target=gp.params(0.5))
    assert result.report.proof.passed
    assert 0.45 < result.report.after.parameters / result.report.before.parameters <= 0.5
    assert result.model.lstm.hidden_size == 194  # 193, and four gates of them a multiple of 8


def test_states_of_the_caller_keep_their_widths() -> None:
    lstm, x = nn.LSTM(3, HIDDEN, proj_size=PROJECTED), torch.randn(5, 2, 3)
    states = torch.randn(1, 2, PROJECTED), torch.randn(1, 2, HIDDEN)
    frozen = gp.couple(gp.capture(lstm, (x, states))).frozen_axes()
    assert {(row.weight, row.axis) for row in frozen} >= {("weight_hr_l0", 0), ("weight_hr_l0", 1), ("weight_ih_l0", 1)}


def test_projections_wider_than_the_hidden_units() -> None:
    """No module has them, but ATen computes them: then the projections stay more."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        states, weights = [torch.zeros(1, 2, 6), torch.zeros(1, 2, 4)], [m.ih, m.hh, m.hr]
        y: torch.Tensor = m.out(torch._VF.lstm(x, states, weights, False, 1, 0.0, False, False, False)[0])
        return y

    sizes = {"ih": (16, 3), "hh": (16, 6), "hr": (6, 4)}
    parts = {name: nn.Parameter(torch.randn(*size)) for name, size in sizes.items()}
    result = gp.prune(Net(call, **parts, out=nn.Linear(6, 2)), torch.randn(5, 2, 3), target=gp.channels(0.25))
    assert result.report.proof is not None and result.report.proof.passed
    assert result.graph.weights()["hr"].shape == (5, 1)
