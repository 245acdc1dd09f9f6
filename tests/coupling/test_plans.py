"""Plans: written, read, edited, and refused with a sentence."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from graphprune.coupling import Coupling, couple
from graphprune.errors import InputError
from graphprune.passes.remove_channels import remove_channels
from graphprune.pruning.budgets import targets
from graphprune.pruning.plan import Plan, PlanGroup
from tests.helpers import graph_of, random_plan
from tests.ops import examples_position
from tests.ops.registry import conv, image


@pytest.fixture
def coupling() -> Coupling:
    torch.manual_seed(0)
    return couple(graph_of(nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 12, groups=4), conv(12, 2)), image()))


def test_round_trip(coupling: Coupling, tmp_path: Path) -> None:
    plan = random_plan(coupling, targets.channels(0.5))
    plan.save(tmp_path / "plan.json")
    again = Plan.load(tmp_path / "plan.json")
    assert again == plan
    assert (again.kept(coupling) == plan.kept(coupling)).all()
    assert [p.name for p in tmp_path.iterdir()] == ["plan.json"]


def test_a_plan_fits_a_fresh_copy_of_the_model(coupling: Coupling) -> None:
    plan = random_plan(coupling, targets.channels(0.5))
    torch.manual_seed(9)
    other = couple(graph_of(nn.Sequential(conv(3, 8), nn.ReLU(), conv(8, 12, groups=4), conv(12, 2)), image()))
    assert (plan.kept(other) == plan.kept(coupling)).all()


def test_an_edited_plan_is_followed(coupling: Coupling) -> None:
    """Channel numbers are those of the weight axis that names the group, row by row."""
    plan = random_plan(coupling, targets.channels(0.5))
    edited = Plan.from_json(json.loads(json.dumps(plan.to_json())))
    first = replace(edited.groups[0], keep=((0,), (1,), (0,), (1,)))
    edited = replace(edited, groups=(first, *edited.groups[1:]))
    pruned = remove_channels(coupling, edited.kept(coupling))
    value = pruned.weights()["0.weight"].weight
    original = coupling.graph.weights()["0.weight"].weight
    assert value is not None and original is not None
    assert (value.array() == original.array()[[0, 3, 4, 7]]).all()


def group(plan: Plan, **changes: Any) -> Plan:
    return replace(plan, groups=(replace(plan.groups[0], **changes), *plan.groups[1:]))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda p: replace(p, fingerprint="0"), "the plan was made for another model: fingerprint 0, this one is"),
        (lambda p: replace(p, groups=p.groups[1:]), "the plan has 1 groups, the model has 2"),
        (lambda p: group(p, name="other"), "plan group 'other' does not match the model's group '0.weight"),
        (lambda p: group(p, keep=p.groups[0].keep[1:]), "does not match the model's group"),
        (lambda p: group(p, keep=((1, 0),) * 4), "keep must be ascending positions from 0 to 1, not empty"),
        (lambda p: group(p, keep=((2,),) * 4), "keep must be ascending positions from 0 to 1"),
        (lambda p: group(p, keep=((),) * 4), "not empty"),
        (lambda p: group(p, keep=((0, 0),) * 4), "ascending"),
        (lambda p: group(p, keep=((0,), (0,), (0,), (0, 1))), "every row must keep the same number"),
    ],
)
def test_a_plan_that_does_not_fit_is_refused(coupling: Coupling, edit: Callable[[Plan], Plan], message: str) -> None:
    with pytest.raises(InputError, match=message):
        edit(random_plan(coupling, targets.channels(0.5))).kept(coupling)


@pytest.mark.parametrize("text", ["", "[1]", "{}", '{"format": 99}', '{"format": 1, "groups": [{}]}', "\x80"])
def test_a_file_that_is_no_plan_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "plan.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(InputError, match="is not a graphprune plan"):
        Plan.load(path)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot read the plan"):
        Plan.load(tmp_path / "none.json")


def test_an_unwritable_place_is_refused(coupling: Coupling, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be written: No such file"):
        random_plan(coupling, targets.channels(0.5)).save(tmp_path / "none" / "plan.json")


def test_a_group_counts_over_its_rows() -> None:
    assert PlanGroup("g", 2, 3, 1, True, ((0, 1), (1, 2))).kept == 4


def test_a_plan_that_keeps_fewer_than_are_picked_is_refused() -> None:
    torch.manual_seed(0)
    coupling = couple(graph_of(*examples_position.experts()))
    plan = random_plan(coupling, targets.channels(0.1))
    assert len(plan.groups[0].keep[0]) == 2  # top-2 needs two, whatever the target
    few = replace(plan, groups=(replace(plan.groups[0], keep=((1,),)), *plan.groups[1:]))
    with pytest.raises(InputError, match="fewer than 2 indices"):
        few.kept(coupling)
