"""Which blocks are chosen, by what score, and what is said where that cannot be done."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from graphprune import depth
from graphprune.depth import Block
from graphprune.depth.selection import Wanted
from graphprune.errors import InputError
from graphprune.passes.pipeline import parse_pipeline
from tests.depth import nets
from tests.helpers import graph_of


@pytest.fixture(scope="module")
def found() -> list[Block]:
    """Of three layers the middle one has the smallest weights; of all branches, the first MLP has."""
    module, x = nets.tower("pre")
    with torch.no_grad():
        for parameter in module.layers[1].parameters():
            parameter *= 0.5
        for name in ("up", "down"):
            getattr(module.layers[0], name).weight.mul_(0.1)
    return depth.score(depth.find_blocks(graph_of(module, x)))


def names(blocks: list[Block], **wanted: Any) -> list[str]:
    return [block.name for block in depth.choose(blocks, Wanted(**wanted))]


def test_scores_compare_blocks_built_alike(found: list[Block]) -> None:
    layers = [b for b in found if b.kind == "block"]
    matrices = [v for v in layers[0].weights if v.rank > 1]
    arrays = [v.weight.array().reshape(-1) for v in matrices if v.weight is not None]
    norms = [depth.SCORES["norm"](b) for b in layers]
    assert norms[0] == pytest.approx(torch.cat([torch.tensor(a) for a in arrays]).square().mean().sqrt().item())
    assert [b.score for b in layers] == pytest.approx([3 * n / sum(norms) for n in norms])
    attention = [b.score for b in found if b.kind == "branch"][::2]
    assert sum(attention) == pytest.approx(3.0)


def test_a_score_is_a_function_of_a_block(found: list[Block]) -> None:
    scored = depth.score(found, lambda block: float(block.name.count("2")))
    assert names(scored, count=2) == ["layers.0", "layers.1"]
    with pytest.raises(InputError, match="unknown block criterion 'taylor'; known are norm"):
        depth.score(found, "taylor")


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        ({"count": 1}, ["layers.1"]),
        ({"keep": 0.6}, ["layers.1"]),
        ({"keep": 1.0}, []),
        ({"count": 3}, ["layers.0", "layers.1", "layers.2"]),
        ({"count": 1, "exclude": ["layers.1"]}, ["layers.0"]),
        ({"count": 1, "include": ["layers.2.up.*"]}, ["layers.2"]),
        ({"names": ["layers.2"]}, ["layers.2"]),
        ({"names": ["*.0", "layers.1.qkv.weight"]}, ["layers.0", "layers.1"]),
        ({"count": 1, "kind": "branch"}, ["layers.0#2"]),
        ({"names": ["layers.1*"], "exclude": ["*.qkv.*"], "kind": "branch"}, ["layers.1#2"]),
    ],
)
def test_choice(found: list[Block], wanted: dict[str, Any], expected: list[str]) -> None:
    assert names(found, **wanted) == expected


@pytest.mark.parametrize(
    ("wanted", "message"),
    [
        ({"count": 4}, "count=4 is more than the 3 blocks of 'tower' that may go"),
        ({"count": 2, "include": ["layers.0"]}, "count=2 is more than the 1 block of 'tower' that may go"),
        ({"names": ["layers.7"]}, "'layers.7' matches no block of 'tower'; there are layers.0, layers.1, layers.2"),
        ({"names": ["layers.0#2"]}, r"'layers.0#2' matches no block of 'tower'; it matches 1 branch \(kind=branch\)"),
        ({"count": 1, "exclude": ["head"]}, "'head' matches no block"),
    ],
)
def test_what_cannot_be_chosen(found: list[Block], wanted: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        depth.choose(found, Wanted(**wanted), "tower")


def test_models_without_blocks() -> None:
    one = depth.find_blocks(graph_of(*nets.tower("pre", layers=1)))
    assert names(one, count=1) == ["layers.0"]  # there are branches only
    with pytest.raises(InputError, match=r"'m' has no block to remove; it has 2 branches \(kind=branch\)"):
        depth.choose(one, Wanted(count=1, kind="block"), "m")
    with pytest.raises(InputError, match="nothing to remove: in 'm', no value is added to something computed from it"):
        depth.choose([], Wanted(count=1), "m")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("", "exactly one of count, keep and names says what to remove, found none"),
        ("count=1 keep=0.5", "found count and keep"),
        ("count=0", "the number of blocks to remove must be at least 1"),
        ("keep=2", "the share of the blocks that stays must be between 0 and 1"),
        ("count=1 kind=layer", "the kinds are branch and block"),
        ("count=two", "option 'count' must be a whole number"),
    ],
)
def test_bad_options(options: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        parse_pipeline(f"remove-blocks{{{options}}}")


def test_what_lies_around_others_goes_only_by_name() -> None:
    def call(net: Any, x: torch.Tensor) -> torch.Tensor:
        x = net.stem(x)
        y = x
        for layer in net.layers:
            y = y + layer(y)
        return x + net.out(y)

    linear = torch.nn.Linear
    layers = torch.nn.ModuleList(linear(4, 4) for _ in range(2))
    net = nets.Net(call, stem=linear(4, 4), layers=layers, out=linear(4, 4))
    blocks = depth.find_blocks(graph_of(net, torch.randn(2, 4)))
    assert [b.outer for b in blocks if b.kind == "branch"].count(True) == 1
    assert len(names(blocks, count=2, kind="branch")) == 2
    with pytest.raises(InputError, match="count=3 is more than the 2 branches"):
        names(blocks, count=3, kind="branch")
