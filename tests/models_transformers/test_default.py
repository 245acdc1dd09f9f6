"""Models of transformers as their users hold them: default configurations, whose results hold key-value caches."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

import graphprune as gp
from benchmarks.suites import transformers_models

#: What a configuration must say afterwards, as a share of what it said.
HALVED = {
    "llama": ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"),
    "qwen3": ("hidden_size", "intermediate_size", "num_attention_heads", "num_key_value_heads"),
    "gpt2": ("n_embd", "n_head"),
    "mixtral": ("hidden_size", "num_local_experts", "num_key_value_heads"),
    "bart": ("d_model", "encoder_ffn_dim", "decoder_attention_heads"),
    "whisper": ("d_model", "decoder_ffn_dim", "encoder_attention_heads"),
    "bert": ("hidden_size", "intermediate_size", "num_attention_heads"),
    "t5": ("d_model", "d_ff", "num_heads"),
    "mamba": ("hidden_size", "state_size", "intermediate_size"),
}
GENERATE = {"max_new_tokens": 5, "min_new_tokens": 5, "do_sample": False}


def built(name: str, *without: str) -> tuple[Any, dict[str, Any]]:
    module, inputs = transformers_models.build_default(name)
    return module, {key: value for key, value in inputs.items() if key not in without}


def main(module: Any, inputs: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = transformers_models.main_result(module(**inputs))
    return found


def assert_generates(module: Any, inputs: dict[str, Any]) -> None:
    """With a cache the same tokens as without; without, each is what the proven `forward` says."""
    given = {key: inputs[key][:1] for key in (module.main_input_name, "attention_mask") if key in inputs}
    cached, plain = (module.generate(**given, use_cache=cache, **GENERATE) for cache in (True, False))
    assert torch.equal(cached, plain)


@pytest.mark.parametrize("name", HALVED)
def test_half_of_everything_goes_and_the_configuration_says_so(name: str, tmp_path: Path) -> None:
    module, inputs = built(name, "attention_mask")
    before = copy.deepcopy(module.config.to_dict())
    result = gp.prune(module, inputs, target=gp.channels(0.5))
    report, model = result.report, result.model
    assert type(model) is type(module)
    assert report.proof is not None and report.proof.passed
    assert report.after.parameters <= 0.4 * report.before.parameters
    assert not report.alerts and "configuration follows" in report.output_reason
    assert {key: getattr(model.config, key) for key in HALVED[name]} == {k: before[k] // 2 for k in HALVED[name]}
    assert module.config.to_dict() == before, "the caller's own configuration stays as it was"
    if model.can_generate():
        assert_generates(model, inputs)
    model.save_pretrained(tmp_path)
    again = type(module).from_pretrained(tmp_path)
    torch.testing.assert_close(main(again, inputs), main(model, inputs), rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "changes", [{}, {"attention_mask": torch.ones(2, 16, dtype=torch.long)}, {"return_dict": False}]
)
def test_however_it_is_called(changes: dict[str, Any]) -> None:
    module, inputs = built("llama", "attention_mask")
    result = gp.prune(module, inputs | changes, target=gp.channels(0.5))
    assert type(result.model) is type(module)
    with torch.no_grad():
        made, original = (m(**inputs, **changes) for m in (result.model, module))
    assert type(made) is type(original) and type(made[1]) is type(original[1])
    assert made[1].layers[0].keys.shape[1] == original[1].layers[0].keys.shape[1] // 2
    assert_generates(result.model, inputs)


def test_a_configuration_that_cannot_say_it_is_noted(tmp_path: Path) -> None:
    """Gemma multiplies embeddings by the root of their width, and its head is tied to them."""
    module, inputs = built("gemma", "attention_mask")
    result = gp.prune(module, inputs, target=gp.channels(0.5))
    assert type(result.model) is type(module)
    assert "its configuration does not say so" in result.report.output_reason
    assert_generates(result.model, inputs)


def test_a_number_that_the_code_takes_from_a_size_is_made_up_for() -> None:
    """T5 multiplies what comes before its tied head by one over the root of its width."""
    module, inputs = built("t5")
    result = gp.prune(module, inputs, target=gp.channels(0.5))
    assert "scaled decoder.final_layer_norm.weight, since a number in the code" in result.report.output_reason
    assert result.model.config.d_model == 32 and module.config.d_model == 64


def test_it_generates_what_the_masked_original_does() -> None:
    """Heads and hidden neurons alone: then masking is zeroing weights."""
    module, inputs = built("llama", "attention_mask")
    result = gp.prune(module, inputs, target=gp.channels(0.5), exclude=["model.embed_tokens.weight[1]"])
    masked = copy.deepcopy(module)
    parameters = dict(masked.named_parameters())
    kept = result.plan.kept(result.coupling)[result.coupling.component]
    touched = 0
    with torch.no_grad():
        for use in result.coupling.uses:
            for block in use.blocks if use.value.name in parameters else ():
                gone = ~torch.as_tensor(kept[block.labels])
                if block.joint or not gone.any():
                    continue
                parameters[use.value.name].movedim(block.axes[0], 0)[gone.flatten()] = 0
                touched += 1
    assert touched
    ids = inputs["input_ids"]
    theirs, ours = (m.generate(ids, **GENERATE) for m in (masked, result.model))
    assert torch.equal(theirs, ours) and not torch.equal(theirs, module.generate(ids, **GENERATE))


def test_a_cache_given_and_handed_back() -> None:
    module, inputs = built("llama", "attention_mask")
    ids = inputs["input_ids"]
    with torch.no_grad():
        past = module(ids[:, :8]).past_key_values
    result = gp.prune(module, {"input_ids": ids[:, 8:9], "past_key_values": past}, target=gp.channels(0.5))
    assert type(result.model) is type(module)
    assert result.model.config.num_key_value_heads == module.config.num_key_value_heads // 2
    assert_generates(result.model, inputs)


@pytest.mark.parametrize("how", ["train", "tied", "bfloat16", "eager", "checkpointing"])
def test_however_it_is_held(how: str) -> None:
    module, inputs = built("llama", "attention_mask")
    if how == "tied":
        module = type(module)(type(module.config)(**{**module.config.to_dict(), "tie_word_embeddings": True})).eval()
    elif how == "bfloat16":
        module = module.to(torch.bfloat16)
    elif how == "eager":
        module.set_attn_implementation("eager")
    elif how == "checkpointing":
        module.gradient_checkpointing_enable()
    module.train(how in ("train", "checkpointing"))
    result = gp.prune(module, inputs, target=gp.channels(0.5))
    model = result.model
    assert type(model) is type(module) and not result.report.alerts
    assert model.training == module.training
    assert model.config._attn_implementation == module.config._attn_implementation
    assert model.is_gradient_checkpointing == module.is_gradient_checkpointing
    assert model.dtype == module.dtype
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == (how == "tied")
    model.train()(**inputs, labels=inputs["input_ids"]).loss.backward()
    assert all(p.grad is not None for p in model.parameters())


def test_a_model_inside_another_module_says_what_its_configuration_does_not() -> None:
    """As sentence encoders hold theirs."""
    encoder, inputs = built("bert")

    class Sentences(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder.bert

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            states: torch.Tensor = self.encoder(input_ids, attention_mask).last_hidden_state
            return (states * attention_mask[..., None]).sum(1) / attention_mask.sum(1, keepdim=True)

    result = gp.prune(Sentences(), inputs, target=gp.channels(0.5))
    assert type(result.model) is Sentences
    assert "the configuration of 'encoder' keeps its old numbers" in result.report.output_reason
