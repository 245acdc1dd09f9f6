"""Ids of tokens in a configuration: those that stay when a vocabulary loses rows, and their new numbers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from graphprune.errors import InputError
from graphprune.ir.graph import Graph

#: How transformers calls every setting that holds one id or several (see its own `validate_token_ids`).
_SUFFIX = "_token_id"

#: Tokens that generation never gives: one that is gone needs no mention.
_SUPPRESSED = frozenset({"suppress_tokens", "begin_suppress_tokens"})

#: Pairs of a position and the id that is forced there.
_FORCED = "forced_decoder_ids"

#: What else holds ids in transformers' generation settings, in lists or by name.
_OTHERS = frozenset({"bad_words_ids", "force_words_ids", "lang_to_id", "task_to_id"})

Path = tuple[Any, ...]


def token_ids(data: Any) -> dict[Path, list[int]]:
    """The ids of tokens by their place in nested data."""
    return {path: [*_leaves(path[-1], item)] for path, item in _find(data, ())}


def must_stay(data: Any) -> frozenset[int]:
    """The ids that settings need."""
    return frozenset(i for path, ids in token_ids(data).items() if path[-1] not in _SUPPRESSED for i in ids)


def _find(data: Any, path: Path) -> Iterator[tuple[Path, Any]]:
    items = data.items() if isinstance(data, dict) else ()
    for key, item in items:
        name = str(key)
        if name.endswith(_SUFFIX) or name in _SUPPRESSED or name == _FORCED or name in _OTHERS:
            if item is not None:
                yield (*path, key), item
        else:
            yield from _find(item, (*path, key))


def _leaves(key: str, item: Any) -> Iterator[int]:
    if isinstance(item, dict):
        item = list(item.values())
    if isinstance(item, list):
        for inner in item:
            yield from _leaves("", inner[1]) if key == _FORCED else _leaves(key, inner)
    elif _is_id(item):
        yield item


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


def new_places(kept: np.ndarray) -> dict[int, int]:
    """From old ids to new ones."""
    return {int(old): new for new, old in enumerate(kept)}


def renumber(data: Any, kept: np.ndarray) -> None:
    """Give tokens in settings their new ids, in place; ids that are none (-1) stay."""
    place = new_places(kept)
    for path, item in list(_find(data, ())):
        *front, last = path
        at = data
        for key in front:
            at = at[key]
        at[last] = _moved(str(last), item, place)


def _moved(key: str, item: Any, place: Mapping[int, int]) -> Any:
    if isinstance(item, dict):
        return {name: _moved("", inner, place) for name, inner in item.items()}
    if isinstance(item, list) and key in _SUPPRESSED:
        return [place.get(i, i) for i in item if i in place or not _is_id(i) or i < 0]
    if isinstance(item, list) and key == _FORCED:
        return [[position, _moved("", inner, place)] for position, inner in item]
    if isinstance(item, list):
        return [_moved("", inner, place) for inner in item]
    return place.get(item, item) if _is_id(item) else item
