"""Fresh inputs like those that a module was captured with."""

from __future__ import annotations

from typing import Any

import torch
from torch.utils import _pytree as pytree


def fresh_like(example: Any, seed: int) -> Any:
    """Inputs like the example's: normal floats, the example's integers in another order, booleans as they are."""
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
        order = torch.randperm(leaf.numel(), generator=generator)
        return leaf.flatten()[order.to(leaf.device)].reshape(leaf.shape)

    return pytree.tree_map(fresh, example)
