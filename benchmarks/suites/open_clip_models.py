"""open_clip: two-tower models with each kind of vision and text tower."""

from __future__ import annotations

import functools
import warnings
from types import ModuleType
from typing import Any

from torch import nn

from benchmarks import zoo

from . import tables

_VIT = {"image_size": 32, "layers": 2, "width": 64, "head_width": 16, "patch_size": 8}
_TEXT = {"context_length": 16, "vocab_size": 100, "width": 64, "heads": 4, "layers": 2}


def _pair(side: int) -> tables.Inputs:
    return lambda source: {"image": source.noise(1, 3, side, side), "text": source.ids(100, 1, 16)}


def _clip(vision: dict[str, Any], text: dict[str, Any] | None = None, kind: str = "CLIP") -> tables.Row:
    towers = {"vision_cfg": {**_VIT, **vision}, "text_cfg": {**_TEXT, **(text or {})}}
    return kind, {"embed_dim": 48, **towers}, _pair(towers["vision_cfg"]["image_size"])


_ROWS: dict[str, tables.Row] = {
    "vit": _clip({}),
    "vit_quick": ("CLIP", {**_clip({})[1], "quick_gelu": True}, _pair(32)),
    "vit_pooled": _clip({"pool_type": "avg", "final_ln_after_pool": True}),
    "vit_attentional": _clip({"attentional_pool": True, "attn_pooler_heads": 4, "attn_pooler_queries": 8}),
    "vit_layer_scale": _clip({"ls_init_value": 0.1}),
    "vit_narrow": _clip({"mlp_ratio": 2.0, "no_ln_pre": True}),
    "resnet": _clip({"layers": (1, 1, 1, 1), "width": 16, "head_width": 16, "image_size": 64, "patch_size": None}),
    "siglip_like": _clip({"timm_model_name": "vit_tiny_patch16_224", "image_size": 224, "timm_pool": "map",
        "timm_proj": "none", "timm_model_pretrained": False}, {"no_causal_mask": True, "pool_type": "last",
        "proj_bias": True}, "CustomTextCLIP"),
    "convnext": _clip({"timm_model_name": "convnext_atto", "timm_pool": "", "timm_proj": "linear",
        "timm_model_pretrained": False}),
    "convnext_mlp": _clip({"timm_model_name": "convnext_atto", "timm_pool": "", "timm_proj": "mlp",
        "timm_model_pretrained": False}),
    "mobileclip_like": _clip({"timm_model_name": "fastvit_t8", "image_size": 64, "timm_pool": "avg", "timm_proj": None,
        "timm_model_pretrained": False}, {"no_causal_mask": True}, "CustomTextCLIP"),
    "custom_text": _clip({}, {"embed_cls": True}, "CustomTextCLIP"),
    "text_argmax": _clip({}, {"pool_type": "argmax", "ls_init_value": 0.1}, "CustomTextCLIP"),
    "text_last": _clip({}, {"pool_type": "last", "no_causal_mask": True}, "CustomTextCLIP"),
    "coca": ("CoCa", {"embed_dim": 64, "vision_cfg": {**_VIT, "attentional_pool": True, "attn_pooler_heads": 4,
        "attn_pooler_queries": 8, "output_tokens": True}, "text_cfg": {**_TEXT, "embed_cls": True,
        "output_tokens": True}, "multimodal_cfg": {**_TEXT, "mlp_ratio": 4, "dim_head": 16, "n_queries": 8}},
        _pair(32)),
}  # fmt: skip


def names() -> list[str]:
    """All towers."""
    return list(_ROWS)


def build(name: str) -> tuple[nn.Module, Any]:
    """A model in evaluation mode and a picture with a text."""
    return tables.build(library(), _ROWS[name])


@functools.cache
def library() -> ModuleType:
    """The package."""
    warnings.filterwarnings("ignore")
    zoo.torchvision()
    import open_clip

    return open_clip
