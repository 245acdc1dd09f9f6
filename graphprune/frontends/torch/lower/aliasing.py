"""In-place operators as functions: which names of a tensor go stale when it is overwritten."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

# In-place operators that change what a tensor looks like, not its elements: other views stay valid.
_METADATA = frozenset("squeeze_ unsqueeze_ transpose_ t_ swapaxes_ swapdims_ detach_ requires_grad_".split())
# Operators that hand their input through at inference without saying so in their schema.
_SILENT_ALIASES = frozenset("dropout feature_dropout alpha_dropout feature_alpha_dropout".split())


aten = torch.ops.aten


class StaleViewError(Exception):
    """An in-place operator writes through a view that is read under another name afterwards."""


def only_metadata(target: OpOverload) -> bool:
    """Whether an in-place operator leaves the elements alone."""
    return target._opname in _METADATA


def mutates(target: Any) -> bool:
    """Whether an operator writes to one of its arguments."""
    return isinstance(target, OpOverload) and target._schema.is_mutable


def is_view(target: OpOverload) -> bool:
    """Whether the result may share memory with the first argument."""
    returns = target._schema.returns
    aliased = bool(returns) and returns[0].alias_info is not None
    return (aliased and not target._schema.is_mutable) or target._opname in _SILENT_ALIASES


def functional(node: fx.Node) -> OpOverload | None:
    """The function that an in-place operator applies, where it gives a result of the same type."""
    target = node.target
    assert isinstance(target, OpOverload)
    found = twin(target)
    return found if found is not None and (only_metadata(target) or _keeps_type(node)) else None


@cache
def twin(target: OpOverload) -> OpOverload | None:
    """The function of an in-place operator: of all overloads the one that takes arguments of the same types.

    Names of overloads do not tell: `pow_.Scalar` has a number as exponent, `pow.Scalar` one as base.
    """
    name, schema = target._opname, target._schema
    if not name.endswith("_") or name.endswith("__") or not (schema.arguments and schema.arguments[0].is_write):
        return None
    packet = getattr(getattr(torch.ops, target.namespace), name[:-1], None)
    if packet is None:
        return None
    names = sorted(packet.overloads(), key=lambda overload: overload != target._overloadname)
    fitting = (getattr(packet, overload) for overload in names)
    return next((f for f in fitting if argument_types(f) == argument_types(target)), None)


def argument_types(target: OpOverload) -> list[tuple[str, str]]:
    """Types of the arguments of an operator, and their names but for that of the first, which is given by position."""
    return [(argument.name if at else "", str(argument.type)) for at, argument in enumerate(target._schema.arguments)]


def _keeps_type(node: fx.Node) -> bool:
    first = node.args[0]
    assert isinstance(first, fx.Node)
    dtype = first.meta["val"].dtype
    if node.target._opname == "copy_":  # type: ignore[union-attr]
        return True
    operands = [a.meta["val"].dtype for a in node.all_input_nodes if isinstance(a.meta.get("val"), torch.Tensor)]
    return all(d == dtype or d in (torch.bool, torch.int64) for d in operands)


class Aliases:
    """Names of the same memory. The root of an fx node is the node that first named its tensor object."""

    def __init__(self) -> None:
        self._same: dict[fx.Node, fx.Node] = {}
        self._memory: dict[fx.Node, list[fx.Node]] = {}
        self.stale: set[fx.Node] = set()

    def root(self, node: fx.Node) -> fx.Node:
        """The node that first named this tensor object."""
        while node in self._same:
            node = self._same[node]
        return node

    def same(self, result: fx.Node, tensor: fx.Node) -> None:
        """`result` is the very tensor object that `tensor` is."""
        self._same[result] = self.root(tensor)

    def same_tensor(self, first: Any, second: Any) -> bool:
        """Whether two arguments are one tensor object."""
        return isinstance(first, fx.Node) and isinstance(second, fx.Node) and self.root(first) is self.root(second)

    def is_looking(self, root: fx.Node) -> bool:
        """Whether a tensor object looks at the memory of another."""
        return self._memory.get(root, [root])[0] is not root

    def view(self, result: fx.Node, base: fx.Node) -> None:
        """`result` looks at the memory of `base`."""
        base = self.root(base)
        members = self._memory.setdefault(base, [base])
        members.append(result)
        self._memory[result] = members

    def write(self, written: fx.Node) -> list[fx.Node]:
        """`written` (a root) is overwritten. Returns the views to scatter into, innermost first.

        Each of them is a slice or one index of the next tensor; the last one's base is the owner of the memory. All
        other names of the memory go stale, and all bases where one of the views on the way is of another kind.
        """
        chain = []
        node = written
        while self._is_part(node):
            chain.append(node)
            node = self.root(node.args[0])  # type: ignore[arg-type]
        current = {written, *(self.root(n.args[0]) for n in chain)}  # type: ignore[arg-type]
        self.stale.update(m for m in self._memory.get(written, ()) if m not in current)
        return chain

    def _is_part(self, node: fx.Node) -> bool:
        return node in self._memory and node.target in (aten.slice.Tensor, aten.select.int)
