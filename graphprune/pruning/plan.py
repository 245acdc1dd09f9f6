"""A plan:

which components of each coupled group stay. Data, not code: it can be read, edited, saved and applied again.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from operator import index
from pathlib import Path
from typing import Any

import numpy as np

from graphprune.atomic import whole
from graphprune.coupling import Coupling, Group
from graphprune.errors import InputError
from graphprune.ops.base import Array

_FORMAT = 1


@dataclass(frozen=True)
class PlanGroup:
    """What stays of one group: `keep` holds one ascending list of positions per row (rows keep equal numbers).

    `name` is the group's as the file has it; `label`, where it is another, is what reports call it (for people).
    """

    name: str
    rows: int
    size: int
    width: int
    exact: bool
    keep: tuple[tuple[int, ...], ...]
    reason: str = ""
    label: str = ""

    @property
    def kept(self) -> int:
        """Number of components that stay, over all rows."""
        return sum(len(row) for row in self.keep)


@dataclass(frozen=True)
class Plan:
    """The kept components of every group of the model with this fingerprint.

    `grouped`, `rows` and `inner` are how it was coupled (see `coupling.couple`).
    """

    model: str
    fingerprint: str
    target: str
    criterion: str
    groups: tuple[PlanGroup, ...]
    grouped: str = "within"
    notes: dict[str, Any] = field(default_factory=dict)
    rows: tuple[str, ...] = ()
    inner: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"format": _FORMAT, **asdict(self)}

    @property
    def text(self) -> str:
        """The plan as a file holds it."""
        return json.dumps(self.to_json(), indent=1) + "\n"

    def save(self, path: str | Path) -> None:
        """Write as JSON; the file appears whole or not at all."""
        with whole(path) as draft:
            draft.write_text(self.text, encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Plan:
        """Read a plan; raises InputError if the file is not one."""
        try:
            return cls.from_json(json.loads(Path(path).read_text(encoding="utf-8")))
        except OSError as error:
            raise InputError(f"cannot read the plan '{path}': {error.strerror}") from error
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise InputError(f"'{path}' is not a graphprune plan: {error}") from error

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Plan:
        """The inverse of `to_json`."""
        if data["format"] != _FORMAT:
            raise ValueError(f"format {data['format']} is not {_FORMAT}")
        texts = {
            name: data[name] for name in ("model", "fingerprint", "target", "criterion", "grouped") if name in data
        }
        for name, text in texts.items():
            if not isinstance(text, str):
                raise ValueError(f"'{name}' is {text!r}, not a text")
        groups = tuple(
            PlanGroup(**{**g, "keep": tuple(tuple(map(index, row)) for row in g["keep"])}) for g in data["groups"]
        )
        rows, inner = (tuple(map(str, data.get(key, ()))) for key in ("rows", "inner"))
        rest = {k: v for k, v in data.items() if k not in ("format", "groups", "rows", "inner")}
        return cls(**rest, groups=groups, rows=rows, inner=inner)

    def kept(self, coupling: Coupling) -> Array:
        """Which components of a coupling stay (bool); raises InputError where the plan does not fit the model."""
        found = coupling.fingerprint
        if found != self.fingerprint:
            raise InputError(
                f"the plan was made for another model: fingerprint {self.fingerprint}, this one is {found}"
            )
        if len(self.groups) != len(coupling.groups):
            raise InputError(f"the plan has {len(self.groups)} groups, the model has {len(coupling.groups)}")
        keep = np.ones(coupling.count, bool)
        for group, own in zip(coupling.groups, self.groups, strict=True):
            _check(group, own)
            keep[group.components] = False
            for row, positions in zip(group.components, own.keep, strict=True):
                keep[row[list(positions)]] = True
        for labels, count in coupling.at_least:
            if keep[coupling.component[labels]].sum() < count:
                raise InputError(f"the plan keeps fewer than {count} indices where an operator needs {count}")
        return keep


def _check(group: Group, own: PlanGroup) -> None:
    rows, size = group.components.shape
    if own.name != group.name or (own.rows, own.size) != (rows, size) or len(own.keep) != rows:
        raise InputError(f"plan group '{own.name}' does not match the model's group '{group.name}'")
    for row in own.keep:
        if not row or sorted(set(row)) != list(row) or row[0] < 0 or row[-1] >= size:
            raise InputError(
                f"plan group '{own.name}': keep must be ascending positions from 0 to {size - 1}, not empty"
            )
    if len({len(row) for row in own.keep}) > 1:
        raise InputError(f"plan group '{own.name}': every row must keep the same number")


def plan_groups(coupling: Coupling, keep: Array, reasons: Sequence[str]) -> tuple[PlanGroup, ...]:
    """The plan's groups for a mask over components."""
    return tuple(
        PlanGroup(
            group.name,
            group.components.shape[0],
            group.components.shape[1],
            group.width,
            group.exact,
            tuple(tuple(np.flatnonzero(keep[row]).tolist()) for row in group.components),
            reason,
            "" if group.label == group.name else group.label,
        )
        for group, reason in zip(coupling.groups, reasons, strict=True)
    )
