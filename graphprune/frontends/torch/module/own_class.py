"""The caller's own class with pruned tensors: copy the module and put the tensors in."""

from __future__ import annotations

import copy
from collections import defaultdict
from typing import Any

import torch
from torch import nn

from graphprune.ir.graph import Graph

from ..arrays import to_torch
from ..origin import Source, origin_of
from ..run.modes import switch
from ..write.graph_module import like_parameter, lookup
from .sizes import Facts, adapt


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
    modes = {path: child.training for path, child in origin.module.named_modules()}
    switch(module, [(m, modes.get(path, m.training)) for path, m in module.named_modules()], origin.module.training)
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
