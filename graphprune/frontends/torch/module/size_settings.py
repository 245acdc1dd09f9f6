"""Size attributes that a class of the caller's reads: which there are, and what they may become."""

from __future__ import annotations

from collections import OrderedDict, defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from graphprune.ir.graph import Graph, Node

from ..origin import Source, origin_of
from .sizes import is_standard

# Attributes of nodes that hold sizes.
_SIZES = ("shape", "sizes", "groups", "repeats", "slices", "pads", "index", "normalized_shape")
#: What every module has, sizes or not.
_EVERY = frozenset(vars(nn.Module()))
#: Containers within containers are looked into this far.
_DEPTH = 3


@dataclass
class Change:
    """In one module: the sizes that became others, and those that also stayed somewhere."""

    became: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))

    def note(self, before: int, after: int) -> None:
        """A size in one place."""
        if before > 1:
            self.became[before].add(after)

    @property
    def moved(self) -> bool:
        """Whether any size became another."""
        return any(before != after for before, several in self.became.items() for after in several)


def size_changes(graph: Graph) -> dict[str, Change]:
    """By module path: how sizes in the attributes of its nodes, and of its tensors, changed."""
    changes: dict[str, Change] = defaultdict(Change)
    for node in graph.all_nodes:
        if isinstance(node.source, Source):
            _note(changes[node.source.owner], node, node.source)
    origin = origin_of(graph)
    for name, value in graph.weights().items():
        like = origin.tensors.tensors.get(name)
        if like is not None and value.shape is not None:
            for before, after in zip(like.shape, value.shape, strict=True):
                changes[name.rpartition(".")[0]].note(before, after)
    return changes


def with_results(graph: Graph, changes: Mapping[str, Change]) -> dict[str, Change]:
    """The changes, and by the path of modules that have none how the sizes of their operators' results changed: one
    that owns no tensor may hold the size of what passes.
    """
    found: dict[str, Change] = defaultdict(Change)
    metas = {node.name: node.meta.get("val") for node in origin_of(graph).exported.graph.nodes}
    for node in graph.all_nodes:
        was = metas.get(node.name)
        if isinstance(node.source, Source) and isinstance(was, torch.Tensor):
            for before, after in zip(was.shape, node.outputs[0].shape or (), strict=False):
                if isinstance(before, int):
                    found[node.source.owner].note(before, after)
    return found | {path: change for path, change in changes.items() if change.moved}


def _note(change: Change, node: Node, source: Source) -> None:
    for key in _SIZES:
        before, after = source.attrs.get(key), node.attrs.get(key)
        for old, new in zip(_integers(before), _integers(after), strict=False):
            change.note(old, new)


def _integers(value: Any) -> list[int]:
    if isinstance(value, bool) or value is None:
        return []
    if isinstance(value, int):
        return [value]
    if isinstance(value, (list, tuple)):
        return [n for item in value for n in _integers(item)]
    return []


def with_descendants(changes: Mapping[str, Change]) -> dict[str, Change]:
    """By module path, also those that own nothing themselves: the changes in them and in all that they hold."""
    found: dict[str, Change] = defaultdict(Change)
    for path, change in changes.items():
        parts = path.split(".") if path else []
        for count in range(len(parts) + 1):
            above = found[".".join(parts[:count])]
            for before, several in change.became.items():
                above.became[before] |= several
    return found


@dataclass(frozen=True, eq=False)
class Setting:
    """A size attribute that could follow a change: set `name` of `owner`, the module at `path`, to a candidate."""

    owner: nn.Module
    path: str
    name: str
    before: Any
    candidates: tuple[Any, ...]

    def set(self, value: Any) -> None:
        """Give the attribute a value."""
        vars(self.owner)[self.name] = value


def settings(module: nn.Module, changes: Mapping[str, Change]) -> list[Setting]:
    """Attributes that hold an integer (alone, or in containers) which is a size that changed in their module.

    Those of PyTorch's own layers follow their tensors already.
    """
    found = []
    for path, child in module.named_modules():
        change = changes.get(path)
        if change is None or not change.moved or is_standard(child):
            continue
        for name, value in vars(child).items():
            candidates = _candidates(value, change) if name not in _EVERY else ()
            if candidates:
                found.append(Setting(child, path, name, value, candidates))
    return found


def _candidates(value: Any, change: Change) -> tuple[Any, ...]:
    if isinstance(value, int) and not isinstance(value, bool):
        return tuple(sorted(change.became.get(value, set()) - {value}))
    moved = _moved(value, change, 0)
    return () if moved is value else (moved,)


def _moved(value: Any, change: Change, depth: int) -> Any:
    """A container with every size in it that changed at its smallest new value; the very same where none did."""
    if isinstance(value, bool) or depth > _DEPTH:
        return value
    if isinstance(value, int):
        return min(change.became.get(value) or {value})
    if type(value) in (dict, OrderedDict):
        items = {k: _moved(v, change, depth + 1) for k, v in value.items()}
        return value if all(items[k] is v or items[k] == v for k, v in value.items()) else type(value)(items)
    if type(value) in (tuple, list):
        parts = [_moved(v, change, depth + 1) for v in value]
        return value if all(a is b or a == b for a, b in zip(parts, value, strict=True)) else type(value)(parts)
    return value


@contextmanager
def reads(module: nn.Module) -> Iterator[set[tuple[str, str]]]:
    """While this lasts, notes which attributes of which submodules (by path) are read."""
    seen: set[tuple[str, str]] = set()
    paths = {id(child): path for path, child in module.named_modules()}

    def spy(self: nn.Module, name: str) -> Any:
        value = object.__getattribute__(self, name)
        path = paths.get(id(self))
        if path is not None:
            seen.add((path, name))
        return value

    nn.Module.__getattribute__ = spy  # type: ignore[method-assign, assignment]
    try:
        yield seen
    finally:
        del nn.Module.__getattribute__
