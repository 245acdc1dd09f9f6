"""torchaudio: recognition, separation, enhancement and synthesis."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import nn

from benchmarks import zoo

from . import tables
from .tables import Source

_WAV2VEC = {
    "extractor_mode": "group_norm",
    "extractor_conv_layer_config": [(32, 10, 5), (32, 3, 2), (32, 2, 2)],
    "extractor_conv_bias": False,
    "encoder_embed_dim": 64,
    "encoder_projection_dropout": 0.1,
    "encoder_pos_conv_kernel": 16,
    "encoder_pos_conv_groups": 4,
    "encoder_num_layers": 2,
    "encoder_num_heads": 4,
    "encoder_attention_dropout": 0.1,
    "encoder_ff_interm_features": 128,
    "encoder_ff_interm_dropout": 0.1,
    "encoder_dropout": 0.1,
    "encoder_layer_norm_first": False,
    "encoder_layer_drop": 0.1,
    "aux_num_out": None,
}
_WAVLM = {k: v for k, v in _WAV2VEC.items() if k != "aux_num_out"}


def _wave(source: Source) -> Any:
    return source.noise(1, 2000)


def _features(source: Source) -> Any:
    return source.noise(1, 40, 24), torch.tensor([40])


def _tacotron(source: Source) -> Any:
    return {
        "tokens": source.ids(30, 1, 12),
        "token_lengths": torch.tensor([12]),
        "mel_specgram": source.noise(1, 16, 20),
        "mel_specgram_lengths": torch.tensor([20]),
    }


def _transducer(source: Source) -> Any:
    return {
        "sources": source.noise(1, 8, 24),
        "source_lengths": torch.tensor([8], dtype=torch.int32),
        "targets": source.ids(30, 1, 5),
        "target_lengths": torch.tensor([5], dtype=torch.int32),
    }


_ROWS: dict[str, tables.Row] = {
    "conformer": ("Conformer", {"input_dim": 24, "num_heads": 4, "ffn_dim": 64, "num_layers": 2,
        "depthwise_conv_kernel_size": 7}, _features),
    "conformer_group_norm": ("Conformer", {"input_dim": 32, "num_heads": 4, "ffn_dim": 64, "num_layers": 2,
        "depthwise_conv_kernel_size": 7, "use_group_norm": True, "convolution_first": True},
        lambda source: (source.noise(1, 40, 32), torch.tensor([40]))),
    "conv_tasnet": ("ConvTasNet", {"num_sources": 2, "enc_kernel_size": 8, "enc_num_feats": 32, "msk_kernel_size": 3,
        "msk_num_feats": 32, "msk_num_hidden_feats": 48, "msk_num_layers": 2, "msk_num_stacks": 2},
        lambda source: source.noise(1, 1, 800)),
    "deep_speech": ("DeepSpeech", {"n_feature": 24, "n_hidden": 64, "n_class": 10},
        lambda source: source.noise(1, 1, 20, 24)),
    "emformer": ("Emformer", {"input_dim": 32, "num_heads": 4, "ffn_dim": 64, "num_layers": 2, "segment_length": 4,
        "right_context_length": 1, "left_context_length": 8},
        lambda source: (source.noise(1, 9, 32), torch.tensor([9]))),
    "wav2letter_waveform": ("Wav2Letter", {"num_classes": 10, "input_type": "waveform", "num_features": 1},
        lambda source: source.noise(1, 1, 2000)),
    "wav2vec2": ("wav2vec2_model", _WAV2VEC, _wave),
    "wav2vec2_large_like": ("wav2vec2_model", {**_WAV2VEC, "extractor_mode": "layer_norm", "aux_num_out": 10,
        "extractor_conv_bias": True, "encoder_layer_norm_first": True}, _wave),
    "wavlm": ("wavlm_model", {**_WAVLM, "encoder_num_buckets": 16, "encoder_max_distance": 40,
        "aux_num_out": 10}, _wave),
    "wave_rnn": ("WaveRNN", {"upsample_scales": [2, 2, 3], "n_classes": 16, "hop_length": 12, "n_res_block": 2,
        "n_rnn": 32, "n_fc": 32, "kernel_size": 5, "n_freq": 16, "n_hidden": 32, "n_output": 16},
        lambda source: (source.noise(1, 1, 72), source.noise(1, 1, 16, 10))),
    "tacotron2": ("Tacotron2", {"n_mels": 16, "n_symbol": 30, "symbol_embedding_dim": 32, "encoder_embedding_dim": 32,
        "encoder_n_convolution": 2, "decoder_rnn_dim": 48, "prenet_dim": 32, "attention_rnn_dim": 48,
        "attention_hidden_dim": 24, "attention_location_n_filter": 8, "attention_location_kernel_size": 5,
        "postnet_n_convolution": 3, "postnet_embedding_dim": 32}, _tacotron),
    "hdemucs": ("HDemucs", {"sources": ["a", "b"], "nfft": 1024, "depth": 4, "channels": 16},
        lambda source: source.noise(1, 2, 8192)),
    "rnnt": ("emformer_rnnt_model", {"input_dim": 24, "encoding_dim": 32, "num_symbols": 30,
        "segment_length": 8, "right_context_length": 0, "time_reduction_input_dim": 16, "time_reduction_stride": 4,
        "transformer_num_heads": 4, "transformer_ffn_dim": 64, "transformer_num_layers": 2,
        "transformer_dropout": 0.1, "transformer_activation": "gelu", "transformer_left_context_length": 4,
        "transformer_max_memory_size": 0, "transformer_weight_init_scale_strategy": "depthwise",
        "transformer_tanh_on_mem": True, "symbol_embedding_dim": 32, "num_lstm_layers": 2,
        "lstm_layer_norm": True, "lstm_layer_norm_epsilon": 1e-3, "lstm_dropout": 0.1}, _transducer),
    "squim_objective": ("squim_objective_model", {"feat_dim": 64, "win_len": 32, "d_model": 32, "nhead": 4,
        "hidden_dim": 32, "num_blocks": 1, "rnn_type": "LSTM", "chunk_size": 15}, _wave),
}  # fmt: skip


def names() -> list[str]:
    """All architectures."""
    return list(_ROWS)


def build(name: str) -> tuple[nn.Module, Any]:
    """A model in evaluation mode and example inputs."""
    path, settings, inputs = _ROWS[name]
    return tables.build(library(), (f"models.{path}", settings, inputs))


def library() -> ModuleType:
    """The package."""
    found = zoo.torchaudio()
    if found is None:
        raise ModuleNotFoundError("torchaudio is not installed")
    return found
