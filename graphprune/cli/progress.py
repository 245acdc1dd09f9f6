"""A line on the terminal that says what a long command is doing."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from threading import Timer
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.status import Status
from rich.text import Text

_QUIET_SECONDS = 2.0


class Progress:
    """Call it with what happens now. Shown on stderr, only on a terminal, and only after two seconds."""

    def __init__(self, text: str = "working") -> None:
        self._console = Console(stderr=True)
        self._status = Status(Text(text), console=self._console)
        self._timer = Timer(_QUIET_SECONDS, self._status.start)
        self._timer.daemon = True

    def __call__(self, text: str) -> None:
        """Say what happens now."""
        self._status.update(Text(text))

    def __enter__(self) -> Self:
        if self._console.is_terminal:
            self._timer.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._timer.cancel()
        self._status.stop()


@contextmanager
def working(text: str) -> Iterator[Progress]:
    """Progress while stdout, which belongs to the result, is kept from whatever the user's own code prints."""
    with redirect_stdout(sys.stderr), Progress(text) as progress:
        yield progress
