"""From the exported fx graph to the neutral graph: one walk that folds constants and undoes in-place operators."""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import fx
from torch._ops import OpOverload

from graphprune.errors import GraphPruneError
from graphprune.ir.graph import Graph, Node, Value, Weight

from ..arrays import numpy_dtype, to_numpy
from ..origin import Origin, Slot, Source, Submodule
from .aliasing import Aliases, StaleViewError, functional, is_view, mutates, only_metadata
from .arguments import mapped, may_write, owner_of
from .binding import counts, free_axes, free_results, is_number
from .folding import NUMBERS, Folder
from .idle import idle_nodes
from .random import may_draw
from .registry import BAKED, Call, Name, Spec, lowering_of

aten = torch.ops.aten
_DROPPED = frozenset(
    "_assert_tensor_metadata _assert_async _assert_scalar sym_constrain_range sym_constrain_range_for_size".split()
)


def lower(origin: Origin, name: str, *, training: bool = False) -> Graph:
    """The neutral graph of `origin.exported`; fills in `origin.result`, `origin.placeholders` and `origin.idle`.

    In `training`, what is written to buffers is followed: such a graph says how sizes hang together, and never runs.
    """
    walk = _Walk(origin, training)
    for node in origin.exported.graph.nodes:
        walk.visit(node)
    graph = Graph(name, walk.nodes, walk.inputs, walk.outputs, "torch", origin)
    _drop_dead(graph)
    origin.idle = idle_nodes(walk.nodes, graph.nodes)
    kept = {*origin.idle, *graph.nodes}
    graph.nodes = [node for node in walk.nodes if node in kept] if training else graph.nodes
    return graph


def _drop_dead(graph: Graph) -> None:
    """Remove nodes that nothing reads, except those that write to the module's state."""
    needed = set(graph.outputs)
    kept = []
    for node in reversed(graph.nodes):
        if mutates(node.source.target) or any(v in needed for v in node.outputs):
            needed.update(v for v in node.inputs if v is not None)
            kept.append(node)
    graph.nodes = kept[::-1]


class _Walk:
    """State of one lowering: the value of each fx node, the tensors known, the names in use."""

    def __init__(self, origin: Origin, training: bool = False) -> None:
        self.origin = origin
        self._training = training
        self.nodes: list[Node] = []
        self.inputs: list[Value] = []
        self.outputs: list[Value] = []
        self._values: dict[fx.Node, Any] = {}
        self._weights: dict[str, Value] = {}
        self._parameters: dict[fx.Node, tuple[str, torch.Tensor]] = {}
        self._folded: dict[tuple[fx.Node, int], Value] = {}
        self._folder = Folder()
        self._aliases = Aliases()
        self._names: set[str] = {*origin.tensors.tensors, *origin.tensors.aliases}
        calls = [n for n in origin.exported.graph.nodes if n.op == "call_function"]
        self._inplace = any(mutates(n.target) for n in calls)

    def visit(self, node: fx.Node) -> None:
        """Lower one fx node."""
        if node.op == "placeholder":
            self._placeholder(node)
        elif node.op == "get_attr":
            self._attribute(node)
        elif node.op == "output":
            self._output(node)
        elif node.op == "call_function":
            self._call(node)
        else:
            raise GraphPruneError(f"the exported graph has a node of kind '{node.op}' ('{node.name}')")

    def _placeholder(self, node: fx.Node) -> None:
        self.origin.placeholders.append(str(node.target))
        if isinstance(node.meta.get("val"), torch.Tensor):
            value = self._value(str(node.target), node.meta["val"])
            self._values[node] = value
            self.inputs.append(value)

    def _attribute(self, node: fx.Node) -> None:
        target = str(node.target)
        found: Any = self.origin.exported
        for part in target.split("."):
            found = getattr(found, part)
        if not isinstance(found, torch.Tensor):
            self._values[node] = Submodule(found)
            return
        name = self.origin.tensors.name_of(found)
        if name is not None:
            self._parameters[node] = (name, found)
        if name is None or not (
            isinstance(found, torch.nn.Parameter) or found.is_floating_point() or found.is_complex()
        ):
            self._folder.known[node] = found.clone() if self._inplace else found

    def _output(self, node: fx.Node) -> None:
        def place(arg: Any) -> Any:
            if isinstance(arg, fx.Node):
                self.outputs.append(self._value_of(arg))
                return Slot(len(self.outputs) - 1)
            if isinstance(arg, (tuple, list)):
                return type(arg)(place(a) for a in arg)
            return arg

        self.origin.result = place(node.args[0])

    def _call(self, node: fx.Node) -> None:
        target = node.target
        if target is operator.getitem:
            self._getitem(node)
        elif not isinstance(target, OpOverload) and self._folder.compute(node):
            return
        elif counts(node):
            self._count(node)
        elif not isinstance(target, OpOverload):
            self._values[node] = self._lower_unknown(node, subgraph=True)
        elif target._opname in _DROPPED:
            return
        elif self._folder.foldable(node, self._aliases.root):
            self._fold(node, target)
        elif mutates(target):
            self._write(node)
        elif self._training and target is aten.detach.default and isinstance(node.args[0], fx.Node):
            self._aliases.same(node, node.args[0])  # gradients are not asked for
        else:
            if is_view(target) and isinstance(node.args[0], fx.Node):
                self._aliases.view(node, node.args[0])
            self._values[node] = self._lower(node)

    def _count(self, node: fx.Node) -> None:
        """A number made of sizes that follow values."""
        inputs: list[Value | None] = []
        args, kwargs = (mapped(given, lambda arg: self._slots(arg, inputs)) for given in (node.args, dict(node.kwargs)))
        self._values[node] = self._add(node, "shape_math", {}, inputs, node.target, args, kwargs)

    def _fold(self, node: fx.Node, target: OpOverload) -> None:
        self._folder.evaluate(node)
        if mutates(target) and isinstance(node.args[0], fx.Node):
            self._aliases.same(node, node.args[0])
        elif is_view(target) and isinstance(node.args[0], fx.Node):
            self._aliases.view(node, node.args[0])

    def _getitem(self, node: fx.Node) -> None:
        whole, at = node.args
        assert isinstance(whole, fx.Node) and isinstance(at, int)
        self._aliases.view(node, whole)
        if whole in self._folder.known:
            self._folder.known[node] = self._folder.known[whole][at]
        else:
            self._values[node] = self._values[whole][at]

    def _write(self, node: fx.Node) -> None:
        """An in-place call: the tensor it writes to has a new value from here on."""
        written = node.args[0] if node.args else None
        copied = node.args[1] if node.target is aten.copy_.default else None
        if isinstance(written, fx.Node) and self._aliases.same_tensor(written, copied):
            self._aliases.same(node, written)
            return
        own = isinstance(written, fx.Node) and self._aliases.root(written) in self._parameters
        if not isinstance(written, fx.Node) or (own and not self._training):
            self._values[node] = self._lower_unknown(node)
            return
        if own and isinstance(copied, fx.Node):
            self._keep_up(node, written, copied)
            return
        target = functional(node)
        if target is None:
            raise StaleViewError(node.name)
        root, turned = self._aliases.root(written), only_metadata(node.target)  # type: ignore[arg-type]
        if turned and self._aliases.is_looking(root):  # what is written to it from here on lies elsewhere in its base
            raise StaleViewError(node.name)
        chain = [] if turned else self._aliases.write(root)
        self._overwrite(root, self._lower(node, target))
        self._aliases.same(node, root)
        for view in chain:
            self._scatter(node, view)
        for gone in self._aliases.stale:
            self._folder.known.pop(gone, None)

    def _keep_up(self, node: fx.Node, written: fx.Node, copied: fx.Node) -> None:
        """A tensor of the module takes over another: what it holds from here on goes with both."""
        root, result = self._aliases.root(written), self._value(node.name, written.meta["val"])
        inputs: list[Value | None] = [self._value_of(root), self._value_of(copied)]
        self._insert(node, "elementwise", aten.add.Tensor, inputs, (Slot(0), Slot(1)), {"fn": "add"}, result)
        self._overwrite(root, result)
        self._aliases.same(node, root)

    def _overwrite(self, root: fx.Node, value: Value) -> None:
        self._values[root] = value
        self._folder.known.pop(root, None)

    def _scatter(self, node: fx.Node, view: fx.Node) -> None:
        """What was written to a view goes into the tensor it looks at."""
        base = self._aliases.root(view.args[0])  # type: ignore[arg-type]
        call = Call(view, view.target, self._constant)
        written = self._value_of(view)
        axis, size = call.axis("self", call["dim"]), call.shape("self")[call.axis("self", call["dim"])]
        if view.target is aten.slice.Tensor:
            start, stop, step = slice(call["start"], call["end"], call["step"]).indices(size)
        else:
            start, step = call["index"] % size, 1
            stop, written = start + 1, self._unsqueezed(node, written, axis)
        attrs = {"axis": axis, "start": start, "stop": max(start, stop), "step": step}
        args = (Slot(0), Slot(1), axis, start, stop, step)
        result = self._value(f"{node.name}.{base.name}", base.meta["val"])
        self._insert(
            node, "slice_scatter", aten.slice_scatter.default, [self._value_of(base), written], args, attrs, result
        )
        self._overwrite(base, result)

    def _unsqueezed(self, node: fx.Node, value: Value, axis: int) -> Value:
        """One more axis, of size one."""
        shape = (*value.sizes[:axis], 1, *value.sizes[axis:])
        result = Value(self._value(f"{node.name}.unsqueezed", None).name, shape, value.dtype)
        attrs = {"shape": shape}
        self._insert(node, "reshape", aten.unsqueeze.default, [value], (Slot(0), axis), attrs, result)
        return result

    def _insert(
        self,
        node: fx.Node,
        kind: str,
        target: OpOverload,
        inputs: list[Value | None],
        args: tuple[Any, ...],
        attrs: dict[str, Any],
        result: Value,
    ) -> None:
        """A node that the exported graph does not have, on behalf of one that it has."""
        source = Source(target, args, {}, False, owner_of(node), dict(attrs))
        self.nodes.append(Node(kind, result.name, inputs, [result], attrs, str(target), source, scope=source.owner))

    def _lower(self, node: fx.Node, target: OpOverload | None = None) -> Any:
        """Lower a call, as one of `target` if given; returns its value or values."""
        call = Call(node, target or node.target, self._constant)
        lowering = lowering_of(call.name)
        spec = lowering(call) if lowering is not None else None
        if spec is None:
            return self._lower_unknown(node, target)
        args, kwargs, inputs = self._arguments(call, spec)
        return self._add(node, spec.kind, spec.attrs, inputs, spec.target or call.target, args, kwargs)

    def _arguments(self, call: Call, spec: Spec) -> tuple[tuple[Any, ...], dict[str, Any], list[Value | None]]:
        """The call's arguments with slots, written out up to the last input, and the inputs in canonical order."""
        inputs: list[Value | None] = []
        slots: dict[str, Any] = {name: self._slots(call[name], inputs) for name in spec.inputs}
        if spec.target is not None:
            args = tuple(slots[a] if isinstance(a, Name) else a for a in spec.args)
            if free_axes(call.node) and spec.target in BAKED:
                args = (args[0], self._open_sizes(call, list(args[1]), inputs), *args[2:])
            return args, spec.kwargs, inputs
        names, index = call.schema.names, call.schema.place
        places = [index[n] + 1 for n in spec.inputs if index[n] < call.schema.positional]
        count = max(len(call.node.args), *places, 0)
        args = tuple(slots[n] if n in slots else self._told(call.raw(n), inputs) for n in names[:count])
        given = {k: v for k, v in call.node.kwargs.items() if index[k] >= count}
        return args, {k: slots[k] if k in slots else self._told(v, inputs) for k, v in given.items()}, inputs

    def _told(self, argument: Any, inputs: list[Value | None]) -> Any:
        """An argument that is no tensor, with slots for numbers that follow values."""
        return mapped(argument, lambda arg: self._slots(arg, inputs))

    def _open_sizes(self, call: Call, sizes: list[Any], inputs: list[Value | None]) -> list[Any]:
        """The sizes of a reshape or an expansion, where some follow values: as told, else as those of an operand."""
        free = free_axes(call.node)
        if call.name not in ("expand", "expand_as", "broadcast_to") and len(free) == 1:
            return [-1 if axis in free else size for axis, size in enumerate(sizes)]
        told = call.raw("size") if "size" in call else call.raw("shape") if "shape" in call else None
        for axis in free:
            if told is not None and is_number(told[axis]):
                sizes[axis] = self._slots(told[axis], inputs)
            elif call.has("other"):
                sizes[axis] = self._size_of(call, call["other"], axis, inputs)
            else:
                sizes[axis] = -1
        return sizes

    def _size_of(self, call: Call, tensor: fx.Node, axis: int, inputs: list[Value | None]) -> Slot:
        """A slot for one of the sizes of a tensor."""
        value = self._value(f"{call.node.name}.size{axis}", None)
        self._insert(call.node, "shape_math", aten.sym_size.int, [self._value_of(tensor)], (Slot(0), axis), {}, value)
        inputs.append(value)
        return Slot(len(inputs) - 1)

    def _slots(self, argument: Any, inputs: list[Value | None]) -> Any:
        if isinstance(argument, (list, tuple)):
            return [None if item is None else self._slots(item, inputs) for item in argument]
        if isinstance(known := self._folder.known.get(argument), NUMBERS):
            return known
        inputs.append(self._value_of(argument) if isinstance(argument, fx.Node) else None)
        return Slot(len(inputs) - 1)

    def _lower_unknown(self, node: fx.Node, target: OpOverload | None = None, *, subgraph: bool = False) -> Any:
        inputs: list[Value | None] = []

        def place(arg: fx.Node) -> Any:
            found = self._values.get(arg, self._folder.known.get(arg))
            if isinstance(found, (Submodule, *NUMBERS)):
                return found
            inputs.append(self._value_of(arg))
            return Slot(len(inputs) - 1)

        args, kwargs = mapped(node.args, place), mapped(dict(node.kwargs), place)
        attrs = {"subgraph": subgraph, **({"writes": True} if may_write(node.target) else {})}
        return self._add(node, "unknown", attrs, inputs, target or node.target, args, kwargs)

    def _add(
        self,
        node: fx.Node,
        kind: str,
        attrs: dict[str, Any],
        inputs: list[Value | None],
        target: Any,
        args: Any,
        kwargs: Any,
    ) -> Any:
        result = node.meta.get("val")
        several = isinstance(result, (tuple, list))
        if isinstance(result, (tuple, list)):
            outputs = [self._value(f"{node.name}.{i}", r) for i, r in enumerate(result)]
        else:
            outputs = [self._value(node.name, result)]
        for value, free in zip(outputs, free_results(node, len(outputs)), strict=True):
            value.dynamic = free
        if may_draw(target, args, kwargs):
            attrs = {**attrs, "random": True}
        source = Source(target, args, kwargs, several, owner_of(node), dict(attrs))
        op = str(node.target).removesuffix(".default")
        self.nodes.append(Node(kind, node.name, inputs, outputs, attrs, op, source, scope=source.owner))
        return outputs if several else outputs[0]

    def _value(self, name: str, like: Any) -> Value:
        while name in self._names:
            name += "_"
        self._names.add(name)
        if isinstance(like, torch.Tensor):
            return Value(name, tuple(like.shape), numpy_dtype(like.dtype))
        return Value(name, (), numpy_dtype(torch.float64))

    def _value_of(self, node: fx.Node) -> Value:
        node = self._aliases.root(node)
        if node in self._aliases.stale:
            raise StaleViewError(node.name)
        if node in self._values:
            value: Value = self._values[node]
            return value
        if node in self._parameters:
            name, tensor = self._parameters[node]
            return self._weight(name, tensor, trainable=isinstance(tensor, torch.nn.Parameter), tied=True)
        if node in self._folder.known:
            tensor = self._folder.known[node]
            key = (node, tensor._version)
            if key not in self._folded:
                self._folded[key] = self._constant_value(node, tensor)
            return self._folded[key]
        raise GraphPruneError(f"'{node.name}' of the exported graph has no value")

    def _constant_value(self, node: fx.Node, tensor: torch.Tensor) -> Value:
        name = f"constant_{node.name}"
        while name in self._names:
            name += "_"
        self._names.add(name)
        return self._weight(name, tensor.clone() if self._inplace else tensor, trainable=False, tied=False)

    def _weight(self, name: str, tensor: torch.Tensor, *, trainable: bool, tied: bool) -> Value:
        if name not in self._weights:
            shape, dtype = tuple(tensor.shape), numpy_dtype(tensor.dtype)
            weight = Weight(shape, dtype, lambda: to_numpy(tensor), trainable=trainable, tied=tied)
            self._weights[name] = Value(name, shape, dtype, weight=weight)
        return self._weights[name]

    def _constant(self, node: fx.Node) -> torch.Tensor | None:
        return self._folder.tensor(self._aliases.root(node))
