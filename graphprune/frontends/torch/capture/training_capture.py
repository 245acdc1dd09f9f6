"""What a class does beside the captured graph: as it runs in training, and calls whose result nobody uses."""

from __future__ import annotations

from collections.abc import Container
from itertools import chain

import torch
from torch import nn

from graphprune.errors import InputError
from graphprune.ir.graph import Graph

from ..origin import Origin, origin_of
from ..run.execute import flatten_outputs
from ..run.modes import mode_of, quiet
from .tracing import export, lower_program, twice


def capture_training(graph: Graph) -> Graph | None:
    """What the caller's class does beside the graph: the same module in train mode, where that reads parameters or
    buffers that inference leaves aside or gives other results, and calls whose result nobody uses.

    Auxiliary heads are such, running means kept by hand, and poolers: for the class to run and to train, they must be
    coupled and sliced with the rest. Both graphs share the `Value`s of the weights that both read. None where there is
    nothing more, or nothing that can be exported.
    """
    origin = origin_of(graph)
    training = _in_training(graph) if origin.module is not None else None
    if not origin.idle:
        return training
    idle = Graph(graph.name, origin.idle, [], [], graph.frontend, origin)
    if training is not None:
        training.nodes = [*idle.nodes, *training.nodes]
    return training or idle


def _in_training(graph: Graph) -> Graph | None:
    origin = origin_of(graph)
    assert origin.module is not None
    known = {**graph.weights(), **{v.name: v for node in origin.idle for v in node.reads() if v.weight is not None}}
    unread = _unread(origin, known.keys())
    if not unread and _gives_the_same(graph):
        return None
    for args, kwargs in ((origin.args, origin.kwargs), twice((origin.args, origin.kwargs))):
        try:
            program = export(origin.module, args, kwargs, training=True)
            training = lower_program(program, origin.module, args, kwargs, graph.name, training=True)
        except InputError:  # batch norm cannot train on a batch of one
            continue
        if unread and unread.isdisjoint(training.weights()) and _gives_the_same(graph):
            return None
        for node in training.nodes:
            node.inputs = [v if v is None or v.weight is None else known.get(v.name, v) for v in node.inputs]
        return training
    return None


def _unread(origin: Origin, known: Container[str]) -> set[str]:
    """Parameters and buffers of floating-point numbers that inference does not read."""
    assert origin.module is not None
    names = {name for name, _ in chain(origin.module.named_parameters(), origin.module.named_buffers())}
    wanted = {n: t for n, t in origin.tensors.tensors.items() if n in names and n not in known}
    return {n for n, t in wanted.items() if isinstance(t, nn.Parameter) or (t.is_floating_point() and t.numel() > 1)}


def _gives_the_same(graph: Graph) -> bool:
    """Whether training gives as many results as inference, of the same sizes; also where it cannot be run."""
    origin = origin_of(graph)
    assert origin.module is not None
    expected = [v.shape for v in graph.outputs]
    for given in ((origin.args, origin.kwargs), twice((origin.args, origin.kwargs))):
        try:
            with mode_of(origin.module, training=True), quiet(), torch.no_grad():
                results = flatten_outputs(origin.module(*given[0], **given[1]))
        except Exception:
            continue
        found = [tuple(r.shape) for r in results]
        return len(found) == len(expected) and (given[0] is not origin.args or found == expected)
    return True
