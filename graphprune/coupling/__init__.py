"""Coupling: label every index, one rule per operator, connected components (see `docs/design.md`)."""

from __future__ import annotations

from .attempts import couple
from .couple import Coupling, Frozen, Group, Unknown
from .labeller import Use
from .presence import there
from .roles import DEFAULT, on_request, pick_roles
from .tables import Table, requested

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
