"""Architectures of `transformers` from small configurations with random weights, for the PyTorch route."""

from __future__ import annotations

import functools
import logging
import os
import warnings
from collections.abc import Callable
from math import prod
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from ..random_weights import call, vary
from ..zoo import torchaudio, torchvision
from . import transformers_sense as sense
from . import transformers_text as text

_ENTRIES: dict[str, text.Entry] = {
    **text.ENCODERS, **text.DECODERS, **text.MIXTURES, **text.STATE_SPACES, **text.PAIRS,
    **sense.VISION, **sense.SOUND, **sense.SEVERAL, **sense.SERIES,
}  # fmt: skip

#: What a model's result is about, the first that it has; the rest (states of encoders, embeddings) is left out.
_MAIN = (
    "logits", "logits_per_image", "logits_per_audio", "predicted_depth", "prediction_outputs", "action_preds", "params",
    "last_hidden_state",
)  # fmt: skip

#: Parameters whose initial values say what they are: decay rates, steps and gains.
_LEFT_ALONE = ("A_log", "original0", "time_decay", "time_first", "layer_scale_1", "layer_scale_2", "lambda1")
_GAIN = 1.7


def names() -> list[str]:
    """All architectures."""
    return list(_ENTRIES)


def build(name: str) -> tuple[nn.Module, Any]:
    """A model in evaluation mode and example inputs as a dict of keyword arguments."""
    settings = dict(_ENTRIES[name][2])
    experts = settings.pop("experts_implementation", None)
    model = _model(name, settings, experts)
    example = _INPUTS[_ENTRIES[name][3]](torch.Generator().manual_seed(1))
    made = Main(model).eval()
    call(made, example)  # RWKV scales its weights the first time
    return made, example


def build_default(name: str) -> tuple[nn.Module, Any]:
    """A model as a user holds it: nothing around it, with a cache in its results where its class has one by default."""
    model = _model(name, _untouched(_ENTRIES[name][2])).eval()
    example = _INPUTS[_ENTRIES[name][3]](torch.Generator().manual_seed(1))
    call(model, example)
    return model, example


def _untouched(settings: dict[str, Any]) -> dict[str, Any]:
    """Without what a benchmark sets and a user does not: whether results hold caches, how experts are computed."""
    kept = {k: v for k, v in settings.items() if k not in ("use_cache", "experts_implementation")}
    return {k: _untouched(v) if isinstance(v, dict) else v for k, v in kept.items()}


def main_result(result: Any) -> Any:
    """The first of the results listed in `_MAIN` that there is."""
    return next(result[key] for key in _MAIN if result.get(key) is not None)


def save(name: str, folder: Path) -> Any:
    """Write a model as a folder, with the settings that a user's has (a cache, transformers' own choice of how experts
    are computed); returns its class.
    """
    settings = {k: v for k, v in _ENTRIES[name][2].items() if k not in ("use_cache", "experts_implementation")}
    model: Any = _model(name, settings)
    model.eval().save_pretrained(folder)
    return type(model)


def _model(name: str, settings: dict[str, Any], experts: str | None = None) -> nn.Module:
    library = transformers()
    model_class, config_class, *_ = _ENTRIES[name]
    config = getattr(library, config_class)(**settings)
    if experts is not None:
        config._experts_implementation = experts
    torch.manual_seed(0)
    model: nn.Module = getattr(library, model_class)(config)
    redraw(model)
    return model


@functools.cache
def transformers() -> ModuleType:
    """The package, without its warnings and without looking anything up."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    warnings.filterwarnings("ignore")
    torchvision()  # transformers reads both, and they must be made to load first
    torchaudio()
    import transformers as package

    package.logging.set_verbosity_error()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    return package


class Main(nn.Module):
    """A model that returns only its main result."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, **inputs: Tensor) -> Any:
        """See `main_result`."""
        return main_result(self.model(**inputs))


def redraw(model: nn.Module) -> None:
    """Draw weights at a size at which signals neither fade nor grow: initial values of 0.02 let them fade."""
    vary(model)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if not weight.is_floating_point() or name.rpartition(".")[2] in _LEFT_ALONE:
                continue
            noise = torch.randn(weight.shape, generator=generator)
            if weight.ndim < 2:
                weight.add_(0.1 * noise)
            else:
                weight.copy_(noise * prod(weight.shape[1:]) ** -0.5)
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                noise = torch.randn(module.weight.shape, generator=generator)
                module.weight.copy_(0.5 * noise)
            elif isinstance(module, nn.Conv2d):  # behind it there is mostly an activation that halves the signal
                module.weight.mul_(_GAIN)
            elif isinstance(module, nn.BatchNorm2d):  # some are drawn at 0.02 as well
                module.weight.uniform_(0.8, 1.2)


def _tokens(generator: torch.Generator, length: int, batch: int = 2) -> Tensor:
    return torch.randint(3, 127, (batch, length), generator=generator)


def _floats(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(shape, generator=generator)


def _text(generator: torch.Generator) -> dict[str, Tensor]:
    ids = _tokens(generator, 16)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def _ids(generator: torch.Generator) -> dict[str, Tensor]:
    return {"input_ids": _tokens(generator, 16)}


def _pair(generator: torch.Generator) -> dict[str, Tensor]:
    return {**_text(generator), "decoder_input_ids": _tokens(generator, 12)}


def _picture(side: int) -> Callable[[torch.Generator], dict[str, Tensor]]:
    return lambda generator: {"pixel_values": _floats(generator, 2, 3, side, side)}


def _hidden(generator: torch.Generator) -> dict[str, Tensor]:
    """The order in which patches are hidden comes from outside, so that it is the same each time."""
    return {**_picture(32)(generator), "noise": torch.rand(2, 16, generator=generator)}


def _both(generator: torch.Generator) -> dict[str, Tensor]:
    return {**_text(generator), **_picture(32)(generator)}


def _pictures(generator: torch.Generator) -> dict[str, Tensor]:
    pictures = _floats(generator, 2, 1, 3, 32, 32)
    return {**_text(generator), "pixel_values": pictures}


def _heard(generator: torch.Generator) -> dict[str, Tensor]:
    return {**_text(generator), "input_features": _floats(generator, 2, 1, 64, 16)}


def _shown(generator: torch.Generator) -> dict[str, Tensor]:
    ids = torch.cat([torch.full((2, 16), 127), _tokens(generator, 8)], dim=1)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), **_picture(32)(generator)}


def _forecast(generator: torch.Generator) -> dict[str, Tensor]:
    return {
        "past_values": _floats(generator, 2, 18),
        "past_time_features": _floats(generator, 2, 18, 1),
        "past_observed_mask": torch.ones(2, 18, dtype=torch.bool),
        "future_values": _floats(generator, 2, 4),
        "future_time_features": _floats(generator, 2, 4, 1),
    }


def _decisions(generator: torch.Generator) -> dict[str, Tensor]:
    return {
        "states": _floats(generator, 2, 8, 8),
        "actions": _floats(generator, 2, 8, 4),
        "rewards": _floats(generator, 2, 8, 1),
        "returns_to_go": _floats(generator, 2, 8, 1),
        "timesteps": torch.arange(8).expand(2, 8).clone(),
        "attention_mask": torch.ones(2, 8, dtype=torch.long),
    }


_INPUTS: dict[str, Callable[[torch.Generator], dict[str, Tensor]]] = {
    "text": _text,
    "ids": _ids,
    "pair": _pair,
    "picture": _picture(32),
    "picture64": _picture(64),
    "both": _both,
    "hidden": _hidden,
    "pictures": _pictures,
    "heard": _heard,
    "shown": _shown,
    "forecast": _forecast,
    "decisions": _decisions,
    "wave": lambda g: {"input_values": _floats(g, 2, 640)},
    "mel": lambda g: {"input_features": _floats(g, 2, 16, 32), "decoder_input_ids": _tokens(g, 12)},
    "features": lambda g: {"input_features": _floats(g, 2, 48, 16), "decoder_input_ids": _tokens(g, 12)},
    "spectrogram": lambda g: {"input_values": _floats(g, 2, 32, 16)},
    "series": lambda g: {"past_values": _floats(g, 2, 32, 3)},
}
