"""What a frontend says about the sums that an operator forms."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Summing:
    """What an operator sums up inside, in the type of its first input: `|x| ** power` along `axes`, or along windows in
    them of `terms` elements.
    """

    power: float
    axes: tuple[int, ...]
    terms: int | None = None
