"""Public architectures end to end: half of every group goes, the result is proven, smaller, and still trains."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import graphprune as gp
from tests import torchvision_shim  # noqa: F401  (first)

from torchvision import models  # isort: skip

MODELS: dict[str, tuple[Callable[[], nn.Module], int]] = {
    "shufflenet": (lambda: models.shufflenet_v2_x0_5(weights=None, num_classes=10), 64),
    "swin": (lambda: models.SwinTransformer([4, 4], 24, [2, 2], [2, 4], [4, 4], num_classes=10), 32),
    "swin_v2": (
        lambda: models.swin_transformer.SwinTransformer(
            [4, 4],
            24,
            [2, 2],
            [2, 4],
            [4, 4],
            num_classes=10,
            block=models.swin_transformer.SwinTransformerBlockV2,
            downsample_layer=models.swin_transformer.PatchMergingV2,
        ),
        32,
    ),
    "mobilenet_v3": (lambda: models.mobilenet_v3_small(weights=None), 64),
    "resnet": (lambda: models.resnet18(weights=None), 64),
    "densenet": (lambda: models.DenseNet(8, (3, 4, 3), 16, num_classes=10), 64),
    "regnet": (lambda: models.regnet_y_400mf(weights=None), 64),
    "vit": (lambda: models.VisionTransformer(32, 8, 3, 4, 64, 128, num_classes=10), 32),
    "convnext": (
        lambda: models.ConvNeXt(
            [models.convnext.CNBlockConfig(24, 48, 2), models.convnext.CNBlockConfig(48, None, 2)], num_classes=10
        ),
        32,
    ),
    "googlenet": (lambda: models.googlenet(weights=None, aux_logits=False, init_weights=False), 64),
    "lraspp": (
        lambda: models.segmentation.lraspp_mobilenet_v3_large(weights=None, weights_backbone=None, num_classes=5),
        64,
    ),
}


@pytest.mark.parametrize("name", list(MODELS))
def test_half_of_every_group_goes(name: str) -> None:
    torch.manual_seed(0)
    build, size = MODELS[name]
    model = stirred(build()).eval()
    before = sum(p.numel() for p in model.parameters())
    result = gp.prune(model, torch.randn(2, 3, size, size), target=gp.channels(0.5))
    assert result.report.proof is not None and result.report.proof.passed
    assert not result.report.unknown
    assert sum(p.numel() for p in result.model.parameters()) <= 0.42 * before
    assert sum(p.numel() for p in model.parameters()) == before, "the caller's model was changed"
    assert_trains(result.model, torch.randn(2, 3, size, size))


def stirred(model: nn.Module) -> nn.Module:
    """Statistics and scales that differ from channel to channel, as training leaves them."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)) and module.weight is not None:
                module.weight.uniform_(0.5, 1.5)
                module.bias.normal_(0, 0.3)
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.normal_(0, 0.1)
                module.running_var.uniform_(0.5, 1.5)
    return model


def assert_trains(model: nn.Module, x: torch.Tensor) -> None:
    """Gradients reach every parameter, and a step of SGD lowers the loss (statistics and dropout held still)."""
    model.eval()

    def loss() -> torch.Tensor:
        found: Any = model(x)
        return sum((y.float() - 1).square().mean() for y in (found.values() if isinstance(found, dict) else [found]))

    first = loss()
    first.backward()
    grads = [p.grad for p in model.parameters() if p.requires_grad]
    assert all(g is not None and torch.isfinite(g).all() for g in grads)
    norm = torch.sqrt(sum(g.square().sum() for g in grads))
    rate = float(first.detach()) * 1e-3 / float(norm) ** 2  # lowers the loss by a thousandth, to first order
    with torch.no_grad():
        for p in model.parameters():
            if p.grad is not None:
                p -= rate * p.grad
    assert loss() < first
    model.train()
    model(x)
