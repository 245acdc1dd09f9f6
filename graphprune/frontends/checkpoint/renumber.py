"""Special tokens of a configuration: they stay when a vocabulary loses rows, and get their new numbers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ...errors import InputError
from ...graph import Graph

#: How transformers calls every setting that holds one id or several (see its own `validate_token_ids`).
_SUFFIX = "_token_id"

Path = tuple[Any, ...]


def token_ids(data: Any) -> dict[Path, list[int]]:
    """The ids of special tokens by their place in nested data."""
    return {path: value if isinstance(value, list) else [value] for path, value in _find(data, ())}


def _find(data: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    items = data.items() if isinstance(data, dict) else ()
    for key, item in items:
        if str(key).endswith(_SUFFIX) and (_is_id(item) or (isinstance(item, list) and all(map(_is_id, item)))):
            yield (*path, key), item
        else:
            yield from _find(item, (*path, key))


def _is_id(item: Any) -> bool:
    return isinstance(item, int) and not isinstance(item, bool)


def kept_ids(graph: Graph) -> np.ndarray | None:
    """Which ids a graph's vocabulary kept; None where all. Raises InputError where inputs kept different ones."""
    found = list(graph.kept_rows.values())
    if any(not np.array_equal(found[0], other) for other in found[1:]):
        raise InputError(
            f"the inputs {', '.join(graph.kept_rows)} kept different ids, a configuration knows one vocabulary"
        )
    return found[0] if found else None


def renumber(data: Any, kept: np.ndarray) -> None:
    """Give special tokens their new ids, in place; ids that are none (-1) stay."""
    place = {int(old): new for new, old in enumerate(kept)}
    for path, ids in token_ids(data).items():
        *front, last = path
        at = data
        for key in front:
            at = at[key]
        new = [place.get(i, i) for i in ids]
        at[last] = new if isinstance(at[last], list) else new[0]
