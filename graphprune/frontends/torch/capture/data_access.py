"""`tensor.data` where a module is exported: no exporter can follow it, but `detach()` and `copy_()` it can."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

_GET, _SET = torch.Tensor.data.__get__, torch.Tensor.data.__set__  # type: ignore[attr-defined]


class _Detached(TorchFunctionMode):
    """Reading `.data` detaches; setting it copies, where the sizes are the same."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func == _GET:
            return args[0].detach()
        if func == _SET and args[0].shape == args[1].shape:
            with torch.no_grad():
                args[0].copy_(args[1])
            return None
        return func(*args, **(kwargs or {}))


@contextmanager
def detached_data(module: nn.Module) -> Iterator[None]:
    """While this lasts, a module's `forward` reads and sets the `.data` of tensors in a way that can be exported."""
    forward = module.forward

    @functools.wraps(forward)
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        with _Detached():
            return forward(*args, **kwargs)

    module.forward = wrapped  # taken back with all that is set on the module meanwhile
    try:
        yield
    finally:
        if vars(module).get("forward") is wrapped:
            del module.forward
