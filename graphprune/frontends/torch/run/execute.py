"""Running modules and graphs: flat outputs, fresh inputs like the example, the masked reference of the verifier."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphprune.ir.graph import Graph, Node, Value

from ...chance import Script
from ...treatment import Compaction, Index, Treatment
from ..arrays import shared, to_numpy, to_torch
from ..lower.aliasing import mutates
from ..lower.registry import schema_of
from ..origin import Origin, Source, fill, origin_of
from ..write.calls import Calls, call_of
from ..write.graph_module import takes
from .drawing import following, inside
from .examples import fresh_like
from .modes import mode_of, split_inputs
from .parts import Parts, in_parts, run_in_parts
from .widen import widening

Progress = Callable[[float], None]


def flatten_outputs(outputs: Any) -> list[torch.Tensor]:
    """The tensors in a module's result, in order; dicts, sequences and dataclasses are walked."""
    found: list[torch.Tensor] = []
    for leaf in pytree.tree_leaves(outputs):
        if isinstance(leaf, torch.Tensor):
            found.append(leaf)
        elif dataclasses.is_dataclass(leaf) and not isinstance(leaf, type):
            found += flatten_outputs([getattr(leaf, f.name) for f in dataclasses.fields(leaf)])
    return found


def run(module: nn.Module, inputs: Any, *, wide: bool = False, script: Script | None = None) -> list[np.ndarray]:
    """Run a module in eval mode without gradients, in float64 if `wide`; its tensors in order.

    Random operators follow the script, where there is one.
    """
    args, kwargs = split_inputs(inputs)
    with mode_of(module, training=False), torch.no_grad():
        with widening() if wide else nullcontext(), following(script):
            found = flatten_outputs(module(*args, **kwargs))
        return [to_numpy(t) for t in found]


def run_all(
    module: nn.Module, feeds: Sequence[Any], progress: Progress | None = None, script: Script | None = None
) -> list[list[np.ndarray]]:
    """`run` on several inputs; an instrumented graph takes them through each operator together, see `Reference`.

    `progress` is told which part of the operators has run, where that is known.
    """
    if not isinstance(module, Reference):
        return [run(module, feed, script=script) for feed in feeds]
    with torch.no_grad(), following(script):
        found = module.together([split_inputs(feed) for feed in feeds], progress)
    return [[to_numpy(t) for t in flatten_outputs(outputs)] for outputs in found]


def random_inputs(graph: Graph, seed: int) -> Any:
    """Inputs like the example's: normal floats, the example's integers in another order, booleans as they are."""
    origin = origin_of(graph)
    return _renumbered(graph, fresh_like((origin.args, origin.kwargs), seed))


def example_inputs(graph: Graph) -> Any:
    """The example that the module was captured with, as `run` takes it; with ids and heads that the graph still has."""
    origin = origin_of(graph)
    return _renumbered(graph, (origin.args, origin.kwargs))


def _renumbered(graph: Graph, given: tuple[Any, Any]) -> Any:
    args, kwargs = given
    inputs = kwargs if kwargs and not args else args
    change = {name: partial(_modulo, len(k)) for name, k in graph.kept_rows.items()}
    change.update({v.name: partial(_cut, v.sizes) for v in graph.inputs if v.follows})
    return change_inputs(graph, inputs, change) if change else inputs


def _modulo(count: int, ids: np.ndarray) -> np.ndarray:
    return ids % count


def _cut(sizes: Sequence[int], cache: np.ndarray) -> np.ndarray:
    """A cache with as many heads as the graph has left."""
    return cache[tuple(slice(0, n) for n in sizes)]


def change_inputs(graph: Graph, inputs: Any, change: Mapping[str, Callable[[np.ndarray], np.ndarray]]) -> Any:
    """Inputs (as `run` takes them) with those of some names changed."""
    args, kwargs = split_inputs(inputs)
    origin = origin_of(graph)
    leaves, spec = pytree.tree_flatten((args, {name: kwargs[name] for name in origin.kwargs}))
    named = zip(origin.placeholders, leaves, strict=True)
    made = [to_torch(change[n](to_numpy(leaf))).to(leaf.device) if n in change else leaf for n, leaf in named]
    args, kwargs = pytree.tree_unflatten(made, spec)
    return kwargs if kwargs and not args else args


def instrument(graph: Graph, treatment: Treatment) -> nn.Module:
    """A module that runs the captured graph with values masked and nodes run on kept indices only.

    See "Running a masked reference" in `docs/ir.md`. It takes and returns what the captured module did.
    """
    return Reference(graph, treatment)


class Reference(nn.Module):
    """Calls the graph's operators one after the other, on the weights that the graph holds.

    Where weights lie in files, several inputs go through each operator together: a weight is read and masked once for
    all of them, and piece by piece where it is large (see `parts.py`). Else one goes after the other, which needs less
    memory. Values are dropped after their last reader. Given some `nodes`, those only (see `through`).
    """

    def __init__(self, graph: Graph, treatment: Treatment, nodes: Sequence[Node] | None = None) -> None:
        super().__init__()
        self.training = False
        self._graph = graph
        self._origin: Origin = origin_of(graph)
        self._treatment = treatment
        self._masks = {
            name: [torch.from_numpy(np.ascontiguousarray(m)) for m in masks] for name, masks in treatment.masks.items()
        }
        known = {v.name: v for v in graph.values()} if treatment.bypass else {}
        self._bypass = {name: known[source] for name, source in treatment.bypass.items()}
        wanted = graph.nodes if nodes is None else nodes
        self._calls: list[tuple[Node, Calls]] = [(n, call_of(n, self._constant)) for n in wanted]
        self._done = _last_read(graph, {*graph.outputs, *self._bypass.values()})
        self._turned = _turned(graph.nodes)
        weights = graph.weights().values() if nodes is None else dict.fromkeys(v for n in nodes for v in n.reads())
        # Weights that lie in a file are read each time they are used: there may be more than memory holds. A few
        # operators run many times: what they need is read once.
        here = [v for v in weights if v.weight is not None and (nodes is not None or not v.weight.lazy)]
        self._weights = {v: self._masked(v, self._load(v)) for v in here}

    def _constant(self, array: np.ndarray) -> torch.Tensor:
        return to_torch(array)

    def _load(self, value: Value) -> torch.Tensor:
        assert value.weight is not None
        data = (shared if value.weight.lazy else to_torch)(value.weight.array())
        return data.to(self._device(value) or data.device)

    def _device(self, value: Value) -> torch.device | None:
        like = self._origin.tensors.tensors.get(value.name)
        return None if like is None else like.device

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run on the module's own arguments."""
        return self.together([(args, kwargs)])[0]

    def together(self, given: Sequence[tuple[Any, Any]], progress: Progress | None = None) -> list[Any]:
        """Run on several of the module's own arguments."""
        lazy = any(v.weight is not None and v.weight.lazy for v in self._graph.weights().values())
        parts = [given] if lazy else [[one] for one in given]
        found = []
        for at, part in enumerate(parts):
            told = None if progress is None else partial(_tell_part, progress, at, len(parts))
            found += self._walk(part, told)
        return found

    def _walk(self, given: Sequence[tuple[Any, Any]], progress: Progress | None) -> list[Any]:
        runs = [self._start(args, kwargs) for args, kwargs in given]
        for at, ((node, calls), done) in enumerate(zip(self._calls, self._done, strict=True)):
            if progress is not None:
                progress(at / len(self._calls))
            self._step(node, calls, runs)
            for env in runs:
                for value in done:
                    env.pop(value, None)
        return [self._results(env) for env in runs]

    def inner(self, args: Any, kwargs: Any, names: Collection[str]) -> dict[str, Any]:
        """What it computes for the values of some names."""
        env, found = self._start(args, kwargs), dict[str, Any]()
        for (node, calls), done in zip(self._calls, self._done, strict=True):
            self._step(node, calls, [env])
            found.update({v.name: _whole(env[v]).clone() for v in node.outputs if v.name in names})
            for value in done:
                env.pop(value, None)
        return found

    def _step(self, node: Node, calls: Calls, runs: Sequence[dict[Value, Any]]) -> None:
        """One operator in all runs; what it reads is let go before the next."""
        held = {v: self._weight(v) for v in node.inputs if v is not None and v.weight is not None}
        own = runs[:1] if node in self._turned else runs
        given = [[None if v is None else held[v] if v in held else env[v] for v in node.inputs] for env in own]
        for env, results in zip(own, self._run(node, calls, given), strict=True):
            self._keep(env, node, results)
        for env in runs[len(own) :]:
            env.update({v: runs[0][v] for v in node.outputs})

    def through(self, env: dict[Value, Any]) -> dict[Value, Any]:
        """Run the operators on values that are there already; theirs join them."""
        for node, calls in self._calls:
            read = [None if v is None else env[v] if v.weight is None else self._weight(v) for v in node.inputs]
            self._keep(env, node, next(self._run(node, calls, [read])))
        return env

    def _start(self, args: Any, kwargs: Any) -> dict[Value, Any]:
        ordered = {name: kwargs[name] for name in self._origin.kwargs}
        leaves = pytree.tree_leaves((args, ordered))
        given = dict(zip(self._origin.placeholders, leaves, strict=True))
        return {value: self._masked(value, given[value.name]) for value in self._graph.inputs}

    def _keep(self, env: dict[Value, Any], node: Node, results: Sequence[Any]) -> None:
        for value, result in zip(node.outputs, results, strict=True):
            env[value] = self._masked(value, result)
            if value.name in self._bypass:
                env[value] = env[self._bypass[value.name]]

    def _results(self, env: dict[Value, Any]) -> Any:
        found = [_whole(env[v] if v.weight is None else self._weight(v)) for v in self._graph.outputs]
        return self._origin.exported.graph._codegen.process_outputs(fill(self._origin.result, found))

    def _weight(self, value: Value) -> torch.Tensor | Parts:
        held = self._weights.get(value)
        if held is not None:
            return held
        assert value.weight is not None
        parts = in_parts(value.weight, self._device(value))
        return self._masked(value, self._load(value) if parts is None else parts)

    def _run(self, node: Node, calls: Calls, given: Sequence[list[Any]]) -> Iterator[Sequence[Any]]:
        """What an operator makes of the inputs of each run."""
        compaction = self._treatment.compactions.get(node.name)
        if compaction is not None:
            calls = _resized(node, calls, compaction)
            for position, indices in compaction.inputs.items():
                for index in indices:
                    for inputs in given:
                        inputs[position] = compact(inputs[position], index)
        call = partial(_called, node, calls)
        parted = any(isinstance(item, Parts) for item in given[0])
        for results in run_in_parts(node, given, call) if parted else map(call, given):
            yield _finished(node, [*results], compaction)

    def _masked(self, value: Value, tensor: Any) -> Any:
        masks = self._masks.get(value.name)
        if not masks:
            return tensor
        return tensor.masked(masks, _masked) if isinstance(tensor, Parts) else _masked(masks, tensor)


def _called(node: Node, calls: Calls, inputs: list[Any]) -> Sequence[Any]:
    result: Any = None
    with inside(node.name):
        for at, (target, args, kwargs) in enumerate(calls):
            given = [result, *inputs[1:]] if at else inputs
            result = target(*fill(_follow(node, args, given), given), **fill(kwargs, given))
    several = node.source.several if isinstance(node.source, Source) else len(node.outputs) > 1
    return list(result) if several else [result]


def _finished(node: Node, results: list[Any], compaction: Compaction | None) -> list[Any]:
    """Gathered where a node says so, and scattered back to full size."""
    for axis, indices in takes(node):
        results = [compact(r, Index(axis, indices)) for r in results]
    if compaction is not None:
        for position, kept in compaction.positions.items():
            results[position] = torch.as_tensor(kept, device=results[position].device)[results[position]]
        for position, entries in compaction.outputs.items():
            results[position] = scatter(_whole(results[position]), entries, node.outputs[position].sizes)
    return results


def _masked(masks: Sequence[torch.Tensor], tensor: torch.Tensor) -> torch.Tensor:
    first, *others = masks
    masked = torch.where(first.to(tensor.device), tensor, tensor.new_zeros(()))
    for mask in others:
        masked.masked_fill_(~mask.to(tensor.device), 0)
    return masked


def _whole(item: Any) -> Any:
    return item.whole() if isinstance(item, Parts) else item


def _tell_part(progress: Progress, at: int, parts: int, done: float) -> None:
    progress((at + done) / parts)


def _turned(nodes: Sequence[Node]) -> set[Node]:
    """Nodes that turn a weight around for an operator: what they make is large, and the same for all inputs."""
    written = {v for n in nodes if mutates(getattr(n.source, "target", None)) for v in n.inputs}
    turns = (n for n in nodes if n.kind == "transpose" and n.inputs[0] is not None and n.inputs[0].weight is not None)
    return {n for n in turns if not written.intersection(n.outputs)}


def _last_read(graph: Graph, kept: set[Value]) -> list[list[Value]]:
    """For each node the values, but for some that are kept, which no node after it reads."""
    found: list[list[Value]] = []
    seen = set(kept)
    for node in reversed(graph.nodes):
        touched = [v for v in (*node.inputs, *node.outputs) if v is not None and v not in seen]
        found.append(list(dict.fromkeys(touched)))
        seen.update(touched)
    return found[::-1]


def _follow(node: Node, args: tuple[Any, ...], inputs: list[Any]) -> tuple[Any, ...]:
    """`normalized_shape` follows the data, which may have been compacted."""
    if node.kind != "layer_norm":
        return args
    at = schema_of(node.source.target).place["normalized_shape"]
    return (*args[:at], [inputs[0].shape[axis] for axis in node.attrs["axes"]], *args[at + 1 :])


def _resized(node: Node, calls: Calls, compaction: Compaction) -> Calls:
    if compaction.groups is None:
        return calls
    (target, args, kwargs), *rest = calls
    place = schema_of(target).place
    at = place["num_groups"] if "num_groups" in place else place["groups"]
    args = (*args, *schema_of(target).defaults[len(args) : at + 1])
    return [(target, (*args[:at], compaction.groups, *args[at + 1 :]), kwargs), *rest]


def compact(tensor: Any, index: Index) -> Any:
    """Gather along an axis, by the same indices everywhere or by indices that vary over other axes."""
    if isinstance(tensor, Parts):
        indices = torch.as_tensor(index.indices)
        return tensor.taken(index.axis, indices) if indices.ndim == 1 else compact(tensor.whole(), index)
    indices = torch.as_tensor(index.indices, device=tensor.device)
    if indices.ndim == 1:
        return tensor.index_select(index.axis, indices)
    return tensor.take_along_dim(indices, index.axis)


def scatter(tensor: torch.Tensor, entries: Sequence[Index], shape: tuple[int, ...]) -> torch.Tensor:
    """Undo gathers over zeros, last first."""
    for index in reversed(entries):
        full = list(tensor.shape)
        full[index.axis] = shape[index.axis]
        indices = torch.as_tensor(index.indices, device=tensor.device)
        if indices.ndim == 1:
            tensor = tensor.new_zeros(full).index_copy(index.axis, indices, tensor)
        else:
            tensor = tensor.new_zeros(full).scatter(index.axis, indices.expand(tensor.shape), tensor)
    return tensor
