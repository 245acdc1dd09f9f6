"""Coupling: label every index, one rule per operator, connected components (see `docs/design.md`)."""

from __future__ import annotations

from .couple import Coupling, Frozen, Group, Unknown, couple
from .labeller import Use
from .presence import there
from .tables import Table, requested

__all__ = ["Coupling", "Frozen", "Group", "Table", "Unknown", "Use", "couple", "requested", "there"]
