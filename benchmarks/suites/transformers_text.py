"""Small configurations of transformers' text models: encoders, decoders, mixtures of experts, encoder-decoders."""

from __future__ import annotations

from typing import Any

#: (class, configuration class, settings, inputs); settings hold what differs from the family's own.
Entry = tuple[str, str, dict[str, Any], str]

_SIZES = {"vocab_size": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
_ENCODER = {
    **_SIZES, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 128,
    "max_position_embeddings": 64,
}  # fmt: skip
_DECODER = {**_ENCODER, "use_cache": False}
_GQA = {**_DECODER, "num_key_value_heads": 2}
_WIDE = {**_GQA, "head_dim": 16}
_PAIR = {
    **_SIZES, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 4, "encoder_ffn_dim": 128, "decoder_ffn_dim": 128, "max_position_embeddings": 64,
    "decoder_start_token_id": 2, "use_cache": False, "forced_eos_token_id": None,
}  # fmt: skip
_T5 = {
    **_SIZES, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_decoder_layers": 2, "num_heads": 4,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 16, "use_cache": False,
    "decoder_start_token_id": 0,
}  # fmt: skip
_EXPERTS = {"experts_implementation": "batched_mm"}
_GPT = {**_SIZES, "n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 64, "use_cache": False}
_RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False}


def _masked(name: str, config: str = "", **settings: Any) -> Entry:
    return f"{name}ForMaskedLM", f"{config or name}Config", {**_ENCODER, **settings}, "text"


def _causal(name: str, family: dict[str, Any], **settings: Any) -> Entry:
    return f"{name}ForCausalLM", f"{name}Config", {**family, **settings}, "text"


def _pair(model: str, config: str, family: dict[str, Any], **settings: Any) -> Entry:
    return model, config, {**family, **settings}, "pair"


ENCODERS: dict[str, Entry] = {
    "bert": _masked("Bert"),
    "roberta": _masked("Roberta"),
    "camembert": _masked("Camembert"),
    "xlm_roberta_xl": _masked("XLMRobertaXL"),
    "albert": _masked("Albert", embedding_size=32),
    "distilbert": (
        "DistilBertForMaskedLM",
        "DistilBertConfig",
        {**_SIZES, "dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128, "max_position_embeddings": 64},
        "text",
    ),
    "electra": _masked("Electra", embedding_size=32),
    "deberta": _masked("Deberta", **_RELATIVE),
    "deberta_v2": _masked("DebertaV2", **_RELATIVE, share_att_key=True, position_buckets=8, norm_rel_ebd="layer_norm"),
    "mpnet": _masked("MPNet", pad_token_id=1, bos_token_id=0),
    "modernbert": _masked(
        "ModernBert",
        cls_token_id=1,
        sep_token_id=2,
        local_attention=8,
        layer_types=["full_attention", "sliding_attention"],
    ),
    "longformer": _masked("Longformer", attention_window=4, pad_token_id=1),
    "xlnet": (
        "XLNetLMHeadModel",
        "XLNetConfig",
        {**_SIZES, "d_model": 64, "n_layer": 2, "n_head": 4, "d_inner": 128, "mem_len": None, "use_mems_eval": False},
        "text",
    ),
    "funnel": (
        "FunnelForMaskedLM",
        "FunnelConfig",
        {
            "vocab_size": 128,
            "block_sizes": [1, 1],
            "num_decoder_layers": 1,
            "d_model": 64,
            "n_head": 4,
            "d_head": 16,
            "d_inner": 128,
        },
        "text",
    ),
    "squeezebert": _masked("SqueezeBert", embedding_size=64),
    "convbert": _masked("ConvBert", embedding_size=32),
    "mobilebert": _masked("MobileBert", embedding_size=32, intra_bottleneck_size=32, num_feedforward_networks=2),
    "fnet": ("FNetForMaskedLM", "FNetConfig", {k: v for k, v in _ENCODER.items() if "heads" not in k}, "ids"),
    "nystromformer": _masked("Nystromformer", num_landmarks=4, segment_means_seq_len=4, conv_kernel_size=5),
    "roformer": _masked("RoFormer"),
    "canine": (
        "CanineForTokenClassification",
        "CanineConfig",
        {**_ENCODER, "num_hash_buckets": 64, "local_transformer_stride": 8, "bos_token_id": 1},
        "text",
    ),
    "esm": _masked("Esm", position_embedding_type="rotary", mask_token_id=3),
    "luke": _masked("Luke", entity_vocab_size=16, entity_emb_size=32),
    "big_bird": _masked("BigBird", attention_type="original_full"),
    "rembert": _masked("RemBert", input_embedding_size=32, output_embedding_size=32),
    "megatron_bert": _masked("MegatronBert"),
    "ibert": _masked("IBert"),
    "nomic_bert": _masked("NomicBert"),
}

DECODERS: dict[str, Entry] = {
    "gpt2": ("GPT2LMHeadModel", "GPT2Config", _GPT, "text"),
    "gpt_neo": (
        "GPTNeoForCausalLM",
        "GPTNeoConfig",
        {
            **_SIZES,
            "hidden_size": 64,
            "num_layers": 2,
            "num_heads": 4,
            "attention_types": [[["global", "local"], 1]],
            "window_size": 4,
            "max_position_embeddings": 64,
            "use_cache": False,
        },
        "text",
    ),
    "gpt_neox": _causal("GPTNeoX", _DECODER),
    "gptj": _causal("GPTJ", _GPT, rotary_dim=8),
    "gpt_bigcode": _causal("GPTBigCode", _GPT),
    "openai_gpt": (
        "OpenAIGPTLMHeadModel",
        "OpenAIGPTConfig",
        {k: v for k, v in _GPT.items() if k != "use_cache"},
        "text",
    ),
    "ctrl": (
        "CTRLLMHeadModel",
        "CTRLConfig",
        {"vocab_size": 128, "n_positions": 64, "n_embd": 64, "dff": 128, "n_layer": 2, "n_head": 4, "use_cache": False},
        "text",
    ),
    "opt": _causal(
        "OPT", {k: v for k, v in _DECODER.items() if k != "intermediate_size"}, ffn_dim=128, word_embed_proj_dim=64
    ),
    "bloom": _causal("Bloom", {**_SIZES, "hidden_size": 64, "n_layer": 2, "n_head": 4, "use_cache": False}),
    "llama": _causal("Llama", _WIDE),
    "mistral": _causal("Mistral", _WIDE, sliding_window=8),
    "qwen2": _causal("Qwen2", _GQA, tie_word_embeddings=True),
    "qwen3": _causal("Qwen3", _WIDE),
    "gemma": _causal("Gemma", _WIDE),
    "gemma2": _causal("Gemma2", _WIDE, query_pre_attn_scalar=16, sliding_window=8),
    "gemma3": (
        "Gemma3ForCausalLM",
        "Gemma3TextConfig",
        {**_WIDE, "query_pre_attn_scalar": 16, "sliding_window": 8},
        "text",
    ),
    "phi": _causal("Phi", _GQA),
    "phi3": _causal("Phi3", _GQA, original_max_position_embeddings=64),
    "falcon": _causal("Falcon", {k: v for k, v in _DECODER.items() if k != "intermediate_size"}),
    "falcon_gqa": _causal(
        "Falcon",
        {k: v for k, v in _DECODER.items() if k != "intermediate_size"},
        new_decoder_architecture=True,
        num_kv_heads=2,
    ),
    "mpt": _causal(
        "Mpt", {**_SIZES, "d_model": 64, "n_heads": 4, "n_layers": 2, "max_seq_len": 64, "use_cache": False}
    ),
    "stablelm": _causal("StableLm", _GQA, qk_layernorm=True),
    "starcoder2": _causal("Starcoder2", _GQA),
    "codegen": _causal("CodeGen", _GPT, rotary_dim=8, n_ctx=64),
    "olmo": _causal("Olmo", _GQA),
    "olmo2": _causal("Olmo2", _GQA),
    "cohere": _causal("Cohere", _GQA, use_qk_norm=True),
    "glm": _causal("Glm", _WIDE),
    "granite": _causal("Granite", _GQA, logits_scaling=2.0, residual_multiplier=0.5),
    "smollm3": _causal("SmolLM3", _GQA, num_hidden_layers=3, no_rope_layers=[1, 1, 0]),
    "nemotron": _causal("Nemotron", _WIDE),
    "persimmon": _causal("Persimmon", _DECODER),
    "biogpt": _causal("BioGpt", _DECODER),
    "xglm": _causal(
        "XGLM",
        {
            **_SIZES,
            "d_model": 64,
            "ffn_dim": 128,
            "num_layers": 2,
            "attention_heads": 4,
            "max_position_embeddings": 64,
            "use_cache": False,
        },
    ),
    "helium": _causal("Helium", _WIDE),
    "cohere2": _causal("Cohere2", _WIDE, sliding_window=8),
    "exaone4": _causal("Exaone4", _WIDE, sliding_window=8),
    "lfm2": _causal("Lfm2", _GQA, layer_types=["conv", "full_attention"], block_multiple_of=8),
}

MIXTURES: dict[str, Entry] = {
    "mixtral": _causal("Mixtral", {**_WIDE, **_EXPERTS}, num_local_experts=4, num_experts_per_tok=2),
    "qwen2_moe": _causal(
        "Qwen2Moe",
        {**_GQA, **_EXPERTS},
        num_experts=4,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        shared_expert_intermediate_size=64,
    ),
    "qwen3_moe": _causal(
        "Qwen3Moe", {**_WIDE, **_EXPERTS}, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32
    ),
    "olmoe": _causal("Olmoe", {**_GQA, **_EXPERTS}, num_experts=4, num_experts_per_tok=2),
    "gpt_oss": _causal(
        "GptOss",
        {**_WIDE, **_EXPERTS},
        num_local_experts=4,
        num_experts_per_tok=2,
        sliding_window=8,
        layer_types=["sliding_attention", "full_attention"],
    ),
    "deepseek_v2": _causal(
        "DeepseekV2",
        {**_DECODER, **_EXPERTS},
        num_key_value_heads=4,
        kv_lora_rank=16,
        q_lora_rank=24,
        qk_nope_head_dim=16,
        qk_rope_head_dim=8,
        v_head_dim=16,
        n_routed_experts=4,
        n_shared_experts=1,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        first_k_dense_replace=1,
    ),
    "deepseek_v3": _causal(
        "DeepseekV3",
        {**_DECODER, **_EXPERTS},
        num_key_value_heads=4,
        kv_lora_rank=16,
        q_lora_rank=24,
        qk_nope_head_dim=16,
        qk_rope_head_dim=8,
        v_head_dim=16,
        n_routed_experts=8,
        n_shared_experts=1,
        num_experts_per_tok=2,
        moe_intermediate_size=32,
        first_k_dense_replace=1,
        n_group=2,
        topk_group=1,
        num_mtp_layers=0,
    ),
    "granitemoe": _causal("GraniteMoe", {**_GQA, **_EXPERTS}, num_local_experts=4, num_experts_per_tok=2),
    "phimoe": _causal("Phimoe", {**_GQA, **_EXPERTS}, num_local_experts=4, num_experts_per_tok=2),
    "switch_transformers": _pair(
        "SwitchTransformersForConditionalGeneration",
        "SwitchTransformersConfig",
        {**_T5, **_EXPERTS},
        num_experts=4,
        expert_capacity=16,
        num_sparse_encoder_layers=1,
        num_sparse_decoder_layers=1,
    ),
}

STATE_SPACES: dict[str, Entry] = {
    "mamba": _causal(
        "Mamba", {**_SIZES, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8, "use_cache": False}
    ),
    "mamba2": _causal(
        "Mamba2",
        {
            **_SIZES,
            "hidden_size": 64,
            "num_hidden_layers": 2,
            "state_size": 8,
            "num_heads": 8,
            "head_dim": 16,
            "n_groups": 2,
            "chunk_size": 4,
            "use_cache": False,
        },
    ),
    "falcon_mamba": _causal(
        "FalconMamba", {**_SIZES, "hidden_size": 64, "num_hidden_layers": 2, "state_size": 8, "use_cache": False}
    ),
    "jamba": _causal(
        "Jamba",
        {**_GQA, **_EXPERTS},
        use_mamba_kernels=False,
        mamba_d_state=8,
        num_experts=4,
        attn_layer_period=2,
        attn_layer_offset=1,
    ),
    "zamba": _causal(
        "Zamba",
        _DECODER,
        num_key_value_heads=4,
        use_mamba_kernels=False,
        mamba_d_state=8,
        num_hidden_layers=4,
        layers_block_type=["mamba", "hybrid", "mamba", "hybrid"],
    ),
    "rwkv": _causal(
        "Rwkv", {**_SIZES, "hidden_size": 64, "num_hidden_layers": 2, "context_length": 64, "use_cache": False}
    ),
    "recurrent_gemma": _causal(
        "RecurrentGemma", _WIDE, attention_window_size=8, block_types=["recurrent", "attention"], lru_width=64
    ),
}

PAIRS: dict[str, Entry] = {
    "t5": _pair("T5ForConditionalGeneration", "T5Config", _T5),
    "mt5": _pair("MT5ForConditionalGeneration", "MT5Config", _T5, feed_forward_proj="gated-gelu"),
    "longt5": _pair("LongT5ForConditionalGeneration", "LongT5Config", _T5, local_radius=4),
    "bart": _pair("BartForConditionalGeneration", "BartConfig", _PAIR),
    "mbart": _pair("MBartForConditionalGeneration", "MBartConfig", _PAIR),
    "pegasus": _pair("PegasusForConditionalGeneration", "PegasusConfig", _PAIR),
    "marian": _pair("MarianMTModel", "MarianConfig", _PAIR),
    "m2m_100": _pair("M2M100ForConditionalGeneration", "M2M100Config", _PAIR),
    "blenderbot": _pair("BlenderbotForConditionalGeneration", "BlenderbotConfig", _PAIR),
    "led": _pair(
        "LEDForConditionalGeneration",
        "LEDConfig",
        _PAIR,
        attention_window=4,
        max_encoder_position_embeddings=64,
        max_decoder_position_embeddings=64,
        pad_token_id=1,
    ),
}
