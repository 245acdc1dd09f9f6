"""Folders of tiny models of many kinds: pruned, loaded by `from_pretrained`, the same numbers, and they generate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import graphprune as gp
from benchmarks.suites import transformers_models
from graphprune.frontends.torch import flatten_outputs, random_inputs

#: What must have become half of what it was.
HALVED = {
    "gpt2": ("n_embd", "n_head"),
    "gpt_neox": ("hidden_size", "num_attention_heads", "intermediate_size"),
    "mistral": ("hidden_size", "num_attention_heads", "num_key_value_heads", "intermediate_size"),
    "qwen2_moe": ("hidden_size", "num_experts", "moe_intermediate_size", "shared_expert_intermediate_size"),
    "deepseek_v3": ("hidden_size", "n_routed_experts", "kv_lora_rank", "q_lora_rank", "num_attention_heads"),
    "whisper": ("d_model", "encoder_ffn_dim", "decoder_attention_heads"),
}


@pytest.mark.parametrize("name", HALVED)
def test_a_folder_becomes_a_folder(name: str, tmp_path: Path) -> None:
    made = transformers_models.save(name, tmp_path / "whole")
    result = gp.prune(tmp_path / "whole", target="channels=0.5", uniform=True)
    assert result.report.output_form == "transformers checkpoint", result.report.output_reason
    result.save(tmp_path / "small")
    before, after = (json.loads((tmp_path / f / "config.json").read_text()) for f in ("whole", "small"))
    assert {key: after[key] for key in HALVED[name]} == {key: before[key] // 2 for key in HALVED[name]}
    model, told = made.from_pretrained(tmp_path / "small", output_loading_info=True)
    assert not any(told.values())
    feed = random_inputs(result.graph, 3)
    with torch.no_grad():
        for theirs, ours in zip(flatten_outputs(model(**feed)), flatten_outputs(result.model(**feed)), strict=True):
            torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)
    if name != "whisper":
        assert_generates(model)


def assert_generates(model: Any) -> None:
    """With a cache the same tokens as without."""
    ids = torch.randint(3, 60, (1, 12), generator=torch.Generator().manual_seed(0))
    options = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
    cached, plain = (model.generate(ids, use_cache=cache, **options) for cache in (True, False))
    assert cached.shape == (1, 20) and torch.equal(cached, plain)


@pytest.mark.parametrize(("name", "table"), [("gemma", "model.embed_tokens.weight[1]"), ("t5", "shared.weight[1]")])
def test_a_constant_computed_from_a_width_is_said(name: str, table: str, tmp_path: Path) -> None:
    """Gemma multiplies embeddings by the root of their width, T5 what comes before its tied head by one over it: no
    configuration has half the width and that factor. The report says what to leave.
    """
    transformers_models.save(name, tmp_path / "whole")
    result = gp.prune(tmp_path / "whole", target="channels=0.5", uniform=True)
    assert result.report.output_form == "tensors without a configuration"
    assert f"stays 64 there is one: --exclude '{table}'" in result.report.output_reason
    result = gp.prune(tmp_path / "whole", target="channels=0.5", uniform=True, exclude=[table])
    assert result.report.output_form == "transformers checkpoint", result.report.output_reason


@pytest.mark.parametrize(
    ("name", "layers"),
    [("bert", "num_hidden_layers"), ("gpt_neox", "num_hidden_layers"), ("whisper", "decoder_layers")],
)
def test_layers_of_a_folder_go_too(name: str, layers: str, tmp_path: Path) -> None:
    """One layer and half of every width; what stays is what the rewritten graph computes."""
    made = transformers_models.save(name, tmp_path / "whole")
    graph = gp.load(tmp_path / "whole")
    layer = next(b.name for b in reversed(gp.blocks(graph, kind="block")))
    passes = f"remove-blocks{{names={layer}}},remove-channels{{channels=0.5 uniform=true}},cleanup"
    small, _ = gp.optimize(graph, passes)
    gp.save(small, tmp_path / "small")
    model, told = made.from_pretrained(tmp_path / "small", output_loading_info=True)
    assert not any(told.values()) and getattr(model.config, layers) == 1
    feed = random_inputs(small, 3)
    with torch.no_grad():
        for theirs, ours in zip(flatten_outputs(model(**feed)), flatten_outputs(gp.emit(small)(**feed)), strict=True):
            torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)
