"""Keeping the zeros of a sparse module while it is trained."""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch import nn

from graphprune.errors import InputError

from ..arrays import numpy_dtype, to_torch

#: What compiled modules, and those that share work out, put before the names of their parameters.
_COMPILED, _WRAPPED = "_orig_mod.", "module."


@torch.no_grad()
def zero_entries(module: nn.Module, masks: Mapping[str, np.ndarray]) -> None:
    """Set the entries of parameters to zero where a mask (by parameter name) is False, in place."""
    for parameter, gone in _pairs(module, masks):
        parameter.masked_fill_(gone, 0)


def hold_zero(module: nn.Module, optimizer: torch.optim.Optimizer, masks: Mapping[str, np.ndarray]) -> Any:
    """Do so now and after each step of the optimiser; the handle's `remove()` ends it."""
    pairs = _pairs(module, masks)
    _expect_trains(optimizer, pairs)

    @torch.no_grad()
    def after_step(*_: Any) -> None:
        for parameter, gone in pairs:
            parameter.masked_fill_(gone.to(parameter.device), 0)

    after_step()
    return optimizer.register_step_post_hook(after_step)


def _expect_trains(optimizer: Any, pairs: Sequence[tuple[nn.Parameter, torch.Tensor]]) -> None:
    if not hasattr(optimizer, "register_step_post_hook"):
        raise InputError(f"masks are held by a torch.optim.Optimizer, not by a {type(optimizer).__name__}")
    trained = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    if pairs and not any(id(parameter) in trained for parameter, _ in pairs):
        raise InputError("the optimizer trains none of the masked parameters: it was made for another module")


def _pairs(module: nn.Module, masks: Mapping[str, np.ndarray]) -> list[tuple[nn.Parameter, torch.Tensor]]:
    """Each masked parameter and where its zeros lie."""
    known = _unwrapped(module, masks)
    found = []
    for name in masks:
        mask = masks[name]
        if name not in known or tuple(known[name].shape) != mask.shape:
            shape = list(known[name].shape) if name in known else "none"
            raise InputError(f"the mask of '{name}' has shape {list(mask.shape)}; the module's parameter: {shape}")
        found.append((known[name], torch.from_numpy(~mask).to(known[name].device)))
    return found


def _unwrapped(module: nn.Module, names: Iterable[str]) -> dict[str, nn.Parameter]:
    """A module's parameters by name, without what `torch.compile` and `DataParallel` put before the names."""
    if not isinstance(module, nn.Module):
        raise InputError(f"masks are applied to a torch.nn.Module, not to a {type(module).__name__}")
    known = {name.replace(_COMPILED, ""): p for name, p in module.named_parameters(remove_duplicate=False)}
    first = next(iter(names), "")
    if first not in known and f"{_WRAPPED}{first}" in known:
        return {name.removeprefix(_WRAPPED): p for name, p in known.items()}
    return known


class Stored(Protocol):
    """Arrays by name, whose shapes and types are known before they are read."""

    path: Path

    def __iter__(self) -> Iterator[str]: ...

    def __getitem__(self, name: str) -> np.ndarray: ...

    def form(self, name: str) -> tuple[tuple[int, ...], np.dtype[Any]]:
        """Shape and element type."""


@torch.no_grad()
def set_weights(module: nn.Module, stored: Stored, optional: Container[str] = ()) -> None:
    """Copy arrays into parameters and buffers of their names, in place; none where one does not fit.

    Raises InputError where the module lacks a name that is not `optional`, or has it in another shape or type.
    """
    state = module.state_dict()
    for name in stored:
        if name not in state:
            if name in optional:
                continue
            raise InputError(f"'{stored.path}' holds '{name}', which the module has not")
        own, (shape, dtype) = state[name], stored.form(name)
        if tuple(own.shape) != shape or numpy_dtype(own.dtype) != dtype:
            found = f"{dtype} {list(shape)}, in the module {numpy_dtype(own.dtype)} {list(own.shape)}"
            raise InputError(f"'{name}' is {found}: '{stored.path}' is of another model")
    for name in stored:
        if name in state:
            state[name].copy_(to_torch(stored[name]))
