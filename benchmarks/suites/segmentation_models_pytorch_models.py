"""segmentation_models_pytorch: each decoder on one encoder, and one decoder on each family of encoders."""

from __future__ import annotations

import functools
import warnings
from types import ModuleType
from typing import Any

from torch import nn

from benchmarks import zoo

from . import tables

_DECODERS = (
    "Unet", "UnetPlusPlus", "MAnet", "Linknet", "FPN", "PSPNet", "DeepLabV3", "DeepLabV3Plus", "PAN", "UPerNet",
    "Segformer",
)  # fmt: skip
_ENCODERS = (
    "mobilenet_v2", "efficientnet-b0", "resnext50_32x4d", "se_resnet50", "densenet121",
    "vgg11_bn", "mobileone_s0", "mit_b0", "xception", "dpn68", "timm-regnetx_002", "timm-res2net50_26w_4s",
    "timm-skresnet18", "tu-convnext_atto", "tu-mobilenetv3_small_050",
)  # fmt: skip
_SIDE = 128  # PAN pools 32 x 8 pixels thrice


def names() -> list[str]:
    """Decoders on ResNet-18, then encoders under U-Net."""
    return [*(f"{decoder}+resnet18" for decoder in _DECODERS), *(f"Unet+{encoder}" for encoder in _ENCODERS)]


def build(name: str) -> tuple[nn.Module, Any]:
    """A segmentation network for three classes, and one picture."""
    decoder, _, encoder = name.partition("+")
    settings = {"encoder_name": encoder, "encoder_weights": None, "classes": 3}
    return tables.build(library(), (decoder, settings, lambda source: source.noise(1, 3, _SIDE, _SIDE)))


@functools.cache
def library() -> ModuleType:
    """The package."""
    warnings.filterwarnings("ignore")
    zoo.torchvision()
    import segmentation_models_pytorch as package

    return package
