"""Names that a caller gives: case is no matter, and a near name is asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import graphprune as gp
from graphprune import runtimes
from graphprune.depth import score
from graphprune.errors import InputError
from graphprune.passes.base import find
from graphprune.registry import meant, pick
from graphprune.sparsity import patterns
from graphprune.sparsity.choosing import make_method


def test_case_is_no_matter_where_one_name_alone_is_meant() -> None:
    assert pick("criterion", "L2", ["l1", "l2"]) == "l2"
    assert pick("criterion", "A", ["a", "A"]) == "A"
    with pytest.raises(InputError, match="unknown criterion 'Ab'"):
        pick("criterion", "Ab", ["ab", "aB"])


def test_near_names() -> None:
    assert meant("MACS", ["macs"]) == ", did you mean 'macs'?"
    assert meant("conv", ["batch_norm"]) == ""


@pytest.fixture(scope="module")
def graph() -> Any:
    stack = nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 4))
    return gp.capture(nn.ModuleDict({"stack": stack})["stack"], torch.randn(2, 4))


@pytest.mark.parametrize(
    ("ask", "near"),
    [
        (lambda graph: gp.plan(graph, "channel=0.5"), "unknown target 'channel', did you mean 'channels'"),
        (lambda graph: gp.plan(graph, "macs=0.5", "bnscale"), "unknown criterion 'bnscale', did you mean 'bn-scale'"),
        (lambda graph: find("foldbatchnorm"), "unknown pass 'foldbatchnorm', did you mean 'fold-batchnorm'"),
        (lambda graph: make_method(graph, "sparse-gpt", None), "unknown method 'sparse-gpt', did you mean 'sparsegpt'"),
        (lambda graph: patterns.parse("unstructred:0.5"), "did you mean 'unstructured'"),
        (lambda graph: runtimes.get("onnx-runtime"), "unknown runtime 'onnx-runtime', did you mean 'onnxruntime'"),
        (lambda graph: score([], "norms"), "unknown block criterion 'norms', did you mean 'norm'"),
        (lambda graph: gp.plan(graph, "macs=0.5", exclude=["2.wight"]), "matches no .*, did you mean '2.weight'"),
        (lambda graph: gp.sparsify(graph, exclude=["2.wieght"]), "matches no .*, did you mean '2.weight'"),
    ],
)
def test_a_near_name_is_asked_for(graph: Any, ask: Callable[[Any], Any], near: str) -> None:
    with pytest.raises(InputError, match=rf"{near}\?"):
        ask(graph)


def test_names_in_any_case(graph: Any) -> None:
    made = gp.plan(graph, "MACs=0.5", "L2")
    assert made.target == "macs=0.5" and [g.kept for g in made.groups] == [
        g.kept for g in gp.plan(graph, "macs=0.5", "l2").groups
    ]
    assert patterns.parse("Unstructured:0.5") == patterns.parse("unstructured:0.5")
    assert find("Cleanup") is find("cleanup")


def test_a_module_path_means_all_below_it(graph: Any) -> None:
    kept = {g.name: g.kept for g in gp.plan(graph, "channels=0.5", exclude=["0"]).groups}
    assert kept == {"0.weight[0]": 16, "2.weight[0]": 8}
    kept = {g.name: g.kept for g in gp.plan(graph, "channels=0.5", include=["4"]).groups}
    assert kept == {"0.weight[0]": 16, "2.weight[0]": 8}
    kept = {g.name: g.kept for g in gp.plan(graph, "channels=0.5", overrides={"0": 0.25}).groups}
    assert kept == {"0.weight[0]": 4, "2.weight[0]": 8}
