"""What the frontend remembers of a captured module: how each node was called, and how to write it back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import fx, nn

from graphprune.errors import GraphPruneError
from graphprune.ir.graph import Graph, Node


@dataclass(frozen=True, slots=True)
class Slot:
    """In a call's arguments: the place of `Node.inputs[index]`."""

    index: int


@dataclass(frozen=True, slots=True)
class Submodule:
    """In a call's arguments: a graph module that a higher-order operator runs."""

    module: nn.Module


@dataclass(frozen=True, slots=True)
class Source:
    """One ATen call: `args` and `kwargs` hold `Slot`s where tensors go.

    `several` says that the call returns a sequence; `owner` is the path of the module whose `forward` made the call;
    `attrs` are the node's attributes as captured.
    """

    target: Any
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    several: bool
    owner: str
    attrs: dict[str, Any]


def fill(template: Any, inputs: Sequence[Any]) -> Any:
    """Put inputs in place of slots; an input that was cut off counts as None."""
    if isinstance(template, Slot):
        return inputs[template.index] if template.index < len(inputs) else None
    if isinstance(template, tuple):
        return tuple(fill(item, inputs) for item in template)
    if isinstance(template, list):
        return [fill(item, inputs) for item in template]
    if isinstance(template, dict):
        return {key: fill(item, inputs) for key, item in template.items()}
    return template


@dataclass
class Tensors:
    """The parameters, buffers and constants of a module by name; one name for each piece of memory.

    `aliases` maps every other name of a tensor to its first.
    """

    tensors: dict[str, torch.Tensor] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    persistent: dict[str, bool] = field(default_factory=dict)
    _by_memory: dict[Any, str] = field(default_factory=dict)

    @classmethod
    def of(cls, module: nn.Module) -> Tensors:
        """Collect a module's parameters, buffers and plain tensor attributes under all their names."""
        found = cls()
        for name, parameter in module.named_parameters(remove_duplicate=False):
            found.add(name, parameter, persistent=True)
        for prefix, child in module.named_modules(remove_duplicate=False):
            for name, buffer in child._buffers.items():
                if buffer is not None:
                    persistent = name not in child._non_persistent_buffers_set
                    found.add(f"{prefix}.{name}" if prefix else name, buffer, persistent=persistent)
            for name, attribute in vars(child).items():
                if isinstance(attribute, torch.Tensor):
                    found.add(f"{prefix}.{name}" if prefix else name, attribute, persistent=False)
        return found

    def add(self, name: str, tensor: torch.Tensor, *, persistent: bool) -> None:
        """Register a tensor, as an alias where its memory has a name already."""
        if name in self.tensors or name in self.aliases:
            return
        self.persistent[name] = persistent
        first = self._by_memory.setdefault(_memory(tensor), name)
        if first == name:
            self.tensors[name] = tensor
        else:
            self.aliases[name] = first

    def name_of(self, tensor: torch.Tensor) -> str | None:
        """The first name of a tensor."""
        return self._by_memory.get(_memory(tensor))


def _memory(tensor: torch.Tensor) -> Any:
    if tensor.numel() == 0 or tensor.layout is not torch.strided or tensor.device.type == "meta":
        return id(tensor)
    return (tensor.data_ptr(), tensor.device, tensor.dtype, tuple(tensor.shape), tensor.stride())


@dataclass
class Origin:
    """The captured module: the caller's own (None for a `.pt2` file), its exported graph, its example inputs.

    `result` is the exported graph's result with `Slot`s for `Graph.outputs`; `placeholders` are the names of its
    inputs (tensors or not). `read` names the tensors that the graph read as captured, `idle` are calls whose result
    nobody uses (see `idle.py`). `classless` says why there is no class of the caller's, where `module` is None. `whole`
    is the model of which the module is a part (`submodules.Whole`).
    """

    module: nn.Module | None
    exported: fx.GraphModule
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    tensors: Tensors
    result: Any = None
    placeholders: list[str] = field(default_factory=list)
    read: frozenset[str] = frozenset()
    classless: str = "a .pt2 file holds no class"
    whole: Any = None
    idle: list[Node] = field(default_factory=list)


def origin_of(graph: Graph) -> Origin:
    """The origin of a graph that this frontend made."""
    if not isinstance(graph.origin, Origin):
        raise GraphPruneError(f"the graph '{graph.name}' was not captured from a PyTorch module")
    return graph.origin
