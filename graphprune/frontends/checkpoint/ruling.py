"""Which numbers of a configuration rule a weight's sizes: found by building models, without weights, of other ones."""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import Any

from graphprune.ir.graph import Graph

from ..torch.run.modes import quiet
from .fit import Path, change, integers
from .origin import checkpoint_of
from .renumber import token_ids
from .skeleton import on_meta

Shapes = dict[str, tuple[int, ...]]


def rulers(graph: Graph) -> dict[str, frozenset[Path]]:
    """The numbers that rule each axis of a weight ("name[axis]"), by their places in the configuration.

    Each is doubled in turn. What gives no model, or one with other weights, says nothing.
    """
    origin = checkpoint_of(graph)
    assert origin.module is not None
    data, usual = origin.config.to_dict(), _shapes(origin.config, type(origin.module))
    special = token_ids(data)
    found: dict[str, set[Path]] = defaultdict(set)
    for path, value in integers(data):
        if value > 1 and not any(path[: len(own)] == own for own in special):
            for name, axis in _changed(usual, _doubled(origin, path, value)):
                found[f"{name}[{axis}]"].add(path)
    return {axis: frozenset(paths) for axis, paths in found.items()}


def _doubled(origin: Any, path: Path, value: int) -> Shapes:
    data = copy.deepcopy(origin.config.to_dict())
    try:
        change(data, path, 2 * value)
        with quiet():
            return _shapes(type(origin.config).from_dict(data), type(origin.module))
    except Exception:  # whatever a class raises about such sizes
        return {}


def _shapes(config: Any, cls: Any) -> Shapes:
    with quiet():
        return {name: tuple(t.shape) for name, t in on_meta(copy.deepcopy(config), cls, None).state_dict().items()}


def _changed(usual: Shapes, found: Shapes) -> list[tuple[str, int]]:
    if usual.keys() != found.keys():
        return []
    sizes = ((n, zip(shape, found[n], strict=False)) for n, shape in usual.items() if len(shape) == len(found[n]))
    return [(name, axis) for name, pairs in sizes for axis, (a, b) in enumerate(pairs) if a != b]
