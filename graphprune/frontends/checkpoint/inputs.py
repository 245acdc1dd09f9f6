"""Example inputs for a transformers model, from its configuration and the signature of its forward."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from graphprune.errors import InputError

from ..torch.files import Shapes

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


def example_inputs(model: nn.Module, config: Any, dtype: torch.dtype, shapes: Shapes | None = None) -> dict[str, Any]:
    """Keyword arguments that the model's forward takes: what it names as its main input, and what goes with it.

    `shapes` are other sizes for them, by name or in order; raises InputError where there is no such input.
    """
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
    found = _resized(found, shapes, generator) if shapes is not None else found
    found = {n: t.to(dtype) if t.is_floating_point() else t for n, t in found.items()}
    handed_on = any(p.kind is p.VAR_KEYWORD for p in taken.values()) and getattr(config, "use_cache", None) is True
    if "use_cache" in taken or handed_on:
        found["use_cache"] = False
    return found


def _resized(found: dict[str, Any], shapes: Shapes, generator: torch.Generator) -> dict[str, Any]:
    """Inputs like these of other sizes: ids within the same range, noise."""
    named = shapes if isinstance(shapes, Mapping) else dict(zip(found, shapes, strict=False))
    unknown = [n for n in named if n not in found]
    if unknown or len(named) < len(shapes):
        what = f"no input '{unknown[0]}'" if unknown else f"{len(found)} input(s)"
        raise InputError(f"the model has {what}: its inputs are {', '.join(found)}")
    return found | {name: _like(found[name], tuple(shape), generator) for name, shape in named.items()}


def _like(tensor: torch.Tensor, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    if tensor.is_floating_point():
        return torch.randn(shape, generator=generator)
    return torch.randint(int(tensor.min()), int(tensor.max()) + 1, shape, generator=generator)
