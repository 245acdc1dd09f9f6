"""Outputs appear whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError


@contextmanager
def whole(path: str | Path, *, parents: bool = False) -> Iterator[Path]:
    """A place to write a file or a folder to; once the block has ended well, what lies there is renamed to `path`.

    Files that the block writes next to that place (external data) move along. With `parents`, missing folders are made.
    Raises InputError where something cannot be written. Where the block fails, `path` is as it was.
    """
    target = Path(os.path.realpath(path))
    try:
        if parents:
            target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".graphprune-", suffix=".partial", dir=target.parent))
        try:
            yield folder / target.name
            _move(folder, target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise InputError(f"'{path}' cannot be written: {error.strerror or error}") from error


def _move(folder: Path, target: Path) -> None:
    """Rename what lies beside the target, then the target: an old one is not left with new data, so it goes first."""
    made = sorted(folder.iterdir(), key=lambda file: file.name == target.name)
    mode = target.stat().st_mode & 0o777 if target.is_file() else None
    for file in filter(Path.is_file, made):
        if mode is not None:
            file.chmod(mode)
        _sync(file)
    for file in made:
        if file.name != target.name and (target.parent / file.name).exists():
            target.unlink(missing_ok=True)
        os.replace(file, target.parent / file.name)
    _sync(target.parent)


def _sync(path: Path) -> None:
    """Have the disk hold what was written."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
