"""vit-pytorch: one small model of each of its variants."""

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

_VIT = {"image_size": 32, "patch_size": 8, "num_classes": 10, "dim": 64, "depth": 2, "heads": 4, "mlp_dim": 128}
_HEAD = {"dim_head": 16}
_WIDE = {**_VIT, **_HEAD}


def _without(*names: str, **changed: Any) -> dict[str, Any]:
    return {key: value for key, value in {**_WIDE, **changed}.items() if key not in names}


def _picture(side: int) -> Inputs:
    return lambda source: source.noise(1, 3, side, side)


def _clip(source: Source) -> Any:
    return source.noise(1, 3, 4, 32, 32)


_TWINS = {f"s{stage}_{key}": value for stage, (wide, last) in enumerate(((32, 2), (32, 2), (64, 2), (64, 2)), 1)
    for key, value in {"emb_dim": wide, "patch_size": 4 if stage == 1 else last, "local_patch_size": 2 if stage < 4
    else 1, "global_k": 2 if stage < 4 else 1, "depth": 1}.items()}  # fmt: skip
_CVT = {f"s{stage}_{key}": value for stage, wide in enumerate((32, 32, 64), 1)
    for key, value in {"emb_dim": wide, "emb_kernel": 7 if stage == 1 else 3, "emb_stride": 4 if stage == 1 else 2,
    "proj_kernel": 3, "kv_proj_stride": 2, "heads": stage, "depth": 1, "mlp_mult": 2}.items()}  # fmt: skip

_ROWS: dict[str, tables.Row] = {
    "vit": ("vit.ViT", _WIDE, _picture(32)),
    "simple_vit": ("simple_vit.SimpleViT", _WIDE, _picture(32)),
    "registers": ("simple_vit_with_register_tokens.SimpleViT", _WIDE, _picture(32)),
    "qk_norm": ("simple_vit_with_qk_norm.SimpleViT", _WIDE, _picture(32)),

    "unet": ("simple_uvit.SimpleUViT", {**_WIDE, "depth": 3}, _picture(32)),
    "modern": ("vit_5.ViT", _WIDE, _picture(32)),
    "jumbo": ("jumbo_vit.JumboViT", {**_WIDE, "num_jumbo_cls": 1, "jumbo_cls_k": 2, "jumbo_ff_mult": 2},
        _picture(32)),

    "hyper_connections": ("simple_vit_with_hyper_connections.SimpleViT", {**_WIDE, "num_residual_streams": 2},
        _picture(32)),
    "value_residual": ("simple_vit_with_value_residual.SimpleViT", _WIDE, _picture(32)),
    "deep_vit": ("deepvit.DeepViT", _WIDE, _picture(32)),
    "cait": ("cait.CaiT", {**_WIDE, "cls_depth": 1}, _picture(32)),
    "t2t": ("t2t.T2TViT", {"image_size": 32, "num_classes": 10, "dim": 64, "depth": 2, "heads": 4, "mlp_dim": 128,
        "t2t_layers": ((3, 2), (3, 2))}, _picture(32)),
    "cct": ("cct.CCT", {"img_size": 32, "embedding_dim": 64, "n_conv_layers": 2, "kernel_size": 3, "stride": 2,
        "padding": 1, "pooling_kernel_size": 3, "pooling_stride": 2, "pooling_padding": 1, "num_layers": 2,
        "num_heads": 4, "mlp_ratio": 2, "num_classes": 10, "positional_embedding": "learnable"}, _picture(32)),
    "cross_vit": ("cross_vit.CrossViT", {"image_size": 32, "num_classes": 10, "depth": 1, "sm_dim": 32, "lg_dim": 64,
        "sm_patch_size": 8, "sm_enc_depth": 1, "sm_enc_heads": 4, "sm_enc_mlp_dim": 64, "sm_enc_dim_head": 16,
        "lg_patch_size": 16, "lg_enc_depth": 1, "lg_enc_heads": 4, "lg_enc_mlp_dim": 64, "lg_enc_dim_head": 16,
        "cross_attn_depth": 1, "cross_attn_heads": 4, "cross_attn_dim_head": 16}, _picture(32)),
    "pit": ("pit.PiT", {"image_size": 64, "patch_size": 8, "num_classes": 10, "dim": 32, "depth": (1, 1, 1),
        "heads": 4, "mlp_dim": 64, "dim_head": 8}, _picture(64)),
    "levit": ("levit.LeViT", {"image_size": 64, "num_classes": 10, "stages": 2, "dim": (32, 64), "depth": 1,
        "heads": (2, 4), "mlp_mult": 2, "dim_key": 16, "dim_value": 32}, _picture(64)),
    "cvt": ("cvt.CvT", {"num_classes": 10, **_CVT}, _picture(64)),
    "twins": ("twins_svt.TwinsSVT", {"num_classes": 10, **_TWINS}, _picture(64)),
    "cross_former": ("crossformer.CrossFormer", {"num_classes": 10, "dim": (32, 32, 64, 64), "depth": (1, 1, 1, 1),
        "global_window_size": (4, 2, 2, 1), "local_window_size": 2,
        "cross_embed_kernel_sizes": ((4, 8), (2, 4), (2, 4), (2, 4))}, _picture(64)),
    "region_vit": ("regionvit.RegionViT", {"dim": (32, 32, 64, 64), "depth": (1, 1, 1, 1), "window_size": 2,
        "num_classes": 10, "tokenize_local_3_conv": False, "use_peg": False}, _picture(64)),
    "scalable_vit": ("scalable_vit.ScalableViT", {"num_classes": 10, "dim": 32, "heads": (2, 4), "depth": (1, 1),
        "ssa_dim_key": (16, 16), "reduction_factor": (2, 1), "window_size": (4, 4)}, _picture(32)),
    "sep_vit": ("sep_vit.SepViT", {"num_classes": 10, "dim": 32, "depth": (1, 1), "heads": (2, 4), "dim_head": 16,
        "window_size": 7}, _picture(112)),
    "max_vit": ("max_vit.MaxViT", {"num_classes": 10, "dim_conv_stem": 16, "dim": 32, "dim_head": 16, "depth": (1, 1),
        "window_size": 4, "mbconv_expansion_rate": 2, "mbconv_shrinkage_rate": 0.25}, _picture(64)),
    "nest": ("nest.NesT", {"image_size": 32, "patch_size": 4, "dim": 32, "heads": 2, "num_hierarchies": 2,
        "block_repeats": (1, 1), "num_classes": 10}, _picture(32)),
    "mobile_vit": ("mobile_vit.MobileViT", {"image_size": (64, 64), "dims": [32, 48, 64],
        "channels": [16, 16, 24, 24, 32, 32, 48, 48, 64, 64, 128], "num_classes": 10}, _picture(64)),
    "xcit": ("xcit.XCiT", {**_WIDE, "cls_depth": 1, "local_patch_kernel_size": 3}, _picture(32)),
    "parallel": ("parallel_vit.ViT", {**_WIDE, "num_parallel_branches": 2}, _picture(32)),
    "small_dataset": ("vit_for_small_dataset.ViT", _WIDE, _picture(32)),
    "patch_dropout": ("vit_with_patch_dropout.ViT", {**_WIDE, "patch_dropout": 0.25}, _picture(32)),
    "patch_merger": ("vit_with_patch_merger.ViT", {**_WIDE, "patch_merge_layer": 1, "patch_merge_num_tokens": 4},
        _picture(32)),
    "rvt": ("rvt.RvT", _WIDE, _picture(32)),
    "look_vit": ("look_vit.LookViT", {"dim": 64, "image_size": 32, "num_classes": 10, "depth": 2, "patch_size": 8,
        "heads": 4, "mlp_factor": 2, "dim_head": 16, "highres_patch_size": 4, "highres_mlp_factor": 2,
        "cross_attn_heads": 4, "cross_attn_dim_head": 16, "patch_conv_kernel_size": 3}, _picture(32)),
    "ats": ("ats_vit.ViT", {**_WIDE, "max_tokens_per_depth": (16, 8)}, _picture(32)),
    "mlp_1d": ("vit_1d.ViT", {"seq_len": 32, **_without("image_size")}, lambda source: source.noise(1, 3, 32)),
    "vit_3d": ("vit_3d.ViT", {**_without("patch_size"), "image_patch_size": 8, "frames": 4, "frame_patch_size": 2},
        _clip),
    "vivit": ("vivit.ViViT", {**_without("patch_size", "depth"), "image_patch_size": 8, "frames": 4,
        "frame_patch_size": 2, "spatial_depth": 1, "temporal_depth": 1}, _clip),
    "fft": ("simple_vit_with_fft.SimpleViT", {**_WIDE, "freq_patch_size": 8}, _picture(32)),
    "learnable_memory": ("learnable_memory_vit.ViT", _WIDE, _picture(32)),
    "normalised": ("normalized_vit.nViT", _WIDE, _picture(32)),
    "decorrelation": ("vit_with_decorr.ViT", _WIDE, _picture(32)),
}  # fmt: skip


def names() -> list[str]:
    """All variants."""
    return list(_ROWS)


def build(name: str) -> tuple[nn.Module, Any]:
    """A model in evaluation mode and one random picture or clip."""
    path, settings, inputs = _ROWS[name]
    file, _, kind = path.partition(".")
    return tables.build(importlib.import_module(f"{library().__name__}.{file}"), (kind, settings, inputs))


@functools.cache
def library() -> ModuleType:
    """The package."""
    warnings.filterwarnings("ignore")
    zoo.torchvision()
    import vit_pytorch

    return vit_pytorch
