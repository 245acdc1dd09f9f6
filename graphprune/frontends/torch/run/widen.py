"""Running a module in float64, whatever float types its weights, constants and casts have."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import _pytree as pytree

_WIDE = {
    torch.float16: torch.float64, torch.bfloat16: torch.float64, torch.float32: torch.float64,
    torch.complex32: torch.complex128, torch.complex64: torch.complex128,
}  # fmt: skip


class _Widening(TorchFunctionMode):
    """Every call sees float64 in the place of narrower floats, as tensors and as types asked for.

    A tensor has one twin as long as this lasts, so that what is written to it is read again.
    """

    def __init__(self) -> None:
        super().__init__()
        self._twins: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def __torch_function__(
        self, func: Callable[..., Any], types: Sequence[type], args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        args, kwargs = pytree.tree_map(self._wide, (args, kwargs or {}))
        return pytree.tree_map(self._result, func(*args, **kwargs))

    def _wide(self, leaf: Any) -> Any:
        if isinstance(leaf, torch.dtype):
            return _WIDE.get(leaf, leaf)
        if not isinstance(leaf, torch.Tensor):
            return leaf
        with torch._C.DisableTorchFunction():
            if leaf.dtype not in _WIDE:
                return leaf
            if id(leaf) not in self._twins:
                self._twins[id(leaf)] = leaf, leaf.detach().to(_WIDE[leaf.dtype])
            return self._twins[id(leaf)][1]

    def _result(self, leaf: Any) -> Any:
        """Results such as those of `Tensor.float`, which names no type."""
        if not isinstance(leaf, torch.Tensor):
            return leaf
        with torch._C.DisableTorchFunction():
            return leaf.to(_WIDE[leaf.dtype]) if leaf.dtype in _WIDE else leaf


@contextmanager
def widening() -> Iterator[None]:
    """Compute in float64 while this lasts."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        with _Widening():
            yield
    finally:
        torch.set_default_dtype(before)
