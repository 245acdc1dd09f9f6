"""Reading `.pt2` archives without ever running a pickle.

`torch.export.load` unpickles freely where an archive asks for it; such archives are refused before torch sees them.
"""

from __future__ import annotations

import json
import os
import re
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram

from graphprune.errors import InputError

from ..run.modes import quiet
from .refusals import first_line

# Symbolic sizes are read by evaluating text: only these names, quoted symbols, numbers and signs may stand there.
_NAMES = frozenset(
    """
    Symbol Integer Rational Add Mul Pow Max Min Mod PythonMod FloorDiv CleanDiv CeilDiv IntTrueDiv ModularIndexing
    Equality Unequality GreaterThan LessThan StrictGreaterThan StrictLessThan Eq Ne Gt Lt Ge Le And Or Not True False
    positive negative nonnegative nonzero integer real
    """.split()
)
_TOKEN = re.compile(r"'[a-z]+\d+'|[A-Za-z_]\w*|\d+|[\s+\-*/%(),<>=!&|~]")
_SYMBOL = re.compile(r"[a-z]+\d+")


def load_program(path: Path) -> ExportedProgram:
    """Load an exported program.

    Raises:
        InputError: the file is missing, is no archive, or holds pickled objects or compiled code.
    """
    if not path.is_file():
        raise InputError(f"'{path}' does not exist")
    try:
        with zipfile.ZipFile(path) as archive:
            _refuse_unsafe(path, archive)
    except zipfile.BadZipFile as error:
        raise InputError(f"'{path}' is no .pt2 archive (or a truncated one): {first_line(error)}") from error
    except InputError:
        raise
    except Exception as error:  # encrypted, of unknown compression, or holding JSON that is none
        raise InputError(f"'{path}' is a broken .pt2 archive: {first_line(error)}") from error
    try:
        with quiet(), weights_only():
            return torch.export.load(path)
    except Exception as error:
        raise InputError(f"'{path}' cannot be loaded by torch.export: {first_line(error)}") from error


@contextmanager
def weights_only() -> Iterator[None]:
    """Make every `torch.load` refuse general pickles, whatever its caller asked for."""
    key = "TORCH_FORCE_WEIGHTS_ONLY_LOAD"
    before = os.environ.get(key)
    os.environ[key] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ[key]
        else:
            os.environ[key] = before


def _refuse_unsafe(path: Path, archive: zipfile.ZipFile) -> None:
    names = archive.namelist()
    if len(set(names)) != len(names):
        raise InputError(f"'{path}' names an entry twice, which no exporter does")
    if not any(re.search(r"(^|/)(models/[^/]*\.json|serialized_exported_program\.json)$", n) for n in names):
        raise InputError(f"'{path}' holds no exported program")
    for name in names:
        reason = _unsafe(name, archive)
        if reason:
            raise InputError(f"'{path}' is refused since its entry '{name}' {reason}, which graphprune never loads")


def _unsafe(name: str, archive: zipfile.ZipFile) -> str:
    """Why an entry must not be loaded; empty if it may."""
    if "/data/aotinductor/" in f"/{name}":
        return "is compiled code"
    if name.endswith("_config.json") and any(p.get("use_pickle") for p in _payloads(archive.read(name))):
        return "points to pickled tensors"
    if re.search(r"data/constants/(custom_obj|opaque_obj)", name):
        return "is a pickled object"
    if name.endswith(".json") and not _expressions_are_arithmetic(archive.read(name)):
        return "holds a size that is no arithmetic"
    if name.endswith(".pt") and not _loads_safely(archive.read(name)):
        return "is a pickle of objects"
    return ""


def _payloads(text: bytes) -> list[dict[str, Any]]:
    config = json.loads(text).get("config", {})
    return [p for p in config.values() if isinstance(p, dict)]


def _expressions_are_arithmetic(text: bytes) -> bool:
    def sound(item: Any) -> bool:
        if isinstance(item, dict):
            expression = item.get("expr_str")
            if isinstance(expression, str) and not is_arithmetic(expression):
                return False
            return all(sound(v) for v in item.values())
        return all(sound(v) for v in item) if isinstance(item, list) else True

    return sound(json.loads(text))


def is_arithmetic(expression: str) -> bool:
    """Whether a symbolic size is made of symbols, numbers and known functions only."""
    if _TOKEN.sub("", expression):
        return False
    words = re.findall(r"(?<!')\b[A-Za-z_]\w*", expression)
    return all(word in _NAMES or _SYMBOL.fullmatch(word) for word in words)


def _loads_safely(data: bytes) -> bool:
    if not data:
        return True
    try:
        torch.load(BytesIO(data), weights_only=True, map_location="cpu")
    except Exception:
        return False
    return True
