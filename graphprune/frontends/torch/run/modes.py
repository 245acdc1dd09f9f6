"""Running a module: the arguments of a call, its mode (training or eval) for a while, and quiet exporters."""

from __future__ import annotations

import io
import logging
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from typing import Any

from torch import fx, nn

from ..write.graph_module import PrunedModule
from .observers import resting
from .preserving import preserved


def split_inputs(example_inputs: Any) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Positional and keyword arguments from a tensor, a sequence of arguments or a dict of keyword arguments."""
    if isinstance(example_inputs, Mapping):
        return (), dict(example_inputs)
    if isinstance(example_inputs, (tuple, list)):
        return tuple(example_inputs), {}
    return (example_inputs,), {}


@contextmanager
def mode_of(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Put a module and its children into train or eval mode; afterwards all is as it was (see `preserved`).

    Tables that a module computed from its parameters and kept for inference would be captured as constants: a module
    drops them where `train()` is called.
    """
    before = [(m, m.training) for m in module.modules()]
    modes = module.modes() if isinstance(module, PrunedModule) else {}
    if isinstance(module, PrunedModule):
        module.set_modes(lambda node: training)
    with preserved(module), resting(module):
        switch(module, [(m, training) for m, _ in before], training)
        try:
            yield
        finally:
            for child, mode in before:
                child.training = mode
            if isinstance(module, PrunedModule):
                module.set_modes(modes.__getitem__)


def switch(module: nn.Module, modes: list[tuple[nn.Module, bool]], training: bool) -> None:
    """Through the module's own `train`, then each child as asked, whatever that has made of it.

    A graph module keeps nothing, and would be compiled anew.
    """
    if not isinstance(module, fx.GraphModule):
        with suppress(Exception):
            module.train(True).train(training)
    for child, mode in modes:
        child.training = mode


@contextmanager
def quiet() -> Iterator[None]:
    """Silence the warnings and log lines of exporters."""
    level = logging.root.manager.disable
    logging.disable(logging.ERROR)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
