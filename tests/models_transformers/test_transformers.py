"""Architectures of `transformers` from small configurations: half of everything removed, proven, and as small as that.

One for each structure; all of them are run by `make coverage`.
"""

from __future__ import annotations

import pytest
import torch

import graphprune as gp
from benchmarks.suites import transformers_models

#: What each of them is here for.
STRUCTURES = {
    "deberta": "positions looked up along rows and columns of the scores",
    "gpt_neox": "packed heads of (query, key, value), partial rotation",
    "bloom": "slopes for each head, made before the heads",
    "gpt_oss": "a sink for each head, experts with biases",
    "deepseek_v3": "latent attention, groups of experts",
    "mamba": "a scan over time, a convolution whose weight is computed",
    "wav2vec2": "weight norm in a grouped convolution",
    "funnel": "pools over positions",
}


@pytest.mark.parametrize("name", STRUCTURES)
def test_half_of_everything_goes(name: str) -> None:
    module, inputs = transformers_models.build(name)
    graph = gp.capture(module, inputs)
    before = graph.parameter_count()
    result = gp.prune(graph, target="channels=0.5")
    assert result.graph.parameter_count() <= 0.4 * before
    proof = result.report.proof
    assert proof is not None and proof.passed and not proof.detail
    assert not result.report.unknown


@pytest.mark.parametrize("implementation", ["batched_mm", "grouped_mm"])
def test_whole_experts_go_with_their_rows_of_the_router(implementation: str) -> None:
    """With the weights of the chosen experts gathered, or (transformers' default) rows sorted by expert."""
    module, inputs = transformers_models.build("mixtral")
    module.model.config._experts_implementation = implementation
    result = gp.prune(module, inputs, target="channels=0.5")
    assert not result.report.unknown
    mixture = result.model.model.model.layers[0].mlp
    assert mixture.gate.weight.shape == (2, 32)
    assert mixture.experts.gate_up_proj.shape == (2, 128, 32)
    assert mixture.experts.down_proj.shape == (2, 32, 64)
    with torch.no_grad():
        assert result.model(**inputs).shape == (2, 16, 128)


def test_every_name_has_an_entry_of_its_own() -> None:
    names = transformers_models.names()
    assert len(names) == len(set(names)) >= 64
