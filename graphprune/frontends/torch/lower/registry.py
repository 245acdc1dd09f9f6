"""How ATen calls become canonical nodes: the view of one call that a lowering sees, and the table of lowerings.

A lowering is a function from a `Call` to a `Spec`, registered under ATen packet names (`conv2d`, not
`conv2d.padding`). It returns None where the call is outside what the canonical kind can say; the node is then
`unknown`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import fx
from torch._ops import OpOverload

from graphprune.errors import GraphPruneError

from .binding import TOLD, bound

#: Operators whose second argument holds the sizes (or counts) of the result, one for each axis.
BAKED = (torch.ops.aten.reshape.default, torch.ops.aten.expand.default, torch.ops.aten.repeat.default)


class Schema(NamedTuple):
    """Argument names of an operator: the first `positional` may be given by position."""

    names: tuple[str, ...]
    place: dict[str, int]
    defaults: tuple[Any, ...]
    positional: int


@cache
def schema_of(target: OpOverload) -> Schema:
    """The argument names and defaults of an operator."""
    arguments = target._schema.arguments
    names = tuple(a.name for a in arguments)
    defaults = tuple(a.default_value if a.has_default_value() else None for a in arguments)
    positional = sum(not a.kwarg_only for a in arguments)
    return Schema(names, {n: i for i, n in enumerate(names)}, defaults, positional)


class Name(str):
    """In the arguments of a rewritten call: the tensor that was passed under this name."""


@dataclass(frozen=True)
class Spec:
    """What a call becomes: a kind, the names of the arguments that are its inputs in canonical order, and attributes.

    A name that stands for a list of tensors contributes all of them; an absent optional tensor contributes None.
    `target`, `args` and `kwargs` replace the call by an equivalent one (`expand_as` by `expand`).
    """

    kind: str
    inputs: tuple[str, ...]
    attrs: dict[str, Any] = field(default_factory=dict)
    target: OpOverload | None = None
    args: tuple[Any, ...] = ()
    kwargs: dict[str, Any] = field(default_factory=dict)


class Call:
    """One ATen call: arguments by schema name, shapes of tensors, values of constants."""

    __slots__ = ("_constant", "_told", "name", "node", "schema", "target")

    def __init__(self, node: fx.Node, target: Any, constant: Callable[[fx.Node], torch.Tensor | None]) -> None:
        assert isinstance(target, OpOverload)
        self.node = node
        self.target = target
        self.schema = schema_of(target)
        self.name: str = target._opname
        self._constant = constant
        self._told: bool = node.meta.get(TOLD, False)

    def __getitem__(self, name: str) -> Any:
        """The argument, or its default."""
        argument = self.raw(name)
        return bound(argument) if self._told else argument

    def raw(self, name: str) -> Any:
        """The argument with numbers that follow values as nodes."""
        at = self.schema.place[name]
        if at < len(self.node.args):
            return self.node.args[at]
        return self.node.kwargs.get(name, self.schema.defaults[at])

    def __contains__(self, name: str) -> bool:
        return name in self.schema.place

    def get(self, name: str, default: Any = None) -> Any:
        """The argument, or `default` where this overload has none of that name."""
        return self[name] if name in self.schema.place else default

    def has(self, name: str) -> bool:
        """Whether a tensor was passed under this name."""
        return name in self and isinstance(self[name], fx.Node)

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of a tensor argument."""
        return tuple(self[name].meta["val"].shape)

    def rank(self, name: str) -> int:
        """The rank of a tensor argument."""
        return len(self[name].meta["val"].shape)

    def dtype(self, name: str) -> torch.dtype:
        """The type of a tensor argument."""
        dtype: torch.dtype = self[name].meta["val"].dtype
        return dtype

    def axis(self, name: str, value: int) -> int:
        """A non-negative axis of a tensor argument."""
        return value % max(self.rank(name), 1)

    @property
    def results(self) -> tuple[torch.Tensor, ...]:
        """The (fake) results."""
        value = self.node.meta["val"]
        return tuple(value) if isinstance(value, (tuple, list)) else (value,)

    @property
    def out(self) -> tuple[int, ...]:
        """The shape of the first result."""
        return tuple(self.results[0].shape)

    def tensors(self) -> tuple[str, ...]:
        """The names of all arguments that are tensors or lists of tensors."""
        return tuple(n for n in self.schema.names if _holds_node(self[n]))

    def scalars(self) -> list[float]:
        """The Python numbers among the arguments that were passed."""
        given = (*self.node.args, *self.node.kwargs.values())
        return [a for a in given if isinstance(a, (int, float)) and not isinstance(a, bool)]

    def constant(self, name: str) -> np.ndarray | None:
        """The elements of a tensor argument, where they do not depend on the model's input or parameters."""
        return self.constant_of(self[name])

    def constant_of(self, node: fx.Node) -> np.ndarray | None:
        """The elements of a tensor, as `constant`."""
        found = self._constant(node)
        return None if found is None else found.detach().cpu().numpy()


def _holds_node(value: Any) -> bool:
    items = value if isinstance(value, (list, tuple)) else (value,)
    return any(isinstance(item, fx.Node) for item in items)


Lowering = Callable[[Call], Spec | None]
_TABLE: dict[str, Lowering] = {}


def lowers(*names: str) -> Callable[[Lowering], Lowering]:
    """Register the decorated lowering for these ATen packet names."""

    def register(lowering: Lowering) -> Lowering:
        for name in names:
            if name in _TABLE:
                raise GraphPruneError(f"two lowerings are registered for 'aten::{name}'")
            _TABLE[name] = lowering
        return lowering

    return register


def lowering_of(name: str) -> Lowering | None:
    """The lowering registered for a packet name."""
    return _TABLE.get(name)
