"""From the neutral graph to an `fx.GraphModule`: unchanged nodes as they came, changed ones from their attributes."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from graphprune.errors import GraphPruneError
from graphprune.ir.graph import Graph, Node, Value

from ..arrays import to_torch
from ..origin import Origin, Source, Submodule, fill, origin_of
from .calls import call_of

aten = torch.ops.aten


def to_graph_module(graph: Graph, *, dynamic: bool = False) -> fx.GraphModule:
    """Write a graph as an `fx.GraphModule` that owns copies of its weights under their original names.

    It takes and returns what the captured module did. Dropout and batch norm are in the mode of the caller's module,
    and follow `train()` and `eval()`. With
    `dynamic`, axes that follow the batch (as `dynamic.py` believes) do; else all sizes are those of the example.
    """
    return _Writer(graph, dynamic).write()


class PrunedModule(fx.GraphModule):
    """A graph module whose dropout and batch norm follow `train()` and `eval()`; weights have all their names."""

    def tie(self, aliases: dict[str, tuple[str, bool]]) -> None:
        """Give tied weights their further names (each with the first name and whether it is saved)."""
        self._ties = aliases
        for name, (first, persistent) in aliases.items():
            found = lookup(self, first)
            if found is not None:
                place(self, name, found, persistent=persistent)

    def __deepcopy__(self, memo: dict[int, Any]) -> PrunedModule:
        """A copy, which fx makes of what the graph reads only."""
        twin = super().__deepcopy__(memo)
        assert isinstance(twin, PrunedModule)
        twin.training = self.training
        twin.tie(self._ties)
        return twin

    def train(self, mode: bool = True) -> PrunedModule:
        """Switch dropout and batch norm, whose mode the exported graph holds as an argument."""
        super().train(mode)
        self.set_modes(lambda node: mode)
        return self

    def modes(self) -> dict[fx.Node, bool]:
        """The mode of each dropout and batch norm that was captured in eval mode."""
        return {n: n.args[_MODE[n.target]] for n in self.graph.nodes if n.target in _MODE and "eval" in n.meta}

    def set_modes(self, choose: Callable[[fx.Node], bool]) -> None:
        """Set these modes."""
        changed = [node for node, mode in self.modes().items() if mode != choose(node)]
        for node in changed:
            node.update_arg(_MODE[node.target], choose(node))
        if changed:
            self.recompile()


# Where each operator takes the mode.
_MODE: dict[Any, int] = {aten.batch_norm.default: 5, aten.dropout.default: 2, aten.feature_dropout.default: 2}


class _Writer:
    def __init__(self, graph: Graph, dynamic: bool) -> None:
        self.graph = graph
        self._dynamic = dynamic
        self._size: fx.Node | None = None
        self.origin: Origin = origin_of(graph)
        self.root = nn.Module()
        self.fx = fx.Graph()
        self._env: dict[Value, fx.Node] = {}
        self._count = 0

    def write(self) -> fx.GraphModule:
        """Placeholders, calls, result."""
        tensors = self.origin.tensors
        inputs = {value.name: value for value in self.graph.inputs}
        for name in self.origin.placeholders:
            given = self.fx.placeholder(name)
            if name in inputs:
                self._env[inputs[name]] = given
        for node in self.graph.nodes:
            self._node(node)
        results = [self._get(value) for value in self.graph.outputs]
        self.fx.output(fill(self.origin.result, results))
        self.fx.set_codegen(self.origin.exported.graph._codegen)
        module = PrunedModule(self.root, self.fx, self.graph.name)
        _take_mode(module, self.origin)
        module.tie({a: (first, tensors.persistent[a]) for a, first in tensors.aliases.items()})
        return module

    def _node(self, node: Node) -> None:
        source = node.source if isinstance(node.source, Source) else None
        owner = "" if source is None else source.owner
        inputs = [None if v is None else self._get(v) for v in node.inputs]
        calls = call_of(node, self.constant, self._batch if self._dynamic else None)
        made: fx.Node | None = None
        for target, args, kwargs in calls:
            given = [made, *inputs[1:]] if made is not None else inputs
            made = self._call(node.name, target, fill(args, given), fill(kwargs, given), owner)
        assert made is not None
        several = source.several if source is not None else len(node.outputs) > 1
        for at, value in enumerate(node.outputs):
            piece = self.fx.call_function(operator.getitem, (made, at)) if several else made
            for axis, indices in takes(node):
                piece = self.fx.call_function(aten.index_select.default, (piece, axis, self.constant(indices)))
            self._env[value] = piece

    def _call(self, name: str, target: Any, args: Any, kwargs: Any, owner: str) -> fx.Node:
        args, kwargs = (self._submodules(a) for a in (args, kwargs))
        made = self.fx.create_node("call_function", target, args, kwargs, name.replace(".", "_"))
        at = _MODE.get(target)
        if at is not None and len(args) > at and args[at] is False:
            made.meta["eval"] = owner
        return made

    def _submodules(self, value: Any) -> Any:
        if isinstance(value, Submodule):
            return self._own(value.module, "submodule")
        if isinstance(value, (tuple, list)):
            return type(value)(self._submodules(v) for v in value)
        if isinstance(value, dict):
            return {k: self._submodules(v) for k, v in value.items()}
        return value

    def _get(self, value: Value) -> fx.Node:
        if value not in self._env:
            if value.weight is None:
                raise GraphPruneError(f"'{value.name}' is read before it is made")
            found = self._weight(value)
            self._env[value] = self._grown(value, found) if self._dynamic and value.dynamic else found
        return self._env[value]

    def _batch(self) -> fx.Node:
        """The size of the batch."""
        if self._size is None:
            given = next(v for v in self.graph.inputs if v.dynamic)
            self._size = self.fx.call_function(aten.sym_size.int, (self._env[given], 0))
        return self._size

    def _grown(self, value: Value, made: fx.Node) -> fx.Node:
        """A constant that is the same for every sample, for as many as there are."""
        (axis,) = value.dynamic
        one = self.fx.call_function(aten.slice.Tensor, (made, axis, 0, 1))
        sizes = [self._batch() if a == axis else -1 for a in range(value.rank)]
        return self.fx.call_function(aten.expand.default, (one, sizes))

    def _weight(self, value: Value) -> fx.Node:
        assert value.weight is not None
        tensors = self.origin.tensors
        like = tensors.tensors.get(value.name)
        data = to_torch(value.weight.array())
        if like is None:
            trainable = value.weight.trainable and data.is_floating_point()
            return self._own(nn.Parameter(data) if trainable else data, value.name)
        register(self.root, value.name, data, like, persistent=tensors.persistent[value.name])
        return self.fx.get_attr(value.name)

    def constant(self, array: Any) -> fx.Node:
        """A new buffer that no captured tensor stands behind."""
        return self._own(to_torch(array), "indices", persistent=False)

    def _own(self, thing: torch.Tensor | nn.Module, name: str, *, persistent: bool = True) -> fx.Node:
        name = name.replace(".", "_").replace("/", "_")
        while hasattr(self.root, name):
            self._count += 1
            name = f"{name}_{self._count}"
        if isinstance(thing, nn.Module):
            self.root.add_module(name, thing)
        else:
            place(self.root, name, thing, persistent=persistent)
        return self.fx.get_attr(name)


def _take_mode(module: PrunedModule, origin: Origin) -> None:
    """Put what was captured in eval mode into the mode of the caller's module, of each dropout and batch norm its own;
    a program without a module stays in eval mode.
    """
    source = origin.module
    module.training = source is not None and source.training
    modes = {} if source is None else {path: child.training for path, child in source.named_modules()}
    module.set_modes(lambda node: modes.get(node.meta["eval"], module.training))


def takes(node: Node) -> list[tuple[int, Any]]:
    """The gathers that follow a node (see `attrs["take"]` in docs/ir.md)."""
    take = node.attrs.get("take")
    if take is None:
        return []
    return [take] if isinstance(take, tuple) else list(take)


def like_parameter(data: torch.Tensor, like: torch.Tensor) -> torch.Tensor:
    """`data` on the device of `like`, as a parameter where `like` is one."""
    data = data.to(like.device)
    return nn.Parameter(data, requires_grad=like.requires_grad) if isinstance(like, nn.Parameter) else data


def register(root: nn.Module, name: str, data: torch.Tensor, like: torch.Tensor, *, persistent: bool) -> None:
    """Register data under a dotted name as what `like` is: a parameter or a buffer."""
    place(root, name, like_parameter(data, like), persistent=persistent)


def place(root: nn.Module, name: str, tensor: torch.Tensor, *, persistent: bool) -> None:
    """Register a parameter or buffer under a dotted name, making the modules on the way."""
    *path, last = name.split(".")
    for part in path:
        if part not in root._modules:
            root.add_module(part, nn.Module())
        child = root._modules[part]
        assert child is not None
        root = child
    if isinstance(tensor, nn.Parameter):
        root.register_parameter(last, tensor)
    else:
        root.register_buffer(last, tensor, persistent=persistent)


def lookup(root: nn.Module, name: str) -> torch.Tensor | None:
    """The tensor of a dotted name, or None."""
    found: Any = root
    for part in name.split("."):
        found = getattr(found, part, None)
    return found if isinstance(found, torch.Tensor) else None
