"""How a changed node is called: one writer per canonical kind turns attributes back into ATen arguments."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from graphprune.errors import GraphPruneError
from graphprune.ir.graph import Node

from ..lower.registry import BAKED, schema_of
from ..origin import Slot, Source

aten = torch.ops.aten

# Calls to make in order, each on the result of the one before; `Slot`s stand for the node's inputs.
Call = tuple[Any, tuple[Any, ...], dict[str, Any]]
Calls = list[Call]
Constant = Callable[[np.ndarray], Any]
Writer = Callable[[Node, Constant], Calls]

_WRITERS: dict[str, Writer] = {}
_X = Slot(0)


def call_of(node: Node, constant: Constant, batch: Callable[[], Any] | None = None) -> Calls:
    """The calls that compute a node; `constant` registers an array and returns what stands for it in arguments.

    With `batch`, which gives what stands for the size of the batch, dynamic axes take the size they have when run.
    """
    calls = _call_of(node, constant)
    if batch is None or not any(v.dynamic for v in node.outputs):
        return calls
    if node.kind == "noise":
        return [(target, _sizes(node, args, batch), kwargs) for target, args, kwargs in calls]
    return [_dynamic(node, call, batch) if call[0] in BAKED else call for call in calls]


def _call_of(node: Node, constant: Constant) -> Calls:
    source = node.source
    writer = _WRITERS.get(node.kind)
    if isinstance(source, Source) and (not node.changed or writer is None):
        return [(source.target, *_sized(node, source))]
    if writer is None:
        raise GraphPruneError(f"a '{node.kind}' node ('{node.name}') that was not captured cannot be written")
    return [_kept_open(node, call) for call in writer(node, constant)]


def _kept_open(node: Node, call: Call) -> Call:
    """A reshape, expansion or repetition with the sizes that follow values as they were captured."""
    source, (target, args, kwargs) = node.source, call
    if not isinstance(source, Source) or target not in BAKED:
        return call
    if source.target in BAKED:
        return target, (args[0], _with_open(args[1], source.args[1]), *args[2:]), kwargs
    free = node.outputs[0].dynamic
    if target is not aten.reshape.default or len(free) != 1:
        return call
    sizes = [-1 if axis in free else size for axis, size in enumerate(args[1])]  # flattened: no sizes were told
    return target, (args[0], sizes, *args[2:]), kwargs


def _with_open(sizes: Sequence[Any], own: Sequence[Any]) -> list[Any]:
    """Sizes, but those of `own` where they are no numbers until it runs."""
    if len(own) != len(sizes):
        return list(sizes)
    return [o if isinstance(o, Slot) or o == -1 else n for n, o in zip(sizes, own, strict=True)]


def _dynamic(node: Node, call: Call, batch: Callable[[], Any]) -> Call:
    """A reshape, expansion or repetition whose result has a dynamic axis."""
    target, (x, sizes, *rest), kwargs = call
    source, out = node.inputs[0], node.outputs[0]
    assert source is not None
    sizes, missing = list(sizes), out.rank - source.rank
    for axis in out.dynamic:
        if target is aten.reshape.default:
            sizes[axis] = -1
        elif axis - missing not in source.dynamic:
            sizes[axis] = batch()
        elif target is aten.expand.default:
            sizes[axis] = -1
    return target, (x, sizes, *rest), kwargs


def _sizes(node: Node, args: tuple[Any, ...], batch: Callable[[], Any]) -> tuple[Any, ...]:
    """The arguments of an operator that is told the size of its result, where that has a dynamic axis."""
    out, at = node.outputs[0], schema_of(_source(node).target).place["size"]
    size = [batch() if axis in out.dynamic else n for axis, n in enumerate(args[at])]
    return (*args[:at], size, *args[at + 1 :])


def _sized(node: Node, source: Source) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The captured arguments, with those brought up to date that repeat a size of a tensor."""
    if node.kind == "layer_norm":
        return _with(source, normalized_shape=_normalized_shape(node)), source.kwargs
    if node.kind == "fill" and "size" in schema_of(source.target).place:
        own, place = list(node.outputs[0].sizes), schema_of(source.target).place["size"]
        told = source.args[place] if place < len(source.args) else own
        return _with(source, size=_with_open(own, told)), source.kwargs
    return source.args, source.kwargs


def _normalized_shape(node: Node) -> list[int]:
    x = node.inputs[0]
    assert x is not None
    return [x.sizes[axis] for axis in node.attrs["axes"]]


def _with(source: Source, **changes: Any) -> tuple[Any, ...]:
    """The positional arguments with some replaced by name; further ones are written out."""
    schema = schema_of(source.target)
    args = list(source.args)
    for name, value in changes.items():
        at = schema.place[name]
        args += schema.defaults[len(args) : at + 1]
        args[at] = value
    return tuple(args)


def writes(*kinds: str) -> Callable[[Writer], Writer]:
    """Register the decorated writer for canonical kinds."""

    def register(writer: Writer) -> Writer:
        for kind in kinds:
            if kind in _WRITERS:
                raise GraphPruneError(f"two writers are registered for '{kind}'")
            _WRITERS[kind] = writer
        return writer

    return register


def _source(node: Node) -> Source:
    if not isinstance(node.source, Source):
        raise GraphPruneError(f"a '{node.kind}' node ('{node.name}') that was not captured cannot be written")
    return node.source


@writes("conv")
def _conv(node: Node, constant: Constant) -> Calls:
    source = _source(node)
    return [(source.target, _with(source, groups=node.attrs["groups"]), source.kwargs)]


@writes("batch_norm", "instance_norm")
def _batch_norm(node: Node, constant: Constant) -> Calls:
    source = _source(node)
    return [(source.target, _with(source, eps=node.attrs["epsilon"]), source.kwargs)]


@writes("group_norm")
def _group_norm(node: Node, constant: Constant) -> Calls:
    source = _source(node)
    return [(source.target, _with(source, num_groups=node.attrs["groups"], eps=node.attrs["epsilon"]), source.kwargs)]


@writes("layer_norm")
def _layer_norm(node: Node, constant: Constant) -> Calls:
    source = _source(node)
    args = _with(source, normalized_shape=_normalized_shape(node), eps=node.attrs["epsilon"])
    return [(source.target, args, source.kwargs)]


@writes("attention")
def _attention(node: Node, constant: Constant) -> Calls:
    source = _source(node)
    return [(source.target, source.args, {**source.kwargs, "scale": node.attrs["scale"]})]


@writes("reshape")
def _reshape(node: Node, constant: Constant) -> Calls:
    return [(aten.reshape.default, (_X, list(node.attrs["shape"])), {})]


@writes("expand")
def _expand(node: Node, constant: Constant) -> Calls:
    return [(aten.expand.default, (_X, list(node.attrs["shape"])), {})]


@writes("noise")
def _noise(node: Node, constant: Constant) -> Calls:
    source = _source(node)
    return [(source.target, _with(source, size=list(node.attrs["shape"])), source.kwargs)]


@writes("transpose")
def _transpose(node: Node, constant: Constant) -> Calls:
    return [(aten.permute.default, (_X, list(node.attrs["perm"])), {})]


@writes("split")
def _split(node: Node, constant: Constant) -> Calls:
    return [(aten.split_with_sizes.default, (_X, list(node.attrs["sizes"]), node.attrs["axis"]), {})]


@writes("slice")
def _slice(node: Node, constant: Constant) -> Calls:
    """ATen slices one axis a call and only forwards."""
    if any(step < 1 for *_, step in node.attrs["slices"]):
        raise GraphPruneError(f"'{node.name}' slices backwards, which PyTorch cannot")
    calls: Calls = [(aten.slice.Tensor, (_X, *bounds), {}) for bounds in node.attrs["slices"]]
    return calls or [(aten.alias.default, (_X,), {})]


@writes("slice_scatter")
def _slice_scatter(node: Node, constant: Constant) -> Calls:
    bounds = [node.attrs[k] for k in ("axis", "start", "stop", "step")]
    return [(aten.slice_scatter.default, (_X, Slot(1), *bounds), {})]


@writes("select")
def _select(node: Node, constant: Constant) -> Calls:
    return [(aten.select.int, (_X, node.attrs["axis"], node.attrs["index"]), {})]


@writes("gather")
def _gather(node: Node, constant: Constant) -> Calls:
    axis, indices = node.attrs["axis"], node.attrs["indices"]
    index = Slot(1) if indices is None else constant(np.asarray(indices, dtype=np.int64))
    source = node.source
    if isinstance(source, Source) and source.target is aten.embedding.default:
        return [(source.target, (_X, index, *source.args[2:]), source.kwargs)]
    if indices is not None and np.ndim(indices) == 1:
        return [(aten.index_select.default, (_X, axis, index), {})]
    return [(aten.index.Tensor, (_X, [*[None] * axis, index]), {})]


@writes("one_hot")
def _one_hot(node: Node, constant: Constant) -> Calls:
    return [(aten.one_hot.default, (_X, node.attrs["classes"]), {})]


@writes("count_positions")
def _count_positions(node: Node, constant: Constant) -> Calls:
    return [(aten.histc.default, (_X, node.attrs["classes"], 0, node.attrs["classes"] - 1), {})]


@writes("flip")
def _flip(node: Node, constant: Constant) -> Calls:
    return [(aten.flip.default, (_X, list(node.attrs["axes"])), {})]


@writes("roll")
def _roll(node: Node, constant: Constant) -> Calls:
    return [(aten.roll.default, (_X, list(node.attrs["shifts"]), list(node.attrs["axes"])), {})]


@writes("tile")
def _tile(node: Node, constant: Constant) -> Calls:
    return [(aten.repeat.default, (_X, list(node.attrs["repeats"])), {})]


@writes("repeat_interleave")
def _repeat_interleave(node: Node, constant: Constant) -> Calls:
    return [(aten.repeat_interleave.self_int, (_X, node.attrs["repeats"], node.attrs["axis"]), {})]


@writes("concat")
def _concat(node: Node, constant: Constant) -> Calls:
    return [(aten.cat.default, ([Slot(i) for i in range(len(node.inputs))], node.attrs["axis"]), {})]


@writes("stack")
def _stack(node: Node, constant: Constant) -> Calls:
    return [(aten.stack.default, ([Slot(i) for i in range(len(node.inputs))], node.attrs["axis"]), {})]


@writes("pad")
def _pad(node: Node, constant: Constant) -> Calls:
    x = node.inputs[0]
    assert x is not None
    amounts = {axis: (before, after) for axis, before, after in node.attrs["pads"]}
    first = min(amounts, default=x.rank)
    flat = [n for axis in range(x.rank - 1, first - 1, -1) for n in amounts.get(axis, (0, 0))]
    source = node.source
    value = None
    if isinstance(source, Source) and node.attrs["mode"] == "constant":
        schema = schema_of(source.target)
        at = schema.place["value"]
        value = source.args[at] if at < len(source.args) else source.kwargs.get("value")
    return [(aten.pad.default, (_X, flat, node.attrs["mode"], value), {})]
