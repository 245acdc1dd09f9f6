"""The caller's own class with pruned tensors: copy the module, put the tensors in, bring size attributes up to date."""

from __future__ import annotations

import copy
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from ...graph import Graph, Node
from .arrays import to_torch
from .graph_module import like_parameter, lookup
from .origin import Source, origin_of
from .sizes import Facts, adapt
from .tracing import switch

# Attributes of nodes that hold sizes.
_SIZES = ("shape", "sizes", "groups", "repeats", "slices", "pads", "index", "normalized_shape")


def rebuild(graph: Graph) -> nn.Module:
    """A copy of the caller's module with the graph's tensors; those it does not read are copied as they are.

    Each submodule stays in the mode it is in; tables that one computed from its parameters are dropped. Raises whatever
    copying the module raises.
    """
    origin = origin_of(graph)
    assert origin.module is not None
    memo: dict[int, Any] = {}
    weights = graph.weights()
    fresh: dict[str, torch.Tensor] = {}
    for name, like in origin.tensors.tensors.items():
        value = weights.get(name)
        if value is not None and value.weight is not None:
            fresh[name] = memo[id(like)] = _like(to_torch(value.weight.array()), like)
    for alias, first in origin.tensors.aliases.items():
        own = lookup(origin.module, alias)
        if first in fresh and own is not None and id(own) not in memo:
            memo[id(own)] = _like(fresh[first].detach(), own)
    module: nn.Module = copy.deepcopy(origin.module, memo)
    adapt(module, facts_of(graph))
    switch(module, [(m, m.training) for m in module.modules()], module.training)
    return module


def _like(data: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    made = like_parameter(data, like)
    made.__dict__.update(like.__dict__)
    return made


def facts_of(graph: Graph) -> dict[str, Facts]:
    """Group counts and normalised shapes by the path of the module whose forward used them."""
    facts: dict[str, Facts] = defaultdict(Facts)
    for node in graph.nodes:
        if not isinstance(node.source, Source):
            continue
        if node.kind in ("conv", "group_norm"):
            facts[node.source.owner].groups = node.attrs["groups"]
        elif node.kind == "layer_norm" and node.inputs[0] is not None:
            shape = node.inputs[0].sizes
            facts[node.source.owner].normalized_shape = tuple(shape[axis] for axis in node.attrs["axes"])
    return facts


@dataclass
class Change:
    """In one module: the sizes that became others, and those that also stayed somewhere."""

    became: dict[int, set[int]] = field(default_factory=lambda: defaultdict(set))

    def note(self, before: int, after: int) -> None:
        """A size in one place."""
        if before > 1:
            self.became[before].add(after)


def size_changes(graph: Graph) -> dict[str, Change]:
    """By module path: how sizes in the attributes of its nodes, and of its tensors, changed."""
    changes: dict[str, Change] = defaultdict(Change)
    for node in graph.nodes:
        if isinstance(node.source, Source):
            _note(changes[node.source.owner], node, node.source)
    origin = origin_of(graph)
    for name, value in graph.weights().items():
        like = origin.tensors.tensors.get(name)
        if like is not None and value.shape is not None:
            for before, after in zip(like.shape, value.shape, strict=True):
                changes[name.rpartition(".")[0]].note(before, after)
    return changes


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


@dataclass(frozen=True, eq=False)
class Setting:
    """A size attribute that could follow a change: set `name` of `owner`, the module at `path`, to a candidate."""

    owner: nn.Module
    path: str
    name: str
    before: Any
    candidates: tuple[Any, ...]


def settings(module: nn.Module, changes: dict[str, Change]) -> list[Setting]:
    """Integer attributes (and tuples of integers) whose value is a size that changed in their module."""
    found = []
    for path, child in module.named_modules():
        change = changes.get(path)
        if change is None or not any(a != b for a, bs in change.became.items() for b in bs):
            continue
        for name, value in vars(child).items():
            candidates = _candidates(value, change)
            if candidates and not name.startswith("_"):
                found.append(Setting(child, path, name, value, candidates))
    return found


def _candidates(value: Any, change: Change) -> tuple[Any, ...]:
    if isinstance(value, int) and not isinstance(value, bool):
        return tuple(sorted(change.became.get(value, set()) - {value}))
    if isinstance(value, (tuple, list)) and value and all(isinstance(v, int) for v in value):
        moved = type(value)(min(change.became.get(v, {v})) for v in value)
        return (moved,) if moved != value else ()
    return ()


def apply_setting(setting: Setting, value: Any) -> None:
    """Set a size attribute."""
    setattr(setting.owner, setting.name, value)
