"""What rules state while labels are walked, kept until it is solved."""

from __future__ import annotations

from dataclasses import dataclass, field

from graphprune.ops.base import Array

#: The reason of indices that met some that must stay; `reasons.py` finds out which where somebody asks.
MET = "it meets an index that must stay"


@dataclass
class Statements:
    """What the rules said, with the node that said it."""

    equal: list[tuple[Array, Array, int]] = field(default_factory=list)
    freeze: list[tuple[Array, int, str]] = field(default_factory=list)
    balance: list[tuple[Array, int]] = field(default_factory=list)
    statistic: list[tuple[Array, int]] = field(default_factory=list)
    resolved: list[tuple[str, Array]] = field(default_factory=list)
    at_least: list[tuple[Array, int]] = field(default_factory=list)
    apart: list[tuple[Array, int]] = field(default_factory=list)
    ordered: list[Array] = field(default_factory=list)
