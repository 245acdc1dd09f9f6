"""Capturing a named part of a model that torch cannot export as a whole, and putting the pruned part in its place."""

from __future__ import annotations

import copy
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphprune.errors import InputError
from graphprune.ir.graph import Graph

from ..origin import origin_of
from ..write.graph_module import lookup
from .refusals import first_line, line_of

if TYPE_CHECKING:
    from ..module.emission import Emitted

Call = tuple[tuple[Any, ...], dict[str, Any]]


class _Reached(Exception):  # noqa: N818  (no error: the part has been called)
    """Ends a run of the whole model."""


@dataclass(frozen=True)
class Whole:
    """A model of which a part was captured: the part's `path`, and arguments that the model runs on."""

    module: nn.Module
    path: str
    inputs: Call = field(repr=False)

    @property
    def part(self) -> nn.Module:
        """The captured part as it was."""
        return self.module.get_submodule(self.path)

    @property
    def note(self) -> str:
        """What the report says of it."""
        return (
            f"only '{self.path}' of {type(self.module).__name__} was captured, on what it gets when the model runs on "
            "the example; sizes and counts are of that part"
        )


def call_of_part(whole: Whole) -> Call:
    """What the part is first called with when the model runs on its example.

    Raises:
        InputError: there is no such part, it is not called, or the model does not run.
    """
    part, found = _part(whole), []

    def reach(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.append(pytree.tree_map_only(torch.Tensor, lambda t: t.detach().clone(), (args, kwargs)))
        raise _Reached

    handle = part.register_forward_pre_hook(reach, with_kwargs=True, prepend=True)
    name = type(whole.module).__name__
    try:
        with torch.enable_grad():  # a model may compute gradients in its forward
            whole.module(*whole.inputs[0], **whole.inputs[1])
    except _Reached:
        call: Call = found[0]
        return call
    except Exception as error:
        raise InputError(f"{name} cannot be run on the example: {first_line(error)}{line_of(error)}") from error
    finally:
        handle.remove()
    raise InputError(f"'{whole.path}' is not called when {name} runs on the example: name another sub-module")


def _part(whole: Whole) -> nn.Module:
    names = [path for path, _ in whole.module.named_modules() if path]
    if whole.path in names:
        return whole.part
    near = get_close_matches(whole.path, names, 1)
    hint = f"did you mean '{near[0]}'?" if near else f"it has {', '.join(n for n in names if '.' not in n) or 'none'}"
    raise InputError(f"{type(whole.module).__name__} has no sub-module '{whole.path}': {hint}")


def shared_outside(graph: Graph) -> tuple[str, ...]:
    """The weights of a captured part that the rest of its model reads as well: they must stay as they are."""
    whole = origin_of(graph).whole
    if whole is None:
        return ()
    inside = {id(module) for module in whole.part.modules()}
    rest = [m for m in whole.module.modules() if id(m) not in inside]
    outside = {id(t) for m in rest for t in (*m._parameters.values(), *m._buffers.values())}
    return tuple(name for name in graph.weights() if id(lookup(whole.part, name)) in outside)


def placed(graph: Graph, emitted: Emitted) -> Emitted:
    """With a copy of the whole model that has the module in the place of the captured part, where it was a part.

    Raises:
        InputError: the model, which ran before, does not run with it.
    """
    whole, part = origin_of(graph).whole, emitted.module
    if whole is None:
        return emitted
    memo = {id(whole.part): part, **{id(lookup(whole.part, n)): lookup(part, n) for n in shared_outside(graph)}}
    model = copy.deepcopy(whole.module, memo)
    error = _failure(model, whole.inputs)
    if error is not None and _failure(whole.module, whole.inputs) is None:
        why = f"{first_line(error)}{line_of(error)}"
        raise InputError(f"{type(model).__name__} does not run with the pruned '{whole.path}': {why}") from error
    return replace(emitted, whole=model)


def _failure(module: nn.Module, inputs: Call) -> Exception | None:
    """What a copy of a module raises on these inputs."""
    try:
        with torch.enable_grad():
            copy.deepcopy(module).eval()(*inputs[0], **inputs[1])
    except Exception as error:
        return error
    return None
