"""A step of training with the caller's own class beside the original, before it is called good."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphprune.ir.graph import Graph

from ..capture.tracing import twice
from ..origin import Slot, origin_of
from ..run.execute import example_inputs, flatten_outputs
from ..run.modes import mode_of, split_inputs
from ..run.preserving import preserved
from .causes import why_it_stops

#: Modules with more bytes of parameters are not run in training: it takes twice as much, and more.
_LARGEST = 4 << 30


def training_problem(graph: Graph, module: nn.Module) -> str:
    """What is wrong with a rebuilt class in training mode, in words; empty where the original cannot be trained either.

    Both run forward and backward on the example; the results must have the same sizes. Nothing is left of either run.
    """
    origin = origin_of(graph)
    assert origin.module is not None
    if sum(p.numel() * p.element_size() for p in origin.module.parameters()) > _LARGEST:
        return ""
    before, now = (origin.args, origin.kwargs), split_inputs(example_inputs(graph))
    for original, given in ((before, now), (twice(before), twice(now))):
        expected, error = _step(origin.module, original)
        if expected is None:  # batch norm cannot train on a batch of one
            continue
        found, problem = _step(module, given)
        if problem is not None and error is None:
            return f"its train() forward and backward fail: {why_it_stops(problem, module)}"
        if found is not None and not _alike(found, expected, _following(graph)):
            return f"its train() forward gives results of sizes {found} where the original's are {expected}"
        return ""
    return ""


def _following(graph: Graph) -> list[frozenset[int]]:
    """For each tensor of the result: the axes along which it may have become smaller (a cache that goes with heads)."""
    leaves = pytree.tree_leaves(origin_of(graph).result)
    return [graph.outputs[leaf.index].follows for leaf in leaves if isinstance(leaf, Slot)]


def _alike(found: list[list[int]], expected: list[list[int]], following: list[frozenset[int]]) -> bool:
    """Whether results have the sizes of the original's, but along axes that follow."""
    if [len(sizes) for sizes in found] != [len(sizes) for sizes in expected]:
        return False
    free = following if len(following) == len(found) else [frozenset[int]()] * len(found)
    pairs = ((zip(f, e, strict=True), own) for f, e, own in zip(found, expected, free, strict=True))
    return all(a == b or axis in own for sizes, own in pairs for axis, (a, b) in enumerate(sizes))


def _step(module: nn.Module, given: tuple[Any, Any]) -> tuple[list[list[int]] | None, Exception | None]:
    """The sizes of the results in training (None where `forward` fails), and what was raised."""
    args, kwargs = given
    sizes = None
    with mode_of(module, training=True), preserved(module, parameters=True):
        torch.manual_seed(0)
        try:
            with torch.enable_grad():
                results = flatten_outputs(module(*args, **kwargs))
                sizes = [list(r.shape) for r in results]
                _backward(module, results)
        except Exception as error:
            return sizes, error
    return sizes, None


def _backward(module: nn.Module, results: list[torch.Tensor]) -> None:
    """Gradients of a sum of all results, which go nowhere."""
    losses = [r.float().sum() for r in results if r.is_floating_point() and r.requires_grad]
    wanted = [p for p in module.parameters() if p.requires_grad]
    if losses and wanted:
        torch.autograd.grad(torch.stack(losses).sum(), wanted, allow_unused=True)
