"""Coupling: label every index, one rule per operator, connected components (see `docs/design.md`)."""

from __future__ import annotations

from .attempts import couple
from .couple import Coupling, Frozen, Group, Unknown
from .liveness import there
from .roles import DEFAULT, on_request, pick_roles
from .tables import Table, requested
from .uses import Use

__all__ = [
    "DEFAULT",
    "Coupling",
    "Frozen",
    "Group",
    "Table",
    "Unknown",
    "Use",
    "couple",
    "on_request",
    "pick_roles",
    "requested",
    "there",
]
