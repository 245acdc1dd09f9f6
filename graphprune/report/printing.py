"""Reports as text: what `print` shows of them."""

from __future__ import annotations

import io
import os
from abc import ABC, abstractmethod

from rich.console import Console

#: Columns of a report as text, where `COLUMNS` does not say otherwise: weight names are long.
WIDTH = 120


class Printed(ABC):
    """A report that prints as its tables. `repr`, which debuggers and other objects show, is one short line."""

    @abstractmethod
    def render(self, console: Console) -> None:
        """Print the tables."""

    def __str__(self) -> str:
        columns = os.environ.get("COLUMNS", "")
        console = Console(file=io.StringIO(), width=int(columns) if columns.isdecimal() else WIDTH, color_system=None)
        self.render(console)
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue().rstrip()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of '{getattr(self, 'model', '')}': print it to see it>"
