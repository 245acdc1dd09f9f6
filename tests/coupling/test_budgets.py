"""Budgets: met from below, rounded, floored, selected; and what is said where they cannot be."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn

from graphprune.coupling import Coupling, couple
from graphprune.errors import InputError, TargetError
from graphprune.ir.graph import Graph
from graphprune.ops.cost import macs
from graphprune.passes.remove_channels import remove_channels
from graphprune.pruning.budgets import alignment, allocation, targets
from graphprune.pruning.budgets.targets import Target, Targets
from graphprune.pruning.cost import Counter
from graphprune.pruning.criteria import magnitude
from graphprune.pruning.plan import Plan
from tests.frontends import onnx_tools
from tests.helpers import graph_of
from tests.ops.registry import Net, conv


def residual_stage(inside: int, outside: int) -> nn.Module:
    return Net(
        lambda m, x: torch.relu(m.b(torch.relu(m.n(m.a(y := m.skip(x))))) + y),
        skip=conv(inside, outside, 3), a=conv(outside, outside, 3), n=nn.BatchNorm2d(outside), b=conv(outside,
        outside, 3), )  # fmt: skip


@pytest.fixture(scope="module")
def graph() -> Graph:
    torch.manual_seed(0)
    stages = [residual_stage(3, 32), residual_stage(32, 64), residual_stage(64, 128), residual_stage(128, 160)]
    return graph_of(
        nn.Sequential(*stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(160, 10)), torch.randn(1, 3, 8, 8)
    )


@pytest.fixture(scope="module")
def coupling(graph: Graph) -> Coupling:
    return couple(graph)


def plan(coupling: Coupling, target: Target | Targets, **options: object) -> Plan:
    return allocation.make_plan(coupling, magnitude.score(coupling), target, allocation.Options(**options), "l2")  # type: ignore[arg-type]


@pytest.mark.parametrize("ratio", [0.3, 0.5, 0.75])
@pytest.mark.parametrize("align", [1, 8])
@pytest.mark.parametrize("kind", ["params", "macs"])
def test_a_total_is_met_within_one_percent_from_below(coupling: Coupling, kind: str, align: int, ratio: float) -> None:
    made = plan(coupling, targets.Target(kind, ratio), align=align)
    pruned = remove_channels(coupling, made.kept(coupling))
    before, after = ((g.parameter_count() if kind == "params" else macs(g)) for g in (coupling.graph, pruned))
    assert made.notes[kind] == after
    assert ratio - 0.01 <= after / before <= ratio
    for group in made.groups:
        assert group.kept % align == 0


def test_alignment_defaults_to_eight_for_totals(coupling: Coupling) -> None:
    assert all(g.kept % 8 == 0 for g in plan(coupling, targets.macs(0.4)).groups)
    assert all(g.kept % 4 == 0 for g in plan(coupling, targets.channels(0.3), align=4).groups)


def test_shares_are_near_counts_that_runtimes_run_fast(coupling: Coupling) -> None:
    """Sizes 32, 64, 128, 160: a share is moved by at most a sixteenth, to a multiple of 8 only by a fortieth."""
    kept = {g.size: g.kept for g in plan(coupling, targets.channels(0.8)).groups}
    assert kept == {32: 24, 64: 52, 128: 104, 160: 128}
    exact = {g.size: g.kept for g in plan(coupling, targets.channels(0.8), align=1).groups}
    assert exact == {32: 26, 64: 51, 128: 102, 160: 128}


@pytest.mark.parametrize(
    ("ratio", "units", "steps", "kept"),
    [
        (0.5, 20, [1], 10),  # 8 and 12 are a tenth of all away
        (0.5, 36, [1], 16),  # of two as near the lower
        (0.9, 12, [1], 11),  # 12 would be all
        (0.05, 16, [1], 1),  # 0 would be none
        (1.0, 30, [1], 30),
        (0.7, 12, [64], 8),  # heads of 64: any number is a multiple of 8 channels
        (0.8, 64, [2], 52),  # 102.4 channels: multiples of 4 go two units at a time
    ],
)
def test_a_share_of_units(ratio: float, units: int, steps: list[int], kept: int) -> None:
    assert alignment.fixed_count(ratio, units, None, steps) == kept


def test_several_targets_are_all_met(coupling: Coupling) -> None:
    whole = {"params": coupling.graph.parameter_count(), "macs": macs(coupling.graph)}
    for asked in ("macs=0.5,params=0.3", "macs=0.2,params=0.6", ["channels=0.5", targets.macs(0.15)]):
        made = plan(coupling, Targets.of(asked))
        part = {kind: made.notes[kind] / whole[kind] for kind in whole}
        limits = Targets.of(asked).limits
        assert all(part[kind] <= limit for kind, limit in limits.items())
        assert max(part[kind] / limit for kind, limit in limits.items()) > 0.98  # and none is met by far
    assert all(group.kept <= 0.5 * group.size for group in made.groups)
    with pytest.raises(InputError, match="the target macs is given twice: macs=0.5 and macs=0.4"):
        Targets.of("macs=0.5,macs=0.4")
    with pytest.raises(TargetError, match=r"its floor 0\.\d+ of the params and 0\.\d+ of the macs stay"):
        plan(coupling, Targets.of("params=0.9,macs=0.01"))


def test_a_plan_that_keeps_everything_is_no_success(coupling: Coupling) -> None:
    made = plan(coupling, targets.channels(0.5), align=512)
    said = allocation.nothing_removed(coupling, made, allocation.Options(align=512))
    assert said == ["nothing was removed: align=512 is larger than every group (the largest has 160)"]
    made = plan(coupling, targets.channels(0.5))
    assert allocation.nothing_removed(coupling, made, allocation.Options()) == []


def test_convolutions_that_lose_their_fast_kernels_are_told(coupling: Coupling) -> None:
    def said(align: int | None) -> list[str]:
        keep = plan(coupling, targets.channels(0.8), align=align).kept(coupling)
        return alignment.slow_kernels(coupling.graph, remove_channels(coupling, keep))

    assert said(None) == []
    [sentence] = said(1)
    assert re.match(r"10 of 12 convolutions .* no multiple of 4 \(first '\w+', 26\)", sentence), sentence


def test_the_best_components_stay(coupling: Coupling) -> None:
    scores = magnitude.score(coupling)
    made = plan(coupling, targets.params(0.5))
    keep = made.kept(coupling)
    for group in coupling:
        row = group.components[0]
        if not keep[row].all():
            assert scores[row][keep[row]].min() >= scores[row][~keep[row]].max()


def test_a_floor_holds_in_every_group(coupling: Coupling) -> None:
    made = plan(coupling, targets.params(0.45), floor=0.6, align=1)
    assert all(g.kept >= 0.6 * g.size for g in made.groups)


def test_an_unreachable_target_says_how_far_it_can_go(coupling: Coupling) -> None:
    message = r"target params=0.2 cannot be reached: with every group at its floor 0\.\d+ of the params stay"
    with pytest.raises(TargetError, match=message) as caught:
        plan(coupling, targets.params(0.2), floor=0.6)
    least = float(re.findall(r"0\.\d{3}", str(caught.value))[-1])
    assert plan(coupling, targets.params(least + 0.002), floor=0.6)


def test_include_and_exclude_choose_by_weight_and_node(coupling: Coupling) -> None:
    whole = [g.size for g in coupling]
    only = plan(coupling, targets.channels(0.5), include=["1.n.*"])
    assert [g.kept < n for g, n in zip(only.groups, whole, strict=True)] == ["1.a." in g.name for g in only.groups]
    assert {g.reason for g in only.groups if "1.a." not in g.name} == {"left alone"}
    without = plan(coupling, targets.channels(0.5), exclude=["*.skip.weight"])
    untouched = [g.kept == n for g, n in zip(without.groups, whole, strict=True)]
    assert untouched == ["skip" in g.name for g in without.groups]
    node = next(n.name for n in coupling.graph.nodes if any(v and v.name == "1.a.weight" for v in n.inputs))
    named = plan(coupling, targets.channels(0.5), include=[node])
    assert any(g.kept < n for g, n in zip(named.groups, whole, strict=True))


def test_a_glob_that_matches_nothing_is_an_error(coupling: Coupling) -> None:
    with pytest.raises(InputError, match="'layer9.*' matches no weight or node of"):
        plan(coupling, targets.channels(0.5), include=["layer9.*"])


def test_overrides_set_single_groups(coupling: Coupling) -> None:
    made = plan(coupling, targets.channels(0.5), overrides={"2.n.weight": 0.25, "2.b.bias": 0.75})
    kept = {g.name: g.kept / g.size for g in made.groups}
    assert kept["2.a.weight[0]"] == 0.25 and kept["2.skip.weight[0]"] == 0.75 and kept["1.a.weight[0]"] == 0.5
    total = plan(coupling, targets.params(0.5), overrides={"3.n.weight": 1.0})
    assert next(g for g in total.groups if g.name == "3.a.weight[0]").kept == 160
    assert total.notes["params"] <= 0.5 * coupling.graph.parameter_count()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"align": 0}, "align must be at least 1, not 0"),
        ({"floor": 1.5}, "floor must be between 0 and 1, not 1.5"),
        ({"overrides": {"1.a.*": 0}}, "the ratio must be greater than 0 and at most 1"),
        ({"include": ["4.*"]}, "no coupled group matches|matches no weight"),
    ],
)
def test_bad_options(coupling: Coupling, options: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        plan(coupling, targets.channels(0.5), **options)


@pytest.mark.parametrize("ratio", [0, -0.5, 1.5, float("nan")])
def test_a_ratio_outside_its_range(ratio: float) -> None:
    with pytest.raises(InputError, match="the ratio must be greater than 0 and at most 1"):
        targets.channels(ratio)


def test_an_unknown_target() -> None:
    with pytest.raises(InputError, match="unknown target 'depth'; known are channels, macs, params"):
        targets.Target("depth", 0.5)


def test_nothing_prunable_says_why() -> None:
    coupling = couple(graph_of(nn.Linear(3, 2), torch.randn(4, 3)))
    with pytest.raises(
        InputError, match=r"nothing prunable: every weight axis of .* must stay; for example weight axis"
    ):
        plan(coupling, targets.channels(0.5))


def test_no_axis_is_left_empty() -> None:
    """A slice that would lose all its channels keeps its best."""
    torch.manual_seed(0)
    net = Net(lambda m, x: m.c((y := m.a(x))[:, :2]) + m.d(y[:, 2:]), a=conv(3, 16), c=conv(2, 2), d=conv(14, 2))
    with torch.no_grad():
        net.a.weight[:2] *= 1e-6
        net.c.weight *= 1e-6
    coupling = couple(graph_of(net, torch.randn(1, 3, 4, 4)))
    pruned = remove_channels(coupling, plan(coupling, targets.channels(0.25)).kept(coupling))
    assert pruned.weights()["c.weight"].shape == (2, 1, 1, 1)


@pytest.mark.parametrize("target", ["channels=0.5", "params=0.4", "macs=0.6"])
def test_uniform_keeps_equal_counts_in_layers_alike(target: str) -> None:
    torch.manual_seed(0)
    blocks = [nn.Sequential(nn.Linear(8, 24), nn.ReLU(), nn.Linear(24, 8)) for _ in range(3)]
    for i, block in enumerate(blocks):
        nn.init.normal_(block[0].weight, std=0.1 * (1 + i))
    model = nn.Sequential(*blocks)
    coupling = couple(graph_of(model, torch.randn(2, 8)))
    scores = magnitude.score(coupling, "l2", normalization="none")
    free = allocation.make_plan(coupling, scores, targets.Target.of(target), allocation.Options(align=1), "l2")
    made = allocation.make_plan(
        coupling, scores, targets.Target.of(target), allocation.Options(align=1, uniform=True), "l2"
    )
    hidden = [g.kept for g in made.groups if g.size == 24]
    assert len(hidden) == 3 and len(set(hidden)) == 1
    if target != "channels=0.5":
        assert len({g.kept for g in free.groups if g.size == 24}) > 1


def test_copies_of_a_shared_constant_are_counted() -> None:
    """Exporters merge equal vectors; uses that come to differ need a tensor each."""
    nodes = [
        onnx_tools.node("Conv", "x a", "h"),
        onnx_tools.node("Mul", "h ones", "i"),
        onnx_tools.node("Conv", "i b", "j"),
        onnx_tools.node("Mul", "j ones", "k"),
        onnx_tools.node("Conv", "k c", "y"),
    ]
    weights = {"a": (16, 3, 1, 1), "b": (16, 16, 1, 1), "c": (2, 16, 1, 1), "ones": (16, 1, 1)}
    model = onnx_tools.model(nodes, {"x": (1, 3, 4, 4)}, weights={n: onnx_tools.weight(*s) for n, s in weights.items()})
    coupling = couple(graph_of(model))
    counter, whole = Counter(coupling), coupling.graph.parameter_count()
    assert counter.parameters(np.ones(coupling.count, bool)) == whole
    for components in (coupling.groups[0].components[0, :4], coupling.groups[1].components[0, 2:5]):
        keep = np.ones(coupling.count, bool)
        keep[components] = False
        left = remove_channels(coupling, keep)
        assert len(left.weights()) == 5 and counter.parameters(keep) == left.parameter_count()
    made = plan(coupling, targets.params(0.5), align=1)
    assert made.notes["params"] == remove_channels(coupling, made.kept(coupling)).parameter_count() <= 0.5 * whole
