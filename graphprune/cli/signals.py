"""What Ctrl-C and SIGTERM do: one line, the exit code of a shell, and no traceback whenever they come.

This is imported before anything else, so it imports next to nothing itself.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType
from typing import Any

INTERRUPTED, TERMINATED = 130, 143
MESSAGE = "graphprune: error: interrupted"

#: Files of Python's import machinery, as they stand in tracebacks.
_IMPORTING = "<frozen importlib._bootstrap"

#: The progress line hides it.
_SHOW_CURSOR = "\r\x1b[K\x1b[?25h"

#: Whether Ctrl-C has come.
_seen: list[int] = []


def install() -> None:
    """Handle SIGINT (unless this process was started with it ignored, as by shells in the background) and SIGTERM."""
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:
        signal.signal(signal.SIGINT, _interrupt)
    signal.signal(signal.SIGTERM, _terminate)


def interrupted() -> bool:
    """Whether Ctrl-C has come: a library may have turned it into an error of its own."""
    return bool(_seen)


def _interrupt(signum: int, frame: FrameType | None) -> None:
    """Unwind, so that what is half-written goes; leave at once where there is nothing to unwind, or when asked again.

    A library that is interrupted while it is imported may say anything: numpy turns it into an ImportError with a page
    of advice, and code in C prints tracebacks of its own.
    """
    if _seen or (_importing(frame) and not _writing()):
        # Not `print`: the handler may have come in the middle of one.
        os.write(2, f"{_SHOW_CURSOR if os.isatty(2) else ''}{MESSAGE}\n".encode())
        os._exit(INTERRUPTED)
    _seen.append(signum)
    sys.unraisablehook = _silent  # finalisers that the interrupt hits
    raise KeyboardInterrupt


def _importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename.startswith(_IMPORTING):
            return True
        frame = frame.f_back
    return False


def _writing() -> bool:
    """Whether a file is being written."""
    writing = sys.modules.get("graphprune.atomic")
    return writing is not None and bool(writing.OPEN)


def _silent(_: Any) -> None:
    """Say nothing."""


def _terminate(signum: int, frame: FrameType | None) -> None:
    """Unwind on SIGTERM, so that temporary files are removed."""
    raise SystemExit(TERMINATED)
