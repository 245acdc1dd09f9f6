"""Keeping the zeros of a sparse module while it is trained."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from ...errors import InputError


@torch.no_grad()
def zero_entries(module: nn.Module, masks: Mapping[str, np.ndarray]) -> None:
    """Set the entries of parameters to zero where a mask (by parameter name) is False, in place."""
    for parameter, gone in _pairs(module, masks):
        parameter.masked_fill_(gone, 0)


def hold_zero(module: nn.Module, optimizer: torch.optim.Optimizer, masks: Mapping[str, np.ndarray]) -> Any:
    """Do so now and after each step of the optimiser; the handle's `remove()` ends it."""
    pairs = _pairs(module, masks)

    @torch.no_grad()
    def after_step(*_: Any) -> None:
        for parameter, gone in pairs:
            parameter.masked_fill_(gone.to(parameter.device), 0)

    after_step()
    return optimizer.register_step_post_hook(after_step)


def _pairs(module: nn.Module, masks: Mapping[str, np.ndarray]) -> list[tuple[nn.Parameter, torch.Tensor]]:
    """Each masked parameter and where its zeros lie."""
    known = dict(module.named_parameters(remove_duplicate=False))
    found = []
    for name in masks:
        mask = masks[name]
        if name not in known or tuple(known[name].shape) != mask.shape:
            shape = list(known[name].shape) if name in known else "none"
            raise InputError(f"the mask of '{name}' has shape {list(mask.shape)}; the module's parameter: {shape}")
        found.append((known[name], torch.from_numpy(~mask).to(known[name].device)))
    return found
