"""Layers that are gone: those that stay close ranks, and the configuration counts fewer."""

from __future__ import annotations

import copy
import re
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from graphprune.ir.graph import Graph

from .origin import CheckpointOrigin

_NUMBER = re.compile(r"(?<=\.)(\d+)(?=\.)")


@dataclass
class Layers:
    """`names`: new name of each tensor whose layer has another number now; `removed`: tensors of layers that are gone.

    `counts` maps a number of layers to what is left of it; `kept` holds for each list how many layers it had and the
    numbers of those that stay.
    """

    names: dict[str, str] = field(default_factory=dict)
    removed: set[str] = field(default_factory=set)
    counts: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))
    kept: list[tuple[int, list[int]]] = field(default_factory=list)

    def shorten(self, data: Any) -> Any:
        """A copy of a configuration's data in which lists with an entry a layer have lost those of removed ones."""
        data = copy.deepcopy(data)
        for count, kept in self.kept:
            _shorten(data, count, kept)
        return data


def _shorten(data: Any, count: int, kept: list[int]) -> None:
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, item in list(items):
        if isinstance(item, list) and len(item) == count and not any(isinstance(i, (dict, list)) for i in item):
            data[key] = [item[i] for i in kept]
        else:
            _shorten(item, count, kept)


def numbered(origin: CheckpointOrigin, graph: Graph) -> Layers:
    """Which layers of module lists a rewritten graph has lost: those that were read as captured and are no more."""
    found = Layers()
    assert origin.module is not None
    alive = set(graph.weights())
    lost = {name for name in origin.read if name not in alive}
    if not lost:
        return found
    members: dict[str, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for name in origin.read:
        match = _NUMBER.search(name)
        if match is not None:
            members[name[: match.start()]][int(match[0])].add(name)
    for prefix, layers in members.items():
        kept = [n for n in sorted(layers) if not layers[n] <= lost]
        if 0 < len(kept) < len(layers):
            _renumber(found, origin, prefix, kept, len(layers))
    return found


def _renumber(found: Layers, origin: CheckpointOrigin, prefix: str, kept: list[int], count: int) -> None:
    assert origin.module is not None
    place = {old: new for new, old in enumerate(kept)}
    found.kept.append((count, kept))
    found.counts[count].add(len(kept))
    for name in origin.module.state_dict():
        match = _NUMBER.match(name, len(prefix)) if name.startswith(prefix) else None
        if match is None:
            continue
        if int(match[0]) not in place:
            found.removed.add(name)
        elif place[int(match[0])] != int(match[0]):
            found.names[name] = f"{prefix}{place[int(match[0])]}{name[match.end() :]}"
