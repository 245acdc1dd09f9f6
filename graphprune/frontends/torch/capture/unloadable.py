"""Packages built for another torch: installed, but their import fails (`operator torchvision::nms does not exist`).

A library that can do without such a package asks only whether it is installed, imports it, and fails with it, often
under a name that says nothing of the cause. It is told that the package is not there, and asked again.
"""

from __future__ import annotations

import importlib.metadata
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import pairwise
from traceback import walk_tb
from types import FrameType
from typing import TypeVar

import torch

from .refusals import first_line

T = TypeVar("T")

#: By package: what is wrong with it.
_FOUND: dict[str, str] = {}
_REQUIRES_TORCH = re.compile(r"torch\b(?!-)")


def without_unloadable(step: Callable[[], T]) -> T:
    """What a step gives that imports a library; packages that do not load beside this torch count as missing where the
    library can do without. Raises what the step raises in the end.
    """
    while True:
        try:
            return step()
        except Exception as error:
            found = _optional(error)
            if found is None or found in _FOUND:
                raise
            _FOUND[found] = problem_of(error) or f"'{found}' does not load"
            _count_as_missing(found)


def notes() -> tuple[str, ...]:
    """What was found not to load so far, for a report."""
    return tuple(f"{problem}. What can do without it was read without it." for problem in _FOUND.values())


def cause_of(error: BaseException) -> str:
    """What to say of a failed import: the package that does not load, if one does not; else the error's own words."""
    told = first_line(error)
    asked = [problem for package, problem in _FOUND.items() if package in told]
    return problem_of(error) or "; ".join((told, *asked))


def problem_of(error: BaseException) -> str:
    """Which package does not load beside this torch, in a sentence; nothing where an error has another cause."""
    root = _root(error)
    for frame in reversed(_frames(root)):
        package = _package(frame)
        if frame.f_code.co_name == "<module>" and _is_built_on_torch(package):
            builds = f"{package} {importlib.metadata.version(package)} does not load beside torch {torch.__version__}"
            return f"{builds} ({first_line(root)}); install builds of both that belong together"
    return ""


def _optional(error: BaseException) -> str | None:
    """The package whose import failed, asked for by a library that knows how to do without."""
    frames = [f for f in _frames(_root(error)) if _package(f) != "importlib"]
    for asking, asked in pairwise(frames):
        package = _package(asked)
        if package != _package(asking) and asked.f_code.co_name == "<module>" and _is_built_on_torch(package):
            known = any(hasattr(m, f"is_{package}_available") for m in _modules_of(_package(asking)))
            return package if known else None
    return None


def _count_as_missing(package: str) -> None:
    """Let libraries that ask `is_..._available` find a package missing from now on; `import` itself stays as it is."""
    question = f"is_{package}_available"
    with _missing(package):
        for module in [m for m in list(sys.modules.values()) if question in getattr(m, "__dict__", {})]:
            answer = f"_{package}_available"
            if isinstance(vars(module).get(answer), bool):
                setattr(module, answer, False)
            with suppress(Exception):
                getattr(module, question).cache_clear()
            with suppress(Exception):  # a cached function remembers what it finds
                getattr(module, question)()


@contextmanager
def _missing(package: str) -> Iterator[None]:
    before = {name: m for name, m in sys.modules.items() if name == package}
    sys.modules[package] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[package]
        sys.modules.update(before)


def _root(error: BaseException) -> BaseException:
    seen = {id(error)}
    while (before := error.__cause__ or error.__context__) is not None and id(before) not in seen:
        seen.add(id(before))
        error = before
    return error


def _frames(error: BaseException) -> list[FrameType]:
    return [frame for frame, _ in walk_tb(error.__traceback__)]


def _package(frame: FrameType) -> str:
    return str(frame.f_globals.get("__name__", "")).partition(".")[0]


def _modules_of(package: str) -> list[object]:
    return [m for name, m in list(sys.modules.items()) if name == package or name.startswith(f"{package}.")]


def _is_built_on_torch(package: str) -> bool:
    try:
        return any(_REQUIRES_TORCH.match(line) for line in importlib.metadata.requires(package) or ())
    except importlib.metadata.PackageNotFoundError:
        return False
