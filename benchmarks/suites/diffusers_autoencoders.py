"""diffusers' autoencoders of pictures, video and sound."""

from __future__ import annotations

from typing import Any

from .tables import Inputs, Row, Source

_FOUR_D = {"down_block_types": ("DownEncoderBlock2D",) * 2, "up_block_types": ("UpDecoderBlock2D",) * 2}
_TWO = {"block_out_channels": (32, 64), "norm_num_groups": 8, "latent_channels": 4}


def _sample(*shape: int) -> Inputs:
    def made(source: Source) -> Any:
        return {"sample": source.noise(*shape)}

    return made


_PICTURE, _VIDEO = _sample(1, 3, 32, 32), _sample(1, 3, 9, 16, 16)

ROWS: dict[str, Row] = {
    "vae": ("AutoencoderKL", {**_TWO, **_FOUR_D}, _PICTURE),
    "vae_deep": ("AutoencoderKL", {**_TWO, "layers_per_block": 2, "block_out_channels": (32, 64, 64),
        "use_quant_conv": False, "use_post_quant_conv": False, "latent_channels": 16,
        "down_block_types": ("DownEncoderBlock2D",) * 3, "up_block_types": ("UpDecoderBlock2D",) * 3}, _PICTURE),
    "vae_asymmetric": ("AsymmetricAutoencoderKL", {"down_block_out_channels": (32, 64), "norm_num_groups": 8,
        "layers_per_down_block": 1, "up_block_out_channels": (32, 64), "layers_per_up_block": 1, **_FOUR_D}, _PICTURE),
    "vae_tiny": ("AutoencoderTiny", {"encoder_block_out_channels": (32, 32), "decoder_block_out_channels": (32, 32),
        "num_encoder_blocks": (1, 2), "num_decoder_blocks": (2, 1)}, _PICTURE),
    "vae_frames": ("AutoencoderKLTemporalDecoder", {"block_out_channels": (32, 64), "latent_channels": 4,
        "down_block_types": ("DownEncoderBlock2D",) * 2, "layers_per_block": 1},
        lambda source: {"sample": source.noise(2, 3, 16, 16), "num_frames": 2}),
    "vae_deep_compression": ("AutoencoderDC", {"latent_channels": 4, "attention_head_dim": 8,
        "encoder_block_types": ("ResBlock", "EfficientViTBlock"),
        "decoder_block_types": ("ResBlock", "EfficientViTBlock"),
        "encoder_block_out_channels": (32, 64), "decoder_block_out_channels": (32, 64), "encoder_qkv_multiscales":
        ((), (5,)), "decoder_qkv_multiscales": ((), (5,)), "encoder_layers_per_block": (1, 1),
        "decoder_layers_per_block": (1, 1), "downsample_block_type": "pixel_unshuffle",
        "decoder_norm_types": ("rms_norm",) * 2, "decoder_act_fns": ("silu",) * 2}, _PICTURE),
    "vae_sound": ("AutoencoderOobleck", {"encoder_hidden_size": 16, "downsampling_ratios": [1, 2, 4],
        "decoder_channels": 16, "decoder_input_channels": 8, "audio_channels": 2, "channel_multiples": [1, 2, 4]},
        _sample(1, 2, 64)),
    "vq": ("VQModel", {"block_out_channels": (32, 64), "norm_num_groups": 8, "latent_channels": 4,
        "num_vq_embeddings": 32, **_FOUR_D}, _PICTURE),
    "vae_cogvideo": ("AutoencoderKLCogVideoX", {"block_out_channels": (16, 16, 32, 32), "layers_per_block": 1,
        "norm_num_groups": 4, "latent_channels": 4, "temporal_compression_ratio": 4,
        "down_block_types": ("CogVideoXDownBlock3D",) * 4, "up_block_types": ("CogVideoXUpBlock3D",) * 4}, _VIDEO),
    "vae_ltx": ("AutoencoderKLLTXVideo", {"latent_channels": 8, "block_out_channels": (16, 16, 32, 32),
        "decoder_block_out_channels": (16, 16, 32, 32), "layers_per_block": (1,) * 5,
        "decoder_layers_per_block": (1,) * 5, "patch_size": 1, "encoder_causal": True}, _VIDEO),
    "vae_hunyuan_video": ("AutoencoderKLHunyuanVideo", {"latent_channels": 4, "block_out_channels": (16, 16, 32, 32),
        "layers_per_block": 1, "norm_num_groups": 4}, _VIDEO),
    "vae_mochi": ("AutoencoderKLMochi", {"latent_channels": 4, "encoder_block_out_channels": (32,) * 4,
        "decoder_block_out_channels": (32,) * 4, "layers_per_block": (1,) * 5, "out_channels": 3,
        "in_channels": 15}, _sample(1, 3, 7, 16, 16)),
    "vae_wan": ("AutoencoderKLWan", {"base_dim": 16, "z_dim": 4, "dim_mult": [1, 1, 1, 1], "num_res_blocks": 1,
        "temperal_downsample": [False, True, True]}, _VIDEO),
}  # fmt: skip
