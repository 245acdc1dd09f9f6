"""Which groups a user means: globs on weights, their axes and nodes, as the file names them and as reports do."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import translate
from functools import lru_cache

from graphprune.coupling import Coupling
from graphprune.errors import InputError
from graphprune.registry import meant

#: `{0-11}` or `{1,3-5}` in a glob (here as `fnmatch.translate` leaves it): these numbers, as folded names in reports.
_BRACES = re.compile(r"\\\{(\d+(?:\\?-\d+)?(?:,\d+(?:\\?-\d+)?)*)\\\}")
_STEP = re.compile(r"[./]|$")
_AXIS = re.compile(r"\[(\d+)\]$")
_MOST_NUMBERS = 10_000


def matches(names: set[str], globs: Sequence[str]) -> bool:
    """Whether a name is one of these, or matches one as a glob (`w[0]` is both a name and a glob), or lies in a module
    that does: `layer1.0` means all that is named `layer1.0.` and so on.
    """
    return any(name == glob or _pattern(glob).match(name) is not None for glob in globs for name in names)


def check_globs(coupling: Coupling, names: Sequence[set[str]], globs: Sequence[str]) -> None:
    """Raise InputError for a glob that matches nothing in the model."""
    graph = coupling.graph
    for glob in globs:
        if any(matches(own, [glob]) for own in names):
            continue
        shown = {text for value in graph.weights().values() for text in (value.name, value.shown)}
        shown |= {node.name for node in graph.flat_nodes}
        if not matches(shown, [glob]):
            raise InputError(no_match(glob, graph.name, shown))


def no_match(glob: str, model: str, names: Iterable[str]) -> str:
    """What is said of a glob that matches none of these names, with a near name or module where there is one."""
    paths = {name[: cut.start()] for name in names for cut in _STEP.finditer(name)}
    return f"'{glob}' matches no weight or node of '{model}'{meant(glob, sorted({*names, *paths}))}"


@lru_cache(maxsize=256)
def _pattern(glob: str) -> re.Pattern[str]:
    """A glob as a regular expression, with all that may follow the path of a module; `[0]` at its end is an axis, no
    choice of characters.
    """
    whole = _BRACES.sub(_alternatives, translate(_AXIS.sub(r"[[]\1]", glob)))
    return re.compile(f"{whole[:-2]}(?s:[./].*)?{whole[-2:]}")


def _alternatives(found: re.Match[str]) -> str:
    numbers: list[str] = []
    for part in found[1].replace("\\", "").split(","):
        first, _, last = part.partition("-")
        if last and not 0 <= int(last) - int(first) < _MOST_NUMBERS:
            raise InputError(f"'{{{part}}}' in a glob: the numbers must ascend, and be fewer than {_MOST_NUMBERS:,}")
        numbers += [part] if not last else [str(n) for n in range(int(first), int(last) + 1)]
    return f"(?:{'|'.join(numbers)})"
