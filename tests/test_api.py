"""The public functions, as a user calls them."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

import onnx
import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import graphprune as gp
from graphprune.errors import InputError


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 4))


def test_a_result_trained_further_is_saved_as_it_is(tmp_path: Path) -> None:
    result = gp.prune(network(), torch.randn(2, 8), target=gp.channels(0.5))
    with torch.no_grad():
        for parameter in result.model.parameters():
            parameter.add_(1.0)
    result.save(tmp_path / "weights.safetensors")
    saved = load_file(tmp_path / "weights.safetensors")
    assert saved.keys() == result.model.state_dict().keys()
    assert all(torch.equal(saved[name], tensor) for name, tensor in result.model.state_dict().items())


def test_what_can_be_loaded() -> None:
    loaded = gp.load(onnx.load("models/digits_resnet.onnx"))
    assert loaded.parameter_count() == gp.load("models/digits_resnet.onnx").parameter_count() > 0
    with pytest.raises(InputError, match="cannot read a Sequential; give a file"):
        gp.load(network())


def test_a_target_may_be_written_as_text() -> None:
    graph = gp.capture(network(), torch.randn(2, 8))
    assert gp.plan(graph, "channels=0.5").groups == gp.plan(graph, gp.channels(0.5)).groups
    with pytest.raises(InputError, match="write for instance macs=0.5"):
        gp.plan(graph, "half")


def test_what_cannot_be_pruned_is_told_apart() -> None:
    with pytest.raises(InputError, match="no torch.nn.Module"):
        gp.prune(lambda x: x, torch.randn(1), target=gp.channels(0.5))
    with pytest.raises(InputError, match="needs example_inputs"):
        gp.prune(network(), target=gp.channels(0.5))


def test_the_graph_given_is_untouched() -> None:
    graph = gp.capture(network(), torch.randn(2, 8))
    before = {name: value.shape for name, value in graph.weights().items()}
    gp.apply(graph, gp.plan(graph, gp.channels(0.5)))
    assert {name: value.shape for name, value in graph.weights().items()} == before


def test_the_package_has_the_names_of_its_api() -> None:
    assert gp.__all__ == import_module("graphprune.api").__all__
    assert all(callable(getattr(gp, name)) for name in gp.__all__)
