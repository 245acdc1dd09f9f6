"""Targets: what a caller asks a pruned model to keep, one of them or several at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from graphprune.errors import InputError
from graphprune.registry import pick

KINDS = ("channels", "params", "macs")


@dataclass(frozen=True)
class Target:
    """`kind` is "channels", "params" or "macs"; `ratio` is the part that stays, in (0, 1]."""

    kind: str
    ratio: float

    def __post_init__(self) -> None:
        object.__setattr__(self, "kind", pick("target", self.kind, sorted(KINDS)))
        if not 0 < self.ratio <= 1:
            raise InputError(f"target {self.kind}={self.ratio}: the ratio must be greater than 0 and at most 1")

    @classmethod
    def of(cls, target: Target | str) -> Target:
        """A target, or one written as "macs=0.5"."""
        if isinstance(target, Target):
            return target
        kind, _, ratio = str(target).partition("=")
        try:
            return cls(kind.strip(), float(ratio))
        except ValueError:
            raise InputError(f"target '{target}': write for instance macs=0.5") from None

    def __str__(self) -> str:
        return f"{self.kind}={self.ratio:g}"


@dataclass(frozen=True)
class Targets:
    """Several targets that a result meets all at once, of different kinds."""

    given: tuple[Target, ...]

    @classmethod
    def of(cls, targets: Target | str | Targets | Sequence[Target | str]) -> Targets:
        """One target or several, also written as "macs=0.5" or "macs=0.5,params=0.6".

        Raises InputError where there is none, or two of one kind.
        """
        if isinstance(targets, Targets):
            return targets
        parts: Sequence[Target | str] = targets.split(",") if isinstance(targets, str) else ()
        if not parts:
            parts = [targets] if isinstance(targets, Target) else list(targets)
        given = tuple(Target.of(part) for part in parts)
        if not given:
            raise InputError("no target is given; write for instance macs=0.5")
        for target in given:
            alike = [str(other) for other in given if other.kind == target.kind]
            if len(alike) > 1:
                raise InputError(f"the target {target.kind} is given twice: {' and '.join(alike)}")
        return cls(given)

    @property
    def share(self) -> float | None:
        """The part of every group that stays, where that is asked for."""
        return next((target.ratio for target in self.given if target.kind == "channels"), None)

    @property
    def limits(self) -> Mapping[str, float]:
        """The parts of totals that may stay, by kind."""
        return {target.kind: target.ratio for target in self.given if target.kind != "channels"}

    def __str__(self) -> str:
        return ",".join(map(str, self.given))


def channels(ratio: float) -> Target:
    """Keep this part of the components of every group."""
    return Target("channels", ratio)


def params(ratio: float) -> Target:
    """Keep at most this part of the parameters, spread by global ranking."""
    return Target("params", ratio)


def macs(ratio: float) -> Target:
    """Keep at most this part of the multiply-accumulates, spread by global ranking."""
    return Target("macs", ratio)
