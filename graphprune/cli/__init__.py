"""The `graphprune` command.

Exit codes: 0 done, 1 the result failed verification, 2 bad usage or input, 3 a bug, 130 interrupted.
"""

from __future__ import annotations

from .commands import app
from .entry import main, run

__all__ = ["app", "main", "run"]
