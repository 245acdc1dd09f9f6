"""One random network with one random way of pruning it: from a seed, or drawn by hypothesis from the same choices."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from .blocks import BLOCKS
from .programs import Program, Step

#: Every choice but the program, with its options; what is likelier stands there more than once.
CHOICES: dict[str, tuple[Any, ...]] = {
    "target": ("channels", "channels", "params", "macs"),
    "ratio": (0.25, 0.4, 0.5, 0.7),
    "criterion": ("random", "random", "random", "l1", "l2", "bn-scale", "fpgm", "lamp"),
    "grouped": ("within", "whole"),
    "align": (1, 1, 2, 4, None),
    "floor": (0.1, 0.1, 0.0, 0.4),
    "include": ((),) * 9 + (("*w[1-9]*",),),
    "exclude": ((),) * 5 + (("*w2*",), ("*w[4-7]",)),
    "batch": (1, 2, 2),
    "extra": ((), (), ("z",), ("ids",), ("z", "ids")),
    "opset": (17, 18, 21, 23),
    "dynamic": (False, False, True),
    "computed": (False, True),
}
#: How many programs of a hundred hold an operator that no table knows.
_STRANGE = 5
_LONGEST = 7


@dataclass(frozen=True)
class Case:
    """A program (blocks with two numbers each), what it is written in, and how it is pruned."""

    backend: str
    steps: tuple[Step, ...]
    number: int = 0
    target: str = "channels"
    ratio: float = 0.5
    criterion: str = "random"
    grouped: str = "within"
    align: int | None = 1
    floor: float = 0.1
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    batch: int = 2
    extra: tuple[str, ...] = ()
    opset: int = 18
    dynamic: bool = False
    computed: bool = False

    def program(self) -> Program:
        return Program(self.steps, self.number, self.batch, self.extra)

    def shorter(self) -> Iterator[Case]:
        """Cases with one block or one choice less, for shrinking what failed."""
        for i in range(len(self.steps)):
            yield replace(self, steps=self.steps[:i] + self.steps[i + 1 :])
        plain = Case(self.backend, self.steps, self.number)
        for name in CHOICES:
            if getattr(self, name) != getattr(plain, name):
                yield replace(self, **{name: getattr(plain, name)})

    def __str__(self) -> str:
        """Python that makes it again, without what is as usual."""
        plain = Case(self.backend, self.steps)
        own = [f"{n}={getattr(self, n)!r}" for n in ("number", *CHOICES) if getattr(self, n) != getattr(plain, n)]
        return f"Case({', '.join([repr(self.backend), repr(self.steps), *own])})"


def random_case(seed: int, backend: str) -> Case:
    """The case of a seed."""
    dice = random.Random(f"{backend} {seed}")
    names = sorted(BLOCKS)
    steps = [(dice.choice(names), dice.randrange(12), dice.randrange(12)) for _ in range(dice.randint(1, _LONGEST))]
    if dice.randrange(100) < _STRANGE:
        steps.insert(dice.randint(0, len(steps)), ("strange", dice.randrange(12), dice.randrange(12)))
    chosen = {name: dice.choice(options) for name, options in CHOICES.items()}
    return Case(backend, tuple(steps), dice.randrange(100_000), **chosen)
