"""Example inputs for a transformers model, from its configuration and the signature of its forward."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

_BATCH, _LENGTH = 2, 16
_AUDIO, _FRAMES = 16_000, 100


def _size(config: Any, *names: str, default: int) -> int:
    """The first of these attributes that the configuration has."""
    for name in names:
        found = getattr(config, name, None)
        if isinstance(found, int) and found > 0:
            return found
    return default


def _ids(config: Any, generator: torch.Generator) -> torch.Tensor:
    """Token ids, away from the special ones at the beginning of vocabularies where there is room."""
    text = config.get_text_config() if hasattr(config, "get_text_config") else config
    count = _size(text, "vocab_size", default=100)
    length = min(_LENGTH, _size(text, "max_position_embeddings", "n_positions", default=_LENGTH) // 2)
    return torch.randint(min(10, count // 2), count, (_BATCH, length), generator=generator)


def _pixels(config: Any, generator: torch.Generator) -> torch.Tensor:
    vision = getattr(config, "vision_config", config)
    side = getattr(vision, "image_size", 224)
    height, width = side if isinstance(side, (tuple, list)) else (side, side)
    return torch.randn(_BATCH, _size(vision, "num_channels", default=3), height, width, generator=generator)


def _wave(config: Any, generator: torch.Generator) -> torch.Tensor:
    return torch.randn(_BATCH, _AUDIO, generator=generator)


def _features(config: Any, generator: torch.Generator) -> torch.Tensor:
    bins = _size(config, "num_mel_bins", "feature_size", default=80)
    frames = 2 * _size(config, "max_source_positions", default=_FRAMES)
    return torch.randn(_BATCH, bins, frames, generator=generator)


_MAKERS: dict[str, Callable[[Any, torch.Generator], torch.Tensor]] = {
    "input_ids": _ids,
    "pixel_values": _pixels,
    "input_values": _wave,
    "input_features": _features,
    "decoder_input_ids": _ids,
}


def example_inputs(model: nn.Module, config: Any, dtype: torch.dtype) -> dict[str, Any]:
    """Keyword arguments that the model's forward takes: what it names as its main input, and what goes with it."""
    generator = torch.Generator().manual_seed(0)
    taken = inspect.signature(model.forward).parameters
    main = getattr(model, "main_input_name", "input_ids")
    wanted = [name for name in _MAKERS if name == main]
    if getattr(config, "is_encoder_decoder", False):
        wanted.append("decoder_input_ids")
    if main != "input_ids" and getattr(config, "text_config", None) is not None:
        wanted.append("input_ids")
    if main == "input_ids" and getattr(config, "vision_config", None) is not None:
        wanted.append("pixel_values")
    found: dict[str, Any] = {n: _MAKERS[n](config, generator) for n in dict.fromkeys(wanted) if n in taken}
    found = {n: t.to(dtype) if t.is_floating_point() else t for n, t in found.items()}
    if "use_cache" in taken:
        found["use_cache"] = False
    return found
