"""Evaluating at capture what depends on neither the model's input nor its parameters: masks, index tables, ranges."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from .binding import TOLD, free_axes
from .random import draws

# These read only the shape, type and device of their first argument.
_SHAPE_ONLY = frozenset(
    "zeros_like ones_like full_like empty_like new_zeros new_ones new_full new_empty new_empty_strided".split()
)

#: What may be known of a node that gives no tensor.
NUMBERS = (bool, int, float)

# Memory as it was found: what stands there must not depend on chance, even where it is overwritten later.
_EMPTY = frozenset({"empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "empty_permuted"})


class Folder:
    """Holds the tensors known at capture and extends them, call by call, in the order of the program."""

    def __init__(self) -> None:
        self.known: dict[fx.Node, Any] = {}

    def foldable(self, node: fx.Node, root: Callable[[fx.Node], fx.Node]) -> bool:
        """Whether a call can be evaluated now; `root` finds the first name of a tensor."""
        target = node.target
        if not isinstance(target, OpOverload) or draws(target):
            return False
        if target._opname in _SHAPE_ONLY:
            return not (free_axes(node) or node.meta.get(TOLD))
        return all(n in self.known and root(n) in self.known for n in node.all_input_nodes)

    def compute(self, node: fx.Node) -> bool:
        """Where a call takes known numbers only, as branches that the example decides do, know what it gives too."""
        numbers = [self.known.get(n) for n in node.all_input_nodes]
        if not callable(node.target) or not numbers or not all(isinstance(n, NUMBERS) for n in numbers):
            return False
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self.known.__getitem__)
        self.known[node] = node.target(*args, **kwargs)
        return True

    def evaluate(self, node: fx.Node) -> None:
        """Run a foldable call; in-place calls alter the tensors known."""
        assert isinstance(node.target, OpOverload)
        args, kwargs = fx.node.map_arg((node.args, node.kwargs), self._argument)
        with torch.no_grad():
            found = node.target(*args, **kwargs)
            self.known[node] = found.zero_() if node.target._opname in _EMPTY else found

    def tensor(self, node: fx.Node) -> torch.Tensor | None:
        """The tensor that a node is known to give."""
        found = self.known.get(node)
        return found if isinstance(found, torch.Tensor) else None

    def _argument(self, node: fx.Node) -> Any:
        if node in self.known:
            return self.known[node]
        like = node.meta["val"]
        return torch.empty((), dtype=like.dtype, device=like.device).expand(like.shape)
