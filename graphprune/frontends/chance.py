"""Scripts for random operators: the numbers that a model draws in one run after the other, the same each time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol
from zlib import crc32

import numpy as np

#: Which numbers: those of the n-th operator that a node of a graph calls; without a node, of the n-th of the model.
Key = tuple[str, int]
Shape = tuple[int, ...]

#: What is left of the numbers that a node of the original draws; None where that has another shape than one given.
Cut = Callable[[str, np.ndarray, Shape | None], np.ndarray | None]


class Script(Protocol):
    """Gives the numbers of one run after the other."""

    def begin(self) -> None:
        """A run begins."""

    def draw(self, op: str, shape: Shape, node: Key | None) -> np.ndarray:
        """Numbers between 0 and 1, of this shape, for an operator; the key where a graph runs."""


def uniform(node: str, turn: int, shape: Shape) -> np.ndarray:
    """Numbers between 0 and 1, neither of them included."""
    numbers: np.ndarray = np.random.default_rng([crc32(node.encode()), turn]).random(shape)
    return np.maximum(numbers, 2.0**-54)


class Full:
    """What the original draws: it follows from the place of an operator alone. What was asked for is remembered."""

    def __init__(self) -> None:
        self.asked: dict[Key, tuple[str, Shape]] = {}
        self._at = 0

    def begin(self) -> None:
        """A run begins."""
        self._at = 0

    def draw(self, op: str, shape: Shape, node: Key | None) -> np.ndarray:
        """The numbers for an operator; `node` says where, unless the order of calls does."""
        if node is None:
            node, self._at = ("", self._at), self._at + 1
        self.asked.setdefault(node, (op, shape))
        return uniform(*node, shape)

    def of(self, node: str, shape: Shape) -> np.ndarray:
        """The numbers for the only operator in a node, of the size that the original draws."""
        return uniform(node, 0, shape)


class Left:
    """What is left of that for the result: by node where a graph runs, else in the order of calls.

    Numbers of another size than the original's are `cut` out of them. What is drawn beside has numbers of its own: a
    class may draw what it never uses. `beside` says what that was in the last run.
    """

    def __init__(self, full: Full, cut: Cut | None = None) -> None:
        self._full, self._cut, self._at = full, cut, 0
        self.beside = ""

    def begin(self) -> None:
        """A run begins."""
        self._at, self.beside = 0, ""

    def draw(self, op: str, shape: Shape, node: Key | None) -> np.ndarray:
        """The numbers for an operator."""
        asked = self._full.asked
        found = self._numbers(node, shape) if node is not None and node in asked else self._next(op, shape)
        if found is None:
            self.beside = self.beside or self._why(op, shape)
            return uniform(op, 0, shape)
        return found

    def of(self, node: str, shape: Shape) -> np.ndarray:
        """What is left of the numbers for the only operator in a node, of the size that the original draws."""
        numbers = uniform(node, 0, shape)
        found = None if self._cut is None else self._cut(node, numbers, None)
        return numbers if found is None else found

    def _next(self, op: str, shape: Shape) -> np.ndarray | None:
        """What the next operator of this kind in the original draws that has so many numbers left."""
        asked = list(self._full.asked.items())
        for at in range(self._at, len(asked)):
            key, (theirs, _) = asked[at]
            if theirs == op and (found := self._numbers(key, shape)) is not None:
                self._at = at + 1
                return found
        return None

    def _numbers(self, key: Key, shape: Shape) -> np.ndarray | None:
        numbers = uniform(*key, self._full.asked[key][1])
        return (numbers if numbers.shape == shape else None) if self._cut is None else self._cut(key[0], numbers, shape)

    def _why(self, op: str, shape: Shape) -> str:
        nodes = ", ".join(f"'{name}'" for name, _ in list(self._full.asked)[self._at : self._at + 3])
        whose = f"the original draws next in {nodes}" if nodes else "the original draws no more"
        return f"{op} draws random numbers of shape {list(shape)} that the original does not: {whose}"


@dataclass(frozen=True)
class Draws:
    """The scripts of a comparison: the original's, and the result's."""

    full: Full
    left: Left


class Alike:
    """The same numbers for each index of the first axis, in the order of calls: for batches of any size."""

    def __init__(self, seed: int = 0) -> None:
        self._seed, self._at = seed, 0

    def begin(self) -> None:
        """A run begins."""
        self._at = 0

    def draw(self, op: str, shape: Shape, node: Key | None) -> np.ndarray:
        """The numbers for an operator."""
        self._at += 1
        return np.broadcast_to(uniform(f"{op} {self._seed}", self._at, (1, *shape[1:]) if shape else ()), shape)
