"""monai: networks over volumes and slices, for segmentation, classification, registration and generation."""

from __future__ import annotations

import functools
import importlib
import warnings
from types import ModuleType
from typing import Any

from torch import nn

from benchmarks import zoo

from . import tables
from .tables import Inputs, Source

_3D = {"spatial_dims": 3, "in_channels": 1, "out_channels": 2}
_2D = {"spatial_dims": 2, "in_channels": 1, "out_channels": 2}
_CLASSES = {"spatial_dims": 3, "in_channels": 1, "num_classes": 3}
_VIT = {"hidden_size": 64, "mlp_dim": 128, "num_heads": 4}
_LATENT = {"channels": (16, 32), "num_res_blocks": 1, "norm_num_groups": 4, "attention_levels": (False, True)}


def _volume(side: int = 32, channels: int = 1, batch: int = 1) -> Inputs:
    return lambda source: source.noise(batch, channels, side, side, side)


def _slice(side: int = 64, channels: int = 1) -> Inputs:
    return lambda source: source.noise(1, channels, side, side)


def _noised(source: Source) -> Any:
    return {"x": source.noise(1, 1, 16, 16), "timesteps": source.ids(1000, 1)}


def _noised_text(source: Source) -> Any:
    return {**_noised(source), "context": source.noise(1, 5, 24)}


def _controlled(source: Source) -> Any:
    return {**_noised(source), "controlnet_cond": source.noise(1, 1, 32, 32)}


def _labelled(source: Source) -> Any:
    return source.noise(1, 1, 32, 32), source.noise(1, 3, 32, 32)


_ROWS: dict[str, tables.Row] = {
    "UNet": ("UNet", {**_3D, "channels": (8, 16, 32), "strides": (2, 2), "num_res_units": 2}, _volume()),
    "UNet_2d": ("UNet", {**_2D, "channels": (16, 32, 64), "strides": (2, 2), "norm": "batch"}, _slice()),
    "AttentionUnet": ("AttentionUnet", {**_3D, "channels": (8, 16, 32), "strides": (2, 2)}, _volume()),
    "BasicUNet": ("BasicUNet", {**_3D, "features": (8, 8, 16, 32, 64, 8)}, _volume()),
    "BasicUNetPlusPlus": ("BasicUNetPlusPlus", {**_2D, "features": (16, 16, 32, 32, 64, 16)}, _slice()),
    "FlexibleUNet": ("FlexibleUNet", {"in_channels": 3, "out_channels": 2, "backbone": "efficientnet-b0"},
        _slice(64, 3)),
    "DynUNet": ("DynUNet", {**_3D, "kernel_size": [3, 3, 3], "strides": [1, 2, 2], "upsample_kernel_size": [2, 2],
        "filters": [8, 16, 32], "res_block": True, "deep_supervision": True, "deep_supr_num": 1}, _volume()),
    "VNet": ("VNet", {**_2D, "in_channels": 1}, _slice()),
    "SegResNet": ("SegResNet", {**_3D, "init_filters": 8, "blocks_down": (1, 2, 2), "blocks_up": (1, 1)}, _volume()),
    "SegResNetDS": ("SegResNetDS", {**_3D, "init_filters": 8, "blocks_down": (1, 2, 2), "dsdepth": 2}, _volume()),
    "SegResNetVAE": ("SegResNetVAE", {**_3D, "input_image_size": (32, 32, 32), "init_filters": 8,
        "vae_estimate_std": False, "blocks_down": (1, 2, 2), "blocks_up": (1, 1)}, _volume()),
    "UNETR": ("UNETR", {"in_channels": 1, "out_channels": 2, "img_size": 32, "feature_size": 8, "hidden_size": 48,
        "mlp_dim": 96, "num_heads": 4, "spatial_dims": 2}, _slice(32)),
    "SwinUNETR": ("SwinUNETR", {**_2D, "feature_size": 12, "depths": (1, 1, 1, 1), "num_heads": (2, 2, 4, 4)},
        _slice()),
    "SwinUNETR_v2": ("SwinUNETR", {**_3D, "feature_size": 12, "depths": (1, 1, 1, 1), "num_heads": (2, 2, 4, 4),
        "use_v2": True}, _volume(64)),
    "MedNeXt": ("MedNeXt", {**_3D, "init_filters": 8, "encoder_expansion_ratio": (2, 2),
        "decoder_expansion_ratio": (2, 2), "bottleneck_expansion_ratio": 2, "blocks_down": (1, 1),
        "blocks_bottleneck": 1, "blocks_up": (1, 1)}, _volume()),
    "HighResNet": ("HighResNet", _3D, _volume(16)),
    "AHNet": ("AHNet", {"spatial_dims": 2, "in_channels": 1, "out_channels": 2, "upsample_mode": "transpose"},
        _slice(128)),
    "DAF3D": ("DAF3D", {"in_channels": 1, "out_channels": 2}, _volume()),
    "HoVerNet": ("HoVerNet", {"mode": "fast", "in_channels": 3, "out_classes": 3}, _slice(256, 3)),
    "Quicknat": ("Quicknat", {"num_channels": 1, "num_filters": 16, "num_classes": 3, "se_block": "CSE"}, _slice()),
    "ViTAutoEnc": ("ViTAutoEnc", {**_VIT, "in_channels": 1, "img_size": (32, 32),
        "patch_size": (4, 4), "num_layers": 2, "spatial_dims": 2, "deconv_chns": 16}, _slice(32)),
    "ViT": ("ViT", {**_VIT, "in_channels": 1, "img_size": (16, 16, 16), "patch_size": (8, 8, 8), "num_layers": 2,
        "classification": True, "num_classes": 3}, _volume(16)),
    "ResNet": ("ResNet", {"block": "basic", "layers": [1, 1, 1, 1], "block_inplanes": [8, 16, 32, 64],
        "n_input_channels": 1, "num_classes": 3}, _volume()),
    "DenseNet": ("DenseNet", {**_3D, "init_features": 16, "growth_rate": 8, "block_config": (2, 2)}, _volume()),
    "SENet": ("SENet", {"spatial_dims": 2, "in_channels": 3, "block": "se_resnetxt_bottleneck", "layers": (1, 1, 1, 1),
        "groups": 32, "reduction": 16, "inplanes": 64, "downsample_kernel_size": 1, "input_3x3": False,
        "dropout_prob": None, "num_classes": 3}, _slice(64, 3)),
    "EfficientNetBN": ("EfficientNetBN", {**_CLASSES, "model_name": "efficientnet-b0", "pretrained": False},
        _volume(32)),
    "Classifier": ("Classifier", {"in_shape": (1, 32, 32), "classes": 3, "channels": (8, 16), "strides": (2, 2)},
        _slice(32)),
    "Regressor": ("Regressor", {"in_shape": (1, 32, 32), "out_shape": (3,), "channels": (8, 16), "strides": (2, 2)},
        _slice(32)),
    "Generator": ("Generator", {"latent_shape": (16,), "start_shape": (32, 4, 4), "channels": (16, 1),
        "strides": (2, 2)}, lambda source: source.noise(1, 16)),
    "PatchDiscriminator": ("PatchDiscriminator", {"spatial_dims": 2, "channels": 16, "in_channels": 1,
        "num_layers_d": 3}, _slice()),
    "AutoEncoder": ("AutoEncoder", {**_2D, "out_channels": 1, "channels": (8, 16), "strides": (2, 2)}, _slice(32)),
    "VarAutoEncoder": ("VarAutoEncoder", {"spatial_dims": 2, "in_shape": (1, 32, 32), "out_channels": 1,
        "latent_size": 8, "channels": (8, 16), "strides": (2, 2)}, _slice(32)),
    "VQVAE": ("VQVAE", {"spatial_dims": 2, "in_channels": 1, "out_channels": 1, "channels": (16, 32),
        "num_res_channels": (16, 32), "num_res_layers": 1, "downsample_parameters": ((2, 4, 1, 1),) * 2,
        "upsample_parameters": ((2, 4, 1, 1, 0),) * 2, "num_embeddings": 16, "embedding_dim": 8}, _slice(32)),
    "AutoencoderKL": ("AutoencoderKL", {"spatial_dims": 2, "in_channels": 1, "out_channels": 1, "latent_channels": 4,
        **_LATENT, "num_res_blocks": (1, 1)}, _slice(32)),
    "DiffusionModelUNet": ("DiffusionModelUNet", {"spatial_dims": 2, "in_channels": 1, "out_channels": 1, **_LATENT,
        "num_head_channels": 8}, _noised),
    "DiffusionModelUNet_text": ("DiffusionModelUNet", {"spatial_dims": 2, "in_channels": 1, "out_channels": 1,
        **_LATENT, "num_head_channels": 8, "with_conditioning": True, "cross_attention_dim": 24}, _noised_text),
    "ControlNet": ("ControlNet", {"spatial_dims": 2, "in_channels": 1, **_LATENT, "num_head_channels": 8,
        "conditioning_embedding_in_channels": 1, "conditioning_embedding_num_channels": (16, 32)}, _controlled),
    "SPADEAutoencoderKL": ("SPADEAutoencoderKL", {"spatial_dims": 2, "label_nc": 3, "in_channels": 1,
        "out_channels": 1, "latent_channels": 4, **_LATENT, "num_res_blocks": (1, 1)}, _labelled),
    "RegUNet": ("RegUNet", {"spatial_dims": 2, "in_channels": 2, "num_channel_initial": 8, "depth": 2,
        "out_channels": 2}, _slice(32, 2)),
    "LocalNet": ("LocalNet", {"spatial_dims": 2, "in_channels": 2, "num_channel_initial": 8,
        "extract_levels": (0, 1, 2), "out_channels": 2, "out_kernel_initializer": "kaiming_uniform",
        "out_activation": None}, _slice(32, 2)),
    "MILModel": ("MILModel", {"num_classes": 3, "pretrained": False, "mil_mode": "att_trans",
        "backbone": "resnet18"}, lambda source: source.noise(1, 2, 3, 64, 64)),
    "DecoderOnlyTransformer": ("DecoderOnlyTransformer", {"num_tokens": 30, "max_seq_len": 16,
        "attn_layers_dim": 64, "attn_layers_depth": 2, "attn_layers_heads": 4}, lambda source: source.ids(30, 1, 12)),
}  # fmt: skip


def names() -> list[str]:
    """All networks."""
    return list(_ROWS)


def build(name: str) -> tuple[nn.Module, Any]:
    """A model in evaluation mode and example inputs."""
    return tables.build(library(), _ROWS[name])


@functools.cache
def library() -> ModuleType:
    """The package's networks."""
    warnings.filterwarnings("ignore")
    zoo.torchvision()
    return importlib.import_module("monai.networks.nets")
