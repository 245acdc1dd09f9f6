"""Looking at one call of an exported graph: its arguments, whose it is, whether it may write to what it is given."""

from __future__ import annotations

from typing import Any

from torch import fx
from torch._ops import OpOverload

from .aliasing import mutates

_PURE = frozenset("associative_scan cond flex_attention map_impl scan while_loop".split())


def may_write(target: Any) -> bool:
    """Whether a call may change its arguments; of higher-order operators, only a few are known not to."""
    return mutates(target) if isinstance(target, OpOverload) else str(target) not in _PURE


def mapped(value: Any, place: Any) -> Any:
    """Arguments with what `place` makes of each node in them."""
    if isinstance(value, fx.Node):
        return place(value)
    if isinstance(value, (tuple, list)):
        return type(value)(mapped(v, place) for v in value)
    if isinstance(value, dict):
        return {k: mapped(v, place) for k, v in value.items()}
    return value


def owner_of(node: fx.Node) -> str:
    """The path of the module whose `forward` made the call."""
    stack = node.meta.get("nn_module_stack")
    if not stack:
        return ""
    path: str = next(reversed(stack.values()))[0]
    return ".".join(part.split("@")[0] for part in path.split("."))
