"""Public architectures lose depth: vision models and small language models, in PyTorch and as ONNX files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import graphprune as gp
from graphprune import frontends
from tests import torchvision_shim  # noqa: F401  (first)

from torchvision import models  # isort: skip
import transformers as hf  # isort: skip

IDS = torch.randint(0, 64, (2, 6), generator=torch.Generator().manual_seed(0))
IMAGE = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
SIZES = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "vocab_size": 64}


def language(name: str, config: str, **sizes: Any) -> Callable[[], tuple[nn.Module, Any]]:
    def build() -> tuple[nn.Module, Any]:
        inputs = {"input_ids": IDS, "use_cache": False}
        if config == "T5Config":
            inputs["decoder_input_ids"] = IDS
        return getattr(hf, name)(getattr(hf, config)(**sizes)), inputs

    return build


def vision(build: Callable[[], nn.Module]) -> Callable[[], tuple[nn.Module, Any]]:
    return lambda: (build(), IMAGE)


#: How to build it, how many blocks and branches it has, and what removing the first block says of its class.
CASES: dict[str, tuple[Callable[[], tuple[nn.Module, Any]], int, int, str]] = {
    "resnet": (
        vision(lambda: models.ResNet(models.resnet.Bottleneck, [3, 2, 1, 1], num_classes=5)),
        2,
        3,
        "without layer1.1; later names under layer1 moved up",
    ),
    "convnext": (
        vision(
            lambda: models.ConvNeXt(
                [models.convnext.CNBlockConfig(8, 16, 2), models.convnext.CNBlockConfig(16, None, 2)],
                num_classes=5,
                layer_scale=0.5,
            )
        ),
        4,
        4,
        "without features.1.0; later names under features.1 moved up",
    ),
    "vit": (
        vision(lambda: models.VisionTransformer(32, 8, 3, 2, 16, 32, num_classes=5)),
        3,
        6,
        "without encoder.layers.encoder_layer_0",
    ),
    "mobilenet": (
        vision(
            lambda: models.MobileNetV2(
                num_classes=5, width_mult=0.25, inverted_residual_setting=[[1, 16, 1, 1], [6, 24, 3, 2], [6, 32, 2, 2]]
            )
        ),
        2,
        4,
        "features.3 replaced by an identity",
    ),
    "llama": (
        language("LlamaForCausalLM", "LlamaConfig", **SIZES, num_key_value_heads=1),
        3,
        6,
        "without model.layers.0; later names under model.layers moved up; config.num_hidden_layers: 3 -> 2",
    ),
    "bert": (
        language("BertForSequenceClassification", "BertConfig", **SIZES),
        3,
        6,
        "without bert.encoder.layer.0; later names under bert.encoder.layer moved up; config.num_hidden_layers: 3 -> 2",
    ),
    "gpt2": (
        language("GPT2LMHeadModel", "GPT2Config", n_embd=16, n_layer=3, n_head=2, vocab_size=64, n_positions=8),
        3,
        6,
        "without transformer.h.0; later names under transformer.h moved up; config.n_layer: 3 -> 2",
    ),
    "gptj": (
        language(
            "GPTJForCausalLM", "GPTJConfig", n_embd=16, n_layer=2, n_head=2, vocab_size=64, n_positions=8, rotary_dim=4
        ),
        2,
        4,
        "without transformer.h.0; later names under transformer.h moved up; config.n_layer: 2 -> 1",
    ),
    "t5": (
        language(
            "T5ForConditionalGeneration",
            "T5Config",
            d_model=16,
            d_kv=8,
            d_ff=24,
            num_layers=3,
            num_heads=2,
            vocab_size=64,
        ),
        6,
        15,
        "",  # the first layer of T5 holds a table that the others read: its module cannot go
    ),
    "mamba": (
        language("MambaForCausalLM", "MambaConfig", hidden_size=16, num_hidden_layers=2, vocab_size=64, state_size=4),
        2,
        2,
        "without backbone.layers.0; later names under backbone.layers moved up; config.num_hidden_layers: 2 -> 1",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_block_and_a_branch_go(name: str) -> None:
    torch.manual_seed(0)
    build, blocks, branches, reason = CASES[name]
    module, inputs = build()
    graph = gp.capture(module.eval(), inputs)
    found = gp.blocks(graph)
    assert [sum(b.kind == kind for b in found) for kind in ("block", "branch")] == [blocks, branches]
    shorter, _ = gp.optimize(graph, f"remove-blocks{{names={found[0].name}}}", verify_each=True)
    made = frontends.emit(shorter)
    assert shorter.parameter_count() == graph.parameter_count() - found[0].parameters
    if reason:
        assert (made.form, made.reason) == ("module", reason)
        assert type(made.module) is type(module)
        assert sum(p.numel() for p in made.module.parameters()) == shorter.parameter_count()
    for kind in ("block", "branch"):
        half, _ = gp.optimize(graph, f"remove-blocks{{keep=0.5 kind={kind}}}", verify_each=True)
        assert half.parameter_count() < graph.parameter_count()
    trained(made.module, inputs)


def trained(module: nn.Module, inputs: Any) -> None:
    """Gradients reach what is left."""
    module.train()
    result: Any = module(**inputs) if isinstance(inputs, dict) else module(inputs)
    result = getattr(result, "logits", result)
    result = result["logits"] if isinstance(result, dict) else result
    result.square().mean().backward()
    grads = [p.grad for p in module.parameters() if p.grad is not None]
    assert grads and all(torch.isfinite(g).all() for g in grads)


@pytest.mark.parametrize("name", ["resnet", "vit"])
def test_in_an_onnx_file(name: str, tmp_path: Path) -> None:
    """As the older exporter writes them, whose names hide in nodes, with a dynamic batch."""
    torch.manual_seed(0)
    build, blocks, branches, _ = CASES[name]
    module, inputs = build()
    with torch.no_grad():
        for parameter in module.parameters():  # exporters merge equal tensors
            parameter.add_(0.1 * torch.randn_like(parameter))
    file = tmp_path / "model.onnx"
    torch.onnx.export(
        module.eval(),
        (inputs,),
        str(file),
        dynamo=False,
        opset_version=17,
        input_names=["x"],
        dynamic_axes={"x": {0: "n"}},
    )
    graph = gp.load(file)
    found = gp.blocks(graph)
    assert [sum(b.kind == kind for b in found) for kind in ("block", "branch")] == [blocks, branches]
    for pipeline in (
        "remove-blocks{count=1}",
        "remove-blocks{keep=0.5 kind=branch},remove-channels{channels=0.5},cleanup",
    ):
        after, _ = gp.optimize(graph, pipeline, verify_each=True)
        gp.save(after, tmp_path / "small.onnx")
        assert gp.load(tmp_path / "small.onnx").parameter_count() == after.parameter_count() < graph.parameter_count()
