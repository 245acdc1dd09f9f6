"""diffusers' transformers over patches, frames and sound."""

from __future__ import annotations

from typing import Any

import torch

from .tables import Row, Source

_SMALL = {"num_attention_heads": 4, "attention_head_dim": 16, "num_layers": 2}
_LATENT = {"sample_size": 8, "patch_size": 2, "in_channels": 4}


def _latent(source: Source, channels: int = 4, text: int = 32) -> dict[str, Any]:
    return {
        "hidden_states": source.noise(1, channels, 8, 8),
        "encoder_hidden_states": source.noise(1, 7, text),
        "timestep": source.ids(1000, 1),
    }


def _classed(source: Source) -> dict[str, Any]:
    return {
        "hidden_states": source.noise(1, 4, 8, 8),
        "timestep": source.ids(1000, 1),
        "class_labels": source.ids(10, 1),
    }


def _pooled(source: Source) -> dict[str, Any]:
    return {**_latent(source), "pooled_projections": source.noise(1, 48)}


def _flux(source: Source) -> dict[str, Any]:
    ids = torch.cartesian_prod(torch.zeros(1), torch.arange(4.0), torch.arange(4.0))
    return {
        "hidden_states": source.noise(1, 16, 16),
        "encoder_hidden_states": source.noise(1, 7, 32),
        "pooled_projections": source.noise(1, 48),
        "timestep": source.noise(1).abs(),
        "img_ids": ids,
        "txt_ids": torch.zeros(7, 3),
    }


def _flux_guided(source: Source) -> dict[str, Any]:
    return {**_flux(source), "guidance": source.noise(1).abs()}


def _flux_controlled(source: Source) -> dict[str, Any]:
    return {**_flux(source), "controlnet_cond": source.noise(1, 16, 16)}


def _pixart(source: Source) -> dict[str, Any]:
    sizes = {"resolution": None, "aspect_ratio": None}
    return {**_latent(source), "added_cond_kwargs": sizes}


def _pixart_sized(source: Source) -> dict[str, Any]:
    sizes = {"resolution": source.noise(1, 2).abs(), "aspect_ratio": source.noise(1, 1).abs()}
    return {**_latent(source), "added_cond_kwargs": sizes}


def _hunyuan(source: Source) -> dict[str, Any]:
    cosines = source.noise(16, 16).cos(), source.noise(16, 16).sin()
    return {
        **_latent(source),
        "timestep": source.noise(1).abs(),
        "text_embedding_mask": torch.ones(1, 7),
        "encoder_hidden_states_t5": source.noise(1, 5, 40),
        "text_embedding_mask_t5": torch.ones(1, 5),
        "image_meta_size": source.noise(1, 6),
        "style": source.ids(1, 1),
        "image_rotary_emb": cosines,
    }


def _video(source: Source, channels: int = 4) -> dict[str, Any]:
    return {**_latent(source), "hidden_states": source.noise(1, channels, 3, 8, 8)}


def _cogvideo(source: Source) -> dict[str, Any]:
    return {**_latent(source), "hidden_states": source.noise(1, 3, 4, 8, 8)}


def _ltx(source: Source) -> dict[str, Any]:
    return {
        "hidden_states": source.noise(1, 2 * 4 * 4, 8),
        "encoder_hidden_states": source.noise(1, 7, 32),
        "timestep": source.ids(1000, 1),
        "encoder_attention_mask": torch.ones(1, 7).bool(),
        "num_frames": 2,
        "height": 4,
        "width": 4,
    }


def _mochi(source: Source) -> dict[str, Any]:
    return {**_video(source), "encoder_attention_mask": torch.ones(1, 7).bool()}


def _hunyuan_video(source: Source) -> dict[str, Any]:
    return {
        **_video(source),
        "encoder_attention_mask": torch.ones(1, 7),
        "pooled_projections": source.noise(1, 48),
        "guidance": source.noise(1).abs() * 1000,
    }


def _sound(source: Source) -> dict[str, Any]:
    return {
        "hidden_states": source.noise(1, 4, 8),
        "timestep": source.ids(1000, 1),
        "encoder_hidden_states": source.noise(1, 7, 32),
        "global_hidden_states": source.noise(1, 1, 32),
        "rotary_embedding": (source.noise(9, 8).cos(), source.noise(9, 8).sin()),
    }


def _prior(source: Source) -> dict[str, Any]:
    return {
        "hidden_states": source.noise(1, 48),
        "timestep": source.ids(1000, 1),
        "proj_embedding": source.noise(1, 48),
        "encoder_hidden_states": source.noise(1, 7, 48),
    }


def _tokens(source: Source) -> dict[str, Any]:
    return {
        "input_ids": source.ids(32, 1, 8, 8),
        "encoder_hidden_states": source.noise(1, 7, 32),
        "pooled_text_emb": source.noise(1, 32),
        "micro_conds": source.ids(64, 1, 5),
    }


def _lumina2(source: Source) -> dict[str, Any]:
    return {**_latent(source), "timestep": source.noise(1).abs(), "encoder_attention_mask": torch.ones(1, 7).bool()}


def _controlled(source: Source) -> dict[str, Any]:
    return {**_pooled(source), "controlnet_cond": source.noise(1, 4, 8, 8)}


_FLUX = {"in_channels": 16, "num_layers": 1, "num_single_layers": 2, "attention_head_dim": 16,
    "num_attention_heads": 4, "joint_attention_dim": 32, "pooled_projection_dim": 48,
    "axes_dims_rope": (4, 6, 6)}  # fmt: skip
_SD3 = {**_SMALL, **_LATENT, "joint_attention_dim": 32, "caption_projection_dim": 64, "pooled_projection_dim": 48,
    "out_channels": 4, "pos_embed_max_size": 12}  # fmt: skip
_PIXART = {**_SMALL, **_LATENT, "cross_attention_dim": 64, "caption_channels": 32, "out_channels": 8,
    "norm_type": "ada_norm_single"}  # fmt: skip
_2D = {**_SMALL, **_LATENT, "norm_num_groups": 4}

ROWS: dict[str, Row] = {
    "dit": ("DiTTransformer2DModel", {**_SMALL, **_LATENT, "out_channels": 8, "num_embeds_ada_norm": 10}, _classed),
    "pixart": ("PixArtTransformer2DModel", {**_PIXART, "use_additional_conditions": False}, _pixart),
    "pixart_sized": ("PixArtTransformer2DModel", {**_PIXART, "attention_head_dim": 24, "cross_attention_dim": 96,
        "use_additional_conditions": True}, _pixart_sized),
    "sd3": ("SD3Transformer2DModel", _SD3, _pooled),
    "sd35": ("SD3Transformer2DModel", {**_SD3, "qk_norm": "rms_norm", "dual_attention_layers": (0,)}, _pooled),
    "sd3_controlnet": ("SD3ControlNetModel", _SD3, _controlled),
    "flux": ("FluxTransformer2DModel", _FLUX, _flux),
    "flux_guided": ("FluxTransformer2DModel", {**_FLUX, "guidance_embeds": True}, _flux_guided),
    "flux_controlnet": ("FluxControlNetModel", _FLUX, _flux_controlled),
    "sana": ("SanaTransformer2DModel", {"in_channels": 4, "out_channels": 4, "num_attention_heads": 4,
        "attention_head_dim": 16, "num_layers": 2, "num_cross_attention_heads": 4, "cross_attention_head_dim": 16,
        "cross_attention_dim": 64, "caption_channels": 32, "sample_size": 8}, _latent),
    "hunyuan_dit": ("HunyuanDiT2DModel", {**_LATENT, "num_attention_heads": 4, "attention_head_dim": 16,
        "num_layers": 4, "hidden_size": 64, "cross_attention_dim": 32, "cross_attention_dim_t5": 40,
        "pooled_projection_dim": 40, "text_len": 7, "text_len_t5": 5}, _hunyuan),
    "aura_flow": ("AuraFlowTransformer2DModel", {**_LATENT, "num_mmdit_layers": 1, "num_single_dit_layers": 2,
        "attention_head_dim": 16, "num_attention_heads": 4, "joint_attention_dim": 32, "caption_projection_dim": 64,
        "out_channels": 4, "pos_embed_max_size": 16}, _latent),
    "lumina2": ("Lumina2Transformer2DModel", {**_LATENT, "hidden_size": 64, "num_layers": 2, "num_refiner_layers": 1,
        "num_attention_heads": 4, "num_kv_heads": 2, "multiple_of": 16, "axes_dim_rope": (4, 6, 6),
        "axes_lens": (16, 16, 16), "cap_feat_dim": 32}, _lumina2),
    "cogvideo": ("CogVideoXTransformer3DModel", {**_SMALL, "in_channels": 4, "out_channels": 4, "time_embed_dim": 32,
        "text_embed_dim": 32, "sample_width": 8, "sample_height": 8, "sample_frames": 9, "patch_size": 2,
        "temporal_compression_ratio": 4, "max_text_seq_length": 7}, _cogvideo),
    "ltx_video": ("LTXVideoTransformer3DModel", {**_SMALL, "in_channels": 8, "out_channels": 8,
        "cross_attention_dim": 64, "caption_channels": 32}, _ltx),
    "wan": ("WanTransformer3DModel", {**_SMALL, "patch_size": (1, 2, 2), "in_channels": 4, "out_channels": 4,
        "text_dim": 32, "freq_dim": 64, "ffn_dim": 96, "rope_max_seq_len": 32}, _video),
    "mochi": ("MochiTransformer3DModel", {**_SMALL, "patch_size": 2, "in_channels": 4, "pooled_projection_dim": 48,
        "text_embed_dim": 32, "time_embed_dim": 16, "max_sequence_length": 7}, _mochi),
    "hunyuan_video": ("HunyuanVideoTransformer3DModel", {"in_channels": 4, "out_channels": 4, "num_attention_heads": 4,
        "attention_head_dim": 16, "num_layers": 1, "num_single_layers": 1, "num_refiner_layers": 1, "patch_size": 2,
        "patch_size_t": 1, "text_embed_dim": 32, "pooled_projection_dim": 48, "rope_axes_dim": (4, 6, 6),
        "guidance_embeds": True}, _hunyuan_video),
    "latte": ("LatteTransformer3DModel", {**_SMALL, **_LATENT, "out_channels": 8, "cross_attention_dim": 64,
        "caption_channels": 32, "norm_type": "ada_norm_single", "video_length": 3}, _video),
    "stable_audio": ("StableAudioDiTModel", {"sample_size": 8, "in_channels": 4, "out_channels": 4, "num_layers": 2,
        "attention_head_dim": 16, "num_attention_heads": 4, "num_key_value_attention_heads": 2,
        "cross_attention_dim": 32, "time_proj_dim": 8, "global_states_input_dim": 32,
        "cross_attention_input_dim": 32}, _sound),
    "prior": ("PriorTransformer", {**_SMALL, "embedding_dim": 48, "num_embeddings": 7, "additional_embeddings": 4},
        _prior),
    "uvit": ("UVit2DModel", {"hidden_size": 32, "cond_embed_dim": 32, "micro_cond_encode_dim": 8,
        "micro_cond_embed_dim": 40, "encoder_hidden_size": 32, "vocab_size": 33, "codebook_size": 32,
        "in_channels": 32, "block_out_channels": 32, "num_res_blocks": 1, "num_hidden_layers": 1,
        "num_attention_heads": 4, "block_num_heads": 4, "intermediate_size": 64, "sample_size": 8}, _tokens),
    "transformer_2d": ("Transformer2DModel", {**_2D, "in_channels": 32, "patch_size": None, "cross_attention_dim": 32},
        lambda source: {"hidden_states": source.noise(1, 32, 8, 8), "encoder_hidden_states": source.noise(1, 7, 32)}),
}  # fmt: skip
