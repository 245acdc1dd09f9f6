"""Outputs appear whole or not at all.

A draft lies in a folder beside its output. The name, `.graphprune-OUTPUT-HOST-PROCESS-*.partial`, says who writes what:
a process that is killed leaves it, and the next one that writes there takes it away.
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from .errors import InputError

#: Drafts that are being written now.
OPEN: set[Path] = set()

_DRAFT = re.compile(r"\.graphprune-(?:(?P<output>[0-9a-f]{8})-(?P<host>[0-9a-f]{8})-(?P<process>\d+)-)?\w+\.partial")
_DAY = 86400.0


@contextmanager
def whole(path: str | Path, *, parents: bool = False) -> Iterator[Path]:
    """A place to write a file or a folder to; once the block has ended well, what lies there is renamed to `path`.

    Files that the block writes next to that place (external data) move along. With `parents`, missing folders are made.
    Raises InputError where something cannot be written. Where the block fails, `path` is as it was. Drafts that killed
    processes left in the same folder are taken away.
    """
    target = Path(os.path.realpath(path))
    try:
        if parents:
            target.parent.mkdir(parents=True, exist_ok=True)
        _clear_stale(target)
        prefix = f".graphprune-{_digest(target.name)}-{_digest(socket.gethostname())}-{os.getpid()}-"
        folder = Path(tempfile.mkdtemp(prefix=prefix, suffix=".partial", dir=target.parent))
        OPEN.add(folder)
        try:
            yield folder / target.name
            _move(folder, target)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            OPEN.discard(folder)
    except OSError as error:
        raise InputError(f"'{path}' cannot be written: {error.strerror or error}") from error


def _clear_stale(target: Path) -> None:
    """Remove drafts in the folder of an output that nobody goes on with.

    Those are drafts of processes of this machine that live no more, and what is older than a day. What another machine
    writes is left alone before that, except where it is this very output, which this process is about to replace.
    """
    for folder in target.parent.glob(".graphprune-*.partial"):
        named = _DRAFT.fullmatch(folder.name)
        if named is not None and folder.is_dir() and not folder.is_symlink() and _stale(folder, named, target):
            shutil.rmtree(folder, ignore_errors=True)


def _stale(folder: Path, named: re.Match[str], target: Path) -> bool:
    if named["host"] == _digest(socket.gethostname()):
        return not _lives(int(named["process"]))
    return named["output"] == _digest(target.name) or time.time() - folder.stat().st_mtime > _DAY


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        return True
    return True


def _digest(text: str) -> str:
    """Eight characters that stand for a name of any length."""
    return f"{zlib.crc32(text.encode('utf-8', 'surrogateescape')):08x}"


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
