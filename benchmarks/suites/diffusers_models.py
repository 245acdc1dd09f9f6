"""diffusers: UNets, autoencoders, control nets and diffusion transformers, small but structurally complete."""

from __future__ import annotations

import functools
import os
import warnings
from types import ModuleType
from typing import Any

from torch import nn

from benchmarks import zoo

from . import diffusers_autoencoders, diffusers_transformers, diffusers_unets, tables

_ROWS: dict[str, tables.Row] = {
    **diffusers_unets.ROWS,
    **diffusers_autoencoders.ROWS,
    **diffusers_transformers.ROWS,
}


def names() -> list[str]:
    """All architectures."""
    return list(_ROWS)


def build(name: str) -> tuple[nn.Module, Any]:
    """A model in evaluation mode and example inputs as keyword arguments."""
    return tables.build(library(), _ROWS[name])


@functools.cache
def library() -> ModuleType:
    """The package; nothing is looked up."""
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    warnings.filterwarnings("ignore")
    zoo.torchvision()  # transformers reads both, and they must be made to load first
    zoo.torchaudio()
    import diffusers

    diffusers.utils.logging.set_verbosity_error()
    return diffusers
