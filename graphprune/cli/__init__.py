"""The `graphprune` command.

Exit codes: 0 done, 1 the result failed verification, 2 bad usage or input, 3 a bug, 130 interrupted.
"""

from __future__ import annotations

from typing import Any


def main() -> None:
    """The console script. Nothing is imported before signals are seen to: Ctrl-C may come in the first second."""
    from . import signals

    signals.install()
    from .entry import main as run_and_exit

    run_and_exit()


def __getattr__(name: str) -> Any:
    """`app` and `run`, which bring the command line's libraries with them, on first use."""
    if name == "app":
        from .commands import app

        return app
    if name == "run":
        from .entry import run

        return run
    raise AttributeError(f"module '{__name__}' has no attribute '{name}'")
