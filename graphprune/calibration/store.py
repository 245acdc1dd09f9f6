"""Arrays that may not all fit into memory: up to a limit they are kept there, beyond it in files of a folder."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np


class Scratch:
    """Arrays by key. What is no array is kept as it is."""

    def __init__(self, limit: int = 1 << 29) -> None:
        self._limit = limit
        self._held = 0
        self._here: dict[Hashable, Any] = {}
        self._files: dict[Hashable, Callable[[], np.ndarray]] = {}
        self._folder: TemporaryDirectory[str] | None = None
        self._count = 0

    def __setitem__(self, key: Hashable, item: Any) -> None:
        if not isinstance(item, np.ndarray) or self._held + item.nbytes <= self._limit:
            self._held += getattr(item, "nbytes", 0)
            self._here[key] = item
        else:
            self._files[key] = self.written(item)

    def __getitem__(self, key: Hashable) -> Any:
        return self._here[key] if key in self._here else self._files[key]()

    def __delitem__(self, key: Hashable) -> None:
        if key in self._here:
            self._held -= getattr(self._here.pop(key), "nbytes", 0)
        else:
            self._files.pop(key).path.unlink()  # type: ignore[attr-defined]

    def written(self, array: np.ndarray) -> Callable[[], np.ndarray]:
        """Write an array to a file; returns what maps it again. The file goes when nothing can read it any more."""
        if self._folder is None:
            self._folder = TemporaryDirectory(prefix="graphprune-")
        self._count += 1
        return _Written(array, Path(self._folder.name, str(self._count)), self._folder)


class _Written:
    """An array in a file. Its type is kept here: numpy's own format does not know bfloat16."""

    def __init__(self, array: np.ndarray, path: Path, folder: TemporaryDirectory[str]) -> None:
        self.path = path
        self._shape, self._dtype, self._folder = array.shape, array.dtype, folder
        np.ascontiguousarray(array).reshape(-1).view(np.uint8).tofile(path)

    def __call__(self) -> np.ndarray:
        if not self._shape or 0 in self._shape:
            return np.fromfile(self.path, np.uint8).view(self._dtype).reshape(self._shape)
        raw = np.memmap(self.path, np.uint8, "r")
        return raw.view(self._dtype).reshape(self._shape)
