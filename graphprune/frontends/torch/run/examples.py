"""Fresh inputs like those that a module was captured with."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree


def fresh_like(example: Any, seed: int) -> Any:
    """Inputs like the example's: normal floats, the example's integers in another order, booleans as they are.

    A vector of integers that rises from 0 may say where parts begin, as the offsets of bags do: others rise as far. One
    that falls may say how long sequences are that have to be in order: it stays.
    """
    generator = torch.Generator().manual_seed(seed)

    def fresh(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor) or leaf.dtype is torch.bool:
            return leaf
        if leaf.is_floating_point() or leaf.is_complex():
            kind = torch.float32 if leaf.is_floating_point() else torch.complex64
            noise = torch.randn(leaf.shape, generator=generator, dtype=kind)
            if leaf.ndim > 2:  # pure noise averages out in deep networks; an offset per channel does not
                noise += torch.randn((*leaf.shape[:2], *[1] * (leaf.ndim - 2)), generator=generator, dtype=kind)
            return noise.to(leaf.device, leaf.dtype)
        if _rises(leaf):
            return _rising(leaf, generator)
        if _falls(leaf):
            return leaf
        order = torch.randperm(leaf.numel(), generator=generator)
        return leaf.flatten()[order.to(leaf.device)].reshape(leaf.shape)

    return pytree.tree_map(fresh, example)


def _rises(leaf: torch.Tensor) -> bool:
    return leaf.ndim == 1 and len(leaf) > 1 and int(leaf[0]) == 0 and bool((leaf.diff() >= 0).all())


def _falls(leaf: torch.Tensor) -> bool:
    return leaf.ndim == 1 and len(leaf) > 1 and bool((leaf.diff() <= 0).all()) and int(leaf[0]) > int(leaf[-1]) > 0


def _rising(leaf: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """From 0 to the same end, without repetitions where the example has none."""
    end, inner = int(leaf[-1]), len(leaf) - 2
    if bool((leaf.diff() > 0).all()):
        between = torch.randperm(max(end - 1, 0), generator=generator)[:inner] + 1
    else:
        between = torch.randint(0, end + 1, (inner,), generator=generator)
    found = torch.cat([torch.zeros(1, dtype=torch.int64), between.sort().values, torch.tensor([end])])
    return found.to(leaf.device, leaf.dtype)
