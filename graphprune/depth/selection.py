"""Which blocks go: the named ones, or those with the lowest scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from graphprune.errors import InputError
from graphprune.pruning.selection import matches

from .data import BLOCK, BRANCH, KINDS, Block


@dataclass(frozen=True)
class Wanted:
    """What to remove: exactly one of `count`, `keep` (the share that stays) and `names` (globs).

    `kind` is "block", "branch", or "" for blocks where there are any, else branches. `include` and `exclude` are globs
    on the names of blocks and of the weights and nodes within.
    """

    count: int | None = None
    keep: float | None = None
    names: Sequence[str] = ()
    kind: str = ""
    include: Sequence[str] = ()
    exclude: Sequence[str] = ()

    def check(self) -> None:
        """Raise InputError for what can suit no model."""
        given = [k for k in ("count", "keep", "names") if getattr(self, k) not in (None, ())]
        if len(given) != 1:
            raise InputError(f"exactly one of count, keep and names says what to remove, found {_and(given)}")
        if self.count is not None and self.count < 1:
            raise InputError(f"count={self.count}: the number of blocks to remove must be at least 1")
        if self.keep is not None and not 0 <= self.keep <= 1:
            raise InputError(f"keep={self.keep}: the share of the blocks that stays must be between 0 and 1")
        if self.kind not in ("", *KINDS):
            raise InputError(f"kind={self.kind}: the kinds are {_and(KINDS)}")


def choose(blocks: Sequence[Block], wanted: Wanted, model: str = "the model") -> list[Block]:
    """The blocks to remove, in the order of the graph; raises InputError where there are none or too few."""
    wanted.check()
    kind = wanted.kind or (BLOCK if any(b.kind == BLOCK for b in blocks) else BRANCH)
    of_kind = [b for b in blocks if b.kind == kind]
    if not of_kind:
        raise InputError(_nothing(blocks, kind, model))
    for glob in (*wanted.names, *wanted.include, *wanted.exclude):
        if not any(matches(b.names(), [glob]) for b in of_kind):
            raise InputError(f"'{glob}' matches no {kind} of '{model}'{_hint(of_kind, blocks, kind, glob)}")
    if wanted.names:
        return [b for b in of_kind if matches(b.names(), wanted.names) and not matches(b.names(), wanted.exclude)]
    open_ = [b for b in of_kind if not wanted.include or matches(b.names(), wanted.include)]
    open_ = [b for b in open_ if not matches(b.names(), wanted.exclude) and not b.outer]
    count = wanted.count if wanted.count is not None else int(len(open_) * (1 - (wanted.keep or 0.0)) + 1e-9)
    if count > len(open_):
        raise InputError(f"count={count} is more than the {_count(len(open_), kind)} of '{model}' that may go")
    least = sorted(range(len(open_)), key=lambda at: open_[at].score)[:count]
    return [open_[at] for at in sorted(least)]


def _nothing(blocks: Sequence[Block], kind: str, model: str) -> str:
    if not blocks:
        why = "no value is added to something computed from it alone, and no layer of equal input and output repeats"
        return f"nothing to remove: in '{model}', {why}"
    other = blocks[0].kind
    return f"'{model}' has no {kind} to remove; it has {_count(len(blocks), other)} (kind={other})"


def _hint(of_kind: Sequence[Block], blocks: Sequence[Block], kind: str, glob: str) -> str:
    others = [b for b in blocks if b.kind != kind and matches(b.names(), [glob])]
    if others:
        return f"; it matches {_count(len(others), others[0].kind)} (kind={others[0].kind})"
    names = [b.name for b in of_kind]
    return f"; there are {', '.join(names[:4])}" + (f" and {len(names) - 4} more" if len(names) > 4 else "")


def _count(number: int, kind: str) -> str:
    return f"{number} {kind}" if number == 1 else f"{number} {kind}{'es' if kind == BRANCH else 's'}"


def _and(words: Sequence[str]) -> str:
    return " and ".join(words) or "none"
