"""Modules that people hold in a wrapper: taken out of it; TorchScript is translated by torch."""

from __future__ import annotations

import sys
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.utils import _pytree as pytree

from graphprune.errors import InputError

from .refusals import first_line

#: By class of the wrapper: where it has the module.
_INSIDE: dict[type[nn.Module], str] = {DataParallel: "module", DistributedDataParallel: "module"}


def unwrapped(module: nn.Module) -> tuple[nn.Module, tuple[str, ...]]:
    """The module that others are around for running on several devices, compiled, or averaged, and a note for each."""
    notes = []
    while (name := _inside(module)) is not None:
        notes.append(f"{type(module).__name__} was taken off: the result is the module inside; wrap it again")
        module = getattr(module, name)
    return module, tuple(notes)


def _inside(module: nn.Module) -> str | None:
    wrappers = dict(_INSIDE)
    for home, kind, name in (
        ("torch._dynamo.eval_frame", "OptimizedModule", "_orig_mod"),
        ("torch.optim.swa_utils", "AveragedModel", "module"),
    ):
        if home in sys.modules:
            wrappers[getattr(sys.modules[home], kind)] = name
    return next((name for kind, name in wrappers.items() if isinstance(module, kind)), None)


def translated(module: torch.jit.ScriptModule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> nn.Module:
    """A scripted or traced module as a graph module.

    Raises:
        InputError: torch cannot translate it.
    """
    from torch._export.converter import TS2EPConverter

    # The converter marks sizes as dynamic, on the tensors themselves.
    args, kwargs = pytree.tree_map_only(torch.Tensor, lambda t: t.detach().clone(), (args, kwargs))
    try:
        program = TS2EPConverter(module.eval(), args, kwargs).convert()
        return program.module(check_guards=False)
    except Exception as error:
        raise InputError(
            f"torch cannot translate this TorchScript module: {first_line(error)}; "
            "give the Python module that it was made from"
        ) from error
