"""Work counted in lines of Python that are executed: a busy machine does not change it, as it does seconds."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def lines_of_work(task: Callable[[], Any]) -> int:
    """How many lines `task` executes, all it calls and every round of a loop or comprehension included."""
    count = 0

    def local(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        count += event == "line"
        return local

    before = sys.gettrace()
    sys.settrace(lambda frame, event, _: local)
    try:
        task()
    finally:
        sys.settrace(before)
    return count
