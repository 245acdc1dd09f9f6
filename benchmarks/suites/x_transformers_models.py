"""x-transformers: one language model for each of its main options, and its other wrappers."""

from __future__ import annotations

import functools
import warnings
from types import ModuleType
from typing import Any

from torch import Tensor, nn

from . import tables
from .tables import Source

_SIZE = {"dim": 64, "depth": 2, "heads": 4, "attn_dim_head": 16}
_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "rotary": {"rotary_pos_emb": True},
    "alibi": {"alibi_pos_bias": True, "alibi_num_heads": 2},
    "relative": {"rel_pos_bias": True},
    "dynamic_relative": {"dynamic_pos_bias": True},
    "rms_norm": {"use_rmsnorm": True},
    "simple_rms_norm": {"use_simple_rmsnorm": True},
    "scale_norm": {"use_scalenorm": True},
    "glu": {"ff_glu": True, "ff_swish": True, "ff_no_bias": True},
    "relu_squared": {"ff_relu_squared": True},
    "grouped_queries": {"attn_kv_heads": 2},
    "one_key": {"attn_one_kv_head": True},
    "qk_norm": {"attn_qk_norm": True, "attn_qk_norm_dim_scale": True},
    "talking_heads": {"attn_pre_talking_heads": True, "attn_post_talking_heads": True},
    "gated_values": {"attn_gate_values": True},
    "memory_keys": {"attn_num_mem_kv": 4},
    "sparse_top": {"attn_sparse_topk": 4},
    "post_norm": {"pre_norm": False, "residual_attn": True},
    "sandwich_norm": {"sandwich_norm": True},
    "gated_residual": {"gate_residual": True},
    "macaron": {"macaron": True},
    "shifted": {"shift_tokens": 1},
    "on_attention": {"attn_on_attn": True},
    "llama_like": {"rotary_pos_emb": True, "ff_glu": True, "ff_swish": True, "use_rmsnorm": True, "ff_no_bias": True},
}


def _ids(source: Source) -> Tensor:
    return source.ids(50, 1, 12)


def _decoder(options: dict[str, Any]) -> nn.Module:
    package = library()
    layers = package.Decoder(**_SIZE, **options)
    made: nn.Module = package.TransformerWrapper(num_tokens=50, max_seq_len=16, attn_layers=layers)
    return made


def _other(name: str) -> nn.Module:
    package: Any = library()
    if name == "encoder":
        return package.TransformerWrapper(num_tokens=50, max_seq_len=16, attn_layers=package.Encoder(**_SIZE))
    if name == "memory_tokens":
        layers = package.Encoder(**_SIZE)
        return package.TransformerWrapper(num_tokens=50, max_seq_len=16, num_memory_tokens=4, attn_layers=layers)
    if name == "vision":
        return package.ViTransformerWrapper(
            image_size=32, patch_size=8, num_classes=10, attn_layers=package.Encoder(**_SIZE)
        )
    if name == "continuous":
        return package.ContinuousTransformerWrapper(
            dim_in=8, dim_out=6, max_seq_len=16, attn_layers=package.Encoder(**_SIZE)
        )
    layers = package.Decoder(**_SIZE, cross_attend=True)
    return package.TransformerWrapper(num_tokens=50, max_seq_len=16, attn_layers=layers)


_OTHERS: dict[str, tables.Inputs] = {
    "encoder": _ids,
    "memory_tokens": _ids,
    "vision": lambda source: source.noise(1, 3, 32, 32),
    "continuous": lambda source: source.noise(1, 12, 8),
    "cross_attention": lambda source: {"x": _ids(source), "context": source.noise(1, 9, 64)},
}


def names() -> list[str]:
    """Decoders by option, then other wrappers."""
    return [*_OPTIONS, *_OTHERS]


def build(name: str) -> tuple[nn.Module, Any]:
    """A model in evaluation mode and example inputs."""
    if name in _OPTIONS:
        return tables.ready(lambda: _decoder(_OPTIONS[name]), _ids)
    return tables.ready(lambda: _other(name), _OTHERS[name])


@functools.cache
def library() -> ModuleType:
    """The package."""
    warnings.filterwarnings("ignore")
    import x_transformers

    return x_transformers
