"""diffusers' UNets, control nets and adapters."""

from __future__ import annotations

from typing import Any

from .tables import Row, Source

_TWO = {"block_out_channels": (64, 128), "norm_num_groups": 8, "layers_per_block": 1}
_CROSS = {
    **_TWO,
    "sample_size": 16,
    "in_channels": 4,
    "down_block_types": ("CrossAttnDownBlock2D", "DownBlock2D"),
    "cross_attention_dim": 48,
    "attention_head_dim": 4,
}
_CROSS_UNET = {**_CROSS, "out_channels": 4, "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}
_XL = {
    "use_linear_projection": True,
    "transformer_layers_per_block": (2, 2),
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 80,
}
_CONTROL = {key: value for key, value in _CROSS.items() if key != "sample_size"}
_VIDEO_DOWN = ("CrossAttnDownBlock3D", "DownBlock3D")
_VIDEO_UP = ("UpBlock3D", "CrossAttnUpBlock3D")


def _picture(source: Source) -> dict[str, Any]:
    return {"sample": source.noise(1, 3, 16, 16), "timestep": source.ids(1000, 1)}


def _latent(source: Source) -> dict[str, Any]:
    states = source.noise(1, 7, 48)
    return {"sample": source.noise(1, 4, 16, 16), "timestep": source.ids(1000, 1), "encoder_hidden_states": states}


def _latent_xl(source: Source) -> dict[str, Any]:
    added = {"text_embeds": source.noise(1, 32), "time_ids": source.noise(1, 6)}
    return {**_latent(source), "added_cond_kwargs": added}


def _classed(source: Source) -> dict[str, Any]:
    return {**_picture(source), "class_labels": source.ids(10, 1)}


def _controlled(source: Source) -> dict[str, Any]:
    return {**_latent(source), "controlnet_cond": source.noise(1, 3, 128, 128)}


def _video(source: Source) -> dict[str, Any]:
    return {**_latent(source), "sample": source.noise(1, 4, 4, 16, 16)}


def _frames(source: Source) -> dict[str, Any]:
    return {
        "sample": source.noise(1, 2, 8, 16, 16),
        "timestep": source.ids(1000, 1),
        "encoder_hidden_states": source.noise(1, 1, 48),
        "added_time_ids": source.noise(1, 3),
    }


def _sound(source: Source) -> dict[str, Any]:
    return {"sample": source.noise(1, 14, 16), "timestep": source.ids(1000, 1)}


def _cascade(source: Source) -> dict[str, Any]:
    return {
        "sample": source.noise(1, 4, 8, 8),
        "timestep_ratio": source.noise(1).abs(),
        "clip_text_pooled": source.noise(1, 1, 32),
    }


ROWS: dict[str, Row] = {
    "unet": ("UNet2DModel", {**_TWO, "sample_size": 16, "attention_head_dim": 8,
        "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "UpBlock2D")}, _picture),
    "unet_scale_shift": ("UNet2DModel", {**_TWO, "sample_size": 16, "attention_head_dim": 8,
        "resnet_time_scale_shift": "scale_shift", "num_class_embeds": 10,
        "down_block_types": ("ResnetDownsampleBlock2D", "AttnDownBlock2D"),
        "up_block_types": ("AttnUpBlock2D", "ResnetUpsampleBlock2D")}, _classed),
    "unet_skip": ("UNet2DModel", {**_TWO, "sample_size": 16, "attention_head_dim": 8,
        "norm_num_groups": 32, "time_embedding_type": "fourier",
        "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D"),
        "up_block_types": ("AttnSkipUpBlock2D", "SkipUpBlock2D")}, _picture),
    "unet_text": ("UNet2DConditionModel", _CROSS_UNET, _latent),
    "unet_text_linear": ("UNet2DConditionModel", {**_CROSS_UNET, "use_linear_projection": True}, _latent),
    "unet_text_xl": ("UNet2DConditionModel", {**_CROSS_UNET, **_XL}, _latent_xl),
    "unet_text_simple": ("UNet2DConditionModel", {**_CROSS_UNET, "resnet_time_scale_shift": "scale_shift",
        "attention_head_dim": 8, "mid_block_type": "UNetMidBlock2DSimpleCrossAttn",
        "down_block_types": ("SimpleCrossAttnDownBlock2D", "ResnetDownsampleBlock2D"),
        "up_block_types": ("ResnetUpsampleBlock2D", "SimpleCrossAttnUpBlock2D")}, _latent),
    "unet_video": ("UNet3DConditionModel", {**_CROSS_UNET, "down_block_types": _VIDEO_DOWN,
        "attention_head_dim": 8, "up_block_types": _VIDEO_UP}, _video),
    "unet_frames": ("UNetSpatioTemporalConditionModel", {"sample_size": 16, "block_out_channels": (32, 64),
        "layers_per_block": 1, "num_attention_heads": (2, 4), "cross_attention_dim": 48, "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 24,
        "down_block_types": ("CrossAttnDownBlockSpatioTemporal", "DownBlockSpatioTemporal"),
        "up_block_types": ("UpBlockSpatioTemporal", "CrossAttnUpBlockSpatioTemporal")}, _frames),
    "unet_1d": ("UNet1DModel", {"block_out_channels": (32, 64), "layers_per_block": 1, "in_channels": 14,
        "out_channels": 14, "time_embedding_type": "positional", "use_timestep_embedding": True,
        "out_block_type": "OutConv1DBlock", "flip_sin_to_cos": False, "freq_shift": 1.0, "act_fn": "swish",
        "mid_block_type": "MidResTemporalBlock1D",
        "down_block_types": ("DownResnetBlock1D", "DownResnetBlock1D"),
        "up_block_types": ("UpResnetBlock1D",)}, _sound),
    "unet_cascade": ("models.StableCascadeUNet", {"block_out_channels": (32, 64), "num_attention_heads": (0, 4),
        "down_num_layers_per_block": (1, 1), "up_num_layers_per_block": (1, 1), "in_channels": 4, "out_channels": 4,
        "conditioning_dim": 32, "down_blocks_repeat_mappers": (1, 1), "up_blocks_repeat_mappers": (1, 1),
        "block_types_per_layer": (("SDCascadeResBlock", "SDCascadeTimestepBlock"),
            ("SDCascadeResBlock", "SDCascadeTimestepBlock", "SDCascadeAttnBlock")),
        "clip_text_pooled_in_channels": 32, "clip_seq": 2, "timestep_ratio_embedding_dim": 16,
        "switch_level": (False,)}, _cascade),
    "controlnet": ("ControlNetModel", _CONTROL, _controlled),
    "adapter": ("T2IAdapter", {"channels": (32, 64, 64, 64), "num_res_blocks": 1, "downscale_factor": 8},
        lambda source: source.noise(1, 3, 64, 64)),
    "adapter_xl": ("T2IAdapter", {"channels": (32, 64, 64, 64), "num_res_blocks": 1, "downscale_factor": 16,
        "adapter_type": "full_adapter_xl"}, lambda source: source.noise(1, 3, 64, 64)),
}  # fmt: skip
