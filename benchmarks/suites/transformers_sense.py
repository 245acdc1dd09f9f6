"""Small configurations of transformers' models for pictures, sound, several senses at once, and time series."""

from __future__ import annotations

from typing import Any

from .transformers_text import Entry

_ENCODER = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128}
_VISION = {**_ENCODER, "image_size": 32, "patch_size": 8, "num_labels": 10}
_WINDOWS = {
    "image_size": 32, "patch_size": 2, "embed_dim": 32, "depths": [2, 2], "num_heads": [2, 4], "window_size": 4,
    "num_labels": 10, "encoder_stride": 4,
}  # fmt: skip
_STAGES = {"hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "num_labels": 10}
_PYRAMID = {
    "hidden_sizes": [16, 32, 48, 64], "depths": [1, 1, 1, 1], "num_attention_heads": [2, 2, 4, 4],
    "mlp_ratios": [2, 2, 2, 2], "num_labels": 10,
}  # fmt: skip
_SOUND = {
    **_ENCODER, "vocab_size": 32, "conv_dim": [32, 32, 32], "conv_stride": [5, 2, 2], "conv_kernel": [10, 3, 3],
    "num_feat_extract_layers": 3, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4,
    "mask_time_prob": 0.0, "apply_spec_augment": False, "layerdrop": 0.0,
}  # fmt: skip
_TEXT = {
    **_ENCODER, "vocab_size": 128, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1,
    "eos_token_id": 2,
}  # fmt: skip
_PICTURE = {**_ENCODER, "image_size": 32, "patch_size": 8}
_SERIES = {"context_length": 32, "num_input_channels": 3, "patch_length": 4, "patch_stride": 4, "prediction_length": 8}


def _vision(name: str, task: str = "ImageClassification", inputs: str = "picture", **settings: Any) -> Entry:
    return f"{name}For{task}", f"{name}Config", {**_VISION, **settings}, inputs


def _other(name: str, task: str, family: dict[str, Any], inputs: str = "picture", **settings: Any) -> Entry:
    return f"{name}For{task}", f"{name}Config", {**family, **settings}, inputs


VISION: dict[str, Entry] = {
    "vit": _vision("ViT"),
    "deit": _vision("DeiT"),
    "beit": _vision("Beit", use_relative_position_bias=True, layer_scale_init_value=0.1),
    "data2vec_vision": _vision("Data2VecVision", use_shared_relative_position_bias=True),
    "swin": _other("Swin", "ImageClassification", _WINDOWS),
    "swinv2": _other("Swinv2", "ImageClassification", _WINDOWS, pretrained_window_sizes=[0, 0]),
    "dinov2": _vision("Dinov2", mlp_ratio=2),
    "dinov2_registers": _vision("Dinov2WithRegisters", mlp_ratio=2, use_swiglu_ffn=True),
    "convnext": _other("ConvNext", "ImageClassification", _STAGES, "picture64"),
    "convnextv2": _other("ConvNextV2", "ImageClassification", _STAGES, "picture64"),
    "resnet": _other("ResNet", "ImageClassification", _STAGES, "picture64", embedding_size=16),
    "regnet": _other("RegNet", "ImageClassification", _STAGES, "picture64", embedding_size=16, groups_width=8),
    "segformer": _other("Segformer", "SemanticSegmentation", _PYRAMID, "picture64", decoder_hidden_size=32),
    "glpn": _other("GLPN", "DepthEstimation", _PYRAMID, "picture64", decoder_hidden_size=32),
    "pvt": _other("Pvt", "ImageClassification", _PYRAMID, "picture64", image_size=64),
    "pvt_v2": _other("PvtV2", "ImageClassification", _PYRAMID, "picture64", image_size=64),
    "mobilevit": _other(
        "MobileViT",
        "ImageClassification",
        {
            "hidden_sizes": [32, 48, 64],
            "neck_hidden_sizes": [16, 16, 24, 32, 48, 64, 96],
            "image_size": 64,
            "num_labels": 10,
        },
        "picture64",
    ),
    "mobilenet_v2": _other(
        "MobileNetV2", "ImageClassification", {"depth_multiplier": 0.25, "num_labels": 10}, "picture64"
    ),
    "efficientnet": _other(
        "EfficientNet",
        "ImageClassification",
        {"width_coefficient": 0.25, "depth_coefficient": 0.3, "image_size": 64, "num_labels": 10, "hidden_dim": 320},
        "picture64",
    ),
    "poolformer": _other("PoolFormer", "ImageClassification", _STAGES, "picture64"),
    "levit": _other(
        "Levit",
        "ImageClassification",
        {
            "image_size": 64,
            "hidden_sizes": [32, 48, 64],
            "num_attention_heads": [2, 3, 4],
            "depths": [1, 1, 1],
            "key_dim": [8, 8, 8],
            "num_labels": 10,
        },
        "picture64",
    ),
    "vit_mae": _vision(
        "ViTMAE",
        "PreTraining",
        "hidden",
        decoder_hidden_size=32,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=4,
        decoder_intermediate_size=64,
        mask_ratio=0.5,
    ),
    "dpt": _vision(
        "DPT",
        "DepthEstimation",
        num_hidden_layers=4,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[16, 16, 32, 32],
        fusion_hidden_size=32,
    ),
    "yolos": _vision("Yolos", "ObjectDetection", image_size=[32, 32], num_detection_tokens=10),
    "focalnet": _other(
        "FocalNet",
        "ImageClassification",
        {
            "image_size": 32,
            "patch_size": 4,
            "embed_dim": 16,
            "depths": [1, 1],
            "hidden_sizes": [16, 32],
            "focal_levels": [2, 2],
            "focal_windows": [3, 3],
            "num_labels": 10,
        },
    ),
    "cvt": _other(
        "Cvt",
        "ImageClassification",
        {"embed_dim": [16, 32, 48], "num_heads": [1, 2, 3], "depth": [1, 2, 3], "num_labels": 10},
        "picture64",
    ),
    "hiera": _other(
        "Hiera",
        "ImageClassification",
        {"image_size": [64, 64], "embed_dim": 16, "depths": [1, 1, 1, 1], "num_heads": [1, 2, 4, 8], "num_labels": 10},
        "picture64",
    ),
    "siglip_vision": _other("Siglip", "ImageClassification", {"vision_config": _PICTURE, "num_labels": 10}),
    "clip_vision": _other("CLIP", "ImageClassification", {"vision_config": _PICTURE, "num_labels": 10}),
}

SOUND: dict[str, Entry] = {
    "wav2vec2": _other("Wav2Vec2", "CTC", _SOUND, "wave"),
    "wav2vec2_conformer": _other("Wav2Vec2Conformer", "CTC", _SOUND, "wave", conv_depthwise_kernel_size=5),
    "hubert": _other("Hubert", "CTC", _SOUND, "wave"),
    "wavlm": _other("WavLM", "CTC", _SOUND, "wave", num_buckets=8, max_bucket_distance=16),
    "sew": _other("SEW", "CTC", _SOUND, "wave", squeeze_factor=2),
    "data2vec_audio": _other("Data2VecAudio", "CTC", _SOUND, "wave", num_conv_pos_embeddings=2, conv_pos_kernel_size=5),
    "unispeech_sat": _other("UniSpeechSat", "CTC", _SOUND, "wave"),
    "ast": (
        "ASTForAudioClassification",
        "ASTConfig",
        {
            **_ENCODER,
            "patch_size": 8,
            "frequency_stride": 8,
            "time_stride": 8,
            "max_length": 32,
            "num_mel_bins": 16,
            "num_labels": 10,
        },
        "spectrogram",
    ),
    "whisper": (
        "WhisperForConditionalGeneration",
        "WhisperConfig",
        {
            "vocab_size": 128,
            "num_mel_bins": 16,
            "d_model": 64,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 128,
            "decoder_ffn_dim": 128,
            "max_source_positions": 16,
            "max_target_positions": 32,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 1,
            "use_cache": False,
        },
        "mel",
    ),
    "speech_to_text": (
        "Speech2TextForConditionalGeneration",
        "Speech2TextConfig",
        {
            "vocab_size": 128,
            "input_feat_per_channel": 16,
            "d_model": 64,
            "encoder_layers": 2,
            "decoder_layers": 2,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 128,
            "decoder_ffn_dim": 128,
            "max_source_positions": 64,
            "max_target_positions": 32,
            "conv_channels": 32,
            "pad_token_id": 1,
            "bos_token_id": 0,
            "eos_token_id": 2,
            "decoder_start_token_id": 2,
            "use_cache": False,
        },
        "features",
    ),
}

SEVERAL: dict[str, Entry] = {
    "clip": (
        "CLIPModel",
        "CLIPConfig",
        {"text_config": _TEXT, "vision_config": _PICTURE, "projection_dim": 32},
        "both",
    ),
    "siglip": ("SiglipModel", "SiglipConfig", {"text_config": _TEXT, "vision_config": _PICTURE}, "both"),
    "blip": (
        "BlipForConditionalGeneration",
        "BlipConfig",
        {"text_config": {**_TEXT, "encoder_hidden_size": 64, "use_cache": False}, "vision_config": _PICTURE},
        "both",
    ),
    "vilt": (
        "ViltForImagesAndTextClassification",
        "ViltConfig",
        {
            **_TEXT,
            "image_size": 32,
            "patch_size": 8,
            "num_labels": 10,
            "num_images": 1,
            "max_image_length": 16,
            "modality_type_vocab_size": 3,
        },
        "pictures",
    ),
    "clap": (
        "ClapModel",
        "ClapConfig",
        {
            "text_config": _TEXT,
            "audio_config": {
                "window_size": 4,
                "num_mel_bins": 16,
                "spec_size": 32,
                "patch_size": 4,
                "patch_stride": [4, 4],
                "hidden_size": 64,
                "depths": [1, 1],
                "num_attention_heads": [2, 4],
                "patch_embeds_hidden_size": 32,
                "num_hidden_layers": 2,
            },
            "projection_dim": 32,
        },
        "heard",
    ),
    "llava": (
        "LlavaForConditionalGeneration",
        "LlavaConfig",
        {
            "text_config": {"model_type": "llama", **_TEXT, "num_key_value_heads": 2, "use_cache": False},
            "vision_config": {"model_type": "clip_vision_model", **_PICTURE},
            "image_token_index": 127,
            "image_seq_length": 16,
            "vision_feature_layer": -1,
        },
        "shown",
    ),
    "git": (
        "GitForCausalLM",
        "GitConfig",
        {**_TEXT, "vision_config": _PICTURE, "use_cache": False},
        "both",
    ),
}

SERIES: dict[str, Entry] = {
    "patchtst": (
        "PatchTSTForPrediction",
        "PatchTSTConfig",
        {**_SERIES, "d_model": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 128, "loss": "mse"},
        "series",
    ),
    "patchtsmixer": (
        "PatchTSMixerForPrediction",
        "PatchTSMixerConfig",
        {**_SERIES, "d_model": 64, "num_layers": 2, "expansion_factor": 2},
        "series",
    ),
    "informer": (
        "InformerForPrediction",
        "InformerConfig",
        {
            "prediction_length": 4,
            "context_length": 16,
            "lags_sequence": [1, 2],
            "num_time_features": 1,
            "d_model": 64,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 128,
            "decoder_ffn_dim": 128,
            "use_cache": False,
        },
        "forecast",
    ),
    "autoformer": (
        "AutoformerForPrediction",
        "AutoformerConfig",
        {
            "prediction_length": 4,
            "context_length": 16,
            "lags_sequence": [1, 2],
            "num_time_features": 1,
            "d_model": 64,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 128,
            "decoder_ffn_dim": 128,
            "use_cache": False,
            "moving_average": 5,
        },
        "forecast",
    ),
    "time_series_transformer": (
        "TimeSeriesTransformerForPrediction",
        "TimeSeriesTransformerConfig",
        {
            "prediction_length": 4,
            "context_length": 16,
            "lags_sequence": [1, 2],
            "num_time_features": 1,
            "d_model": 64,
            "encoder_attention_heads": 4,
            "decoder_attention_heads": 4,
            "encoder_ffn_dim": 128,
            "decoder_ffn_dim": 128,
            "use_cache": False,
        },
        "forecast",
    ),
    "decision_transformer": (
        "DecisionTransformerModel",
        "DecisionTransformerConfig",
        {
            "state_dim": 8,
            "act_dim": 4,
            "hidden_size": 64,
            "n_layer": 2,
            "n_head": 4,
            "max_ep_len": 32,
            "n_positions": 64,
            "n_inner": 128,
            "use_cache": False,
        },
        "decisions",
    ),
}
