"""Weights as nodes read them."""

from __future__ import annotations

from dataclasses import dataclass

from graphprune.ir.graph import Node, Value
from graphprune.ops import Block, Columns
from graphprune.ops.base import Array


@dataclass(eq=False)
class Use:
    """One weight as one node reads it: how its axes are labeled, and so how it will be sliced.

    Where its elements are positions along an axis, `positions` are the labels of that axis: they are counted anew.
    """

    node: Node
    slot: int
    value: Value
    blocks: tuple[Block, ...]
    columns: Columns | None = None
    positions: Array | None = None
