"""From a module to the neutral graph: export without gradients' detours, unlift, lower."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import torch
from torch import fx, nn
from torch._ops import OpOverload
from torch.export import Dim, ExportedProgram, default_decompositions
from torch.utils import _pytree as pytree

from graphprune.errors import GraphPruneError, InputError
from graphprune.ir.graph import Graph

from ...caches import mark_caches
from ..lower.aliasing import StaleViewError
from ..lower.binding import bind
from ..lower.registry import lowering_of
from ..lower.walk import lower
from ..origin import Origin, Slot, Tensors, origin_of
from ..run.modes import mode_of, quiet, split_inputs
from .data_access import detached_data
from .decompose import decompose
from .dynamic import mark_batch
from .exporting import by_example, run_export
from .objects import handed_back, make_known
from .refusals import first_line, packed, shadowed, why_not
from .submodules import Whole, call_of_part
from .unwrapping import translated, unwrapped

#: Where the functions come from that `torch.vmap` leaves in a captured program.
_VMAP = "torch._functorch.predispatch"

_DECIDED = (
    "the model branches on the values of its inputs; this is what it computes where they decide as the example does"
)


def capture(module: nn.Module, example_inputs: Any, submodule: str = "") -> Graph:
    """Capture a module in eval mode, or only a part of it, on what that gets when the module runs.

    Args:
        module: any module that `torch.export` takes (non-strict); it is left as it was.
        example_inputs: a tensor, a tuple or list of positional arguments, or a dict of keyword arguments. Their sizes
            are those that the graph is bound to.
        submodule: the path of a part.

    Raises:
        InputError: the module cannot be run or exported with these inputs.
    """
    if not isinstance(module, nn.Module):
        raise InputError(f"cannot capture a {type(module).__name__}: it is no torch.nn.Module")
    args, kwargs = split_inputs(example_inputs)
    module, notes = unwrapped(module)
    whole = Whole(module, submodule, (args, kwargs)) if submodule else None
    if whole is not None:
        with mode_of(module, training=False):
            args, kwargs = call_of_part(whole)
        module, notes = whole.part, (*notes, whole.note)
    problem = shadowed(module) or packed(module)
    if problem:
        raise InputError(problem)
    if isinstance(module, torch.jit.ScriptModule):
        graph = _capture_script(module, args, kwargs)
    else:
        program = export(module, args, kwargs)
        graph = lower_program(program, module, args, kwargs, type(module).__name__)
    graph.notes = (*notes, *graph.notes)
    origin_of(graph).whole = whole
    return graph


def _capture_script(module: torch.jit.ScriptModule, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Graph:
    """TorchScript has no class of Python to give back."""
    with mode_of(module, training=False), quiet():
        translation = translated(module, args, kwargs)
    program = export(translation, args, kwargs)  # all sizes are those of the example
    graph = lower_program(program, None, args, kwargs, getattr(module, "original_name", "script"))
    origin_of(graph).classless = "TorchScript holds no Python class"
    return graph


def lower_program(
    program: ExportedProgram,
    module: nn.Module | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    name: str,
    *,
    training: bool = False,
) -> Graph:
    """The neutral graph of an exported program; in-place writes through views are undone by torch where we cannot.

    Raises:
        InputError: something in it cannot be read.
    """
    try:
        graph = _lower_program(program, module, args, kwargs, partial(lower, name=name, training=training))
    except (GraphPruneError, MemoryError):
        raise
    except Exception as error:
        raise InputError(f"{name} cannot be captured: {type(error).__name__}: {first_line(error)}") from error
    origin_of(graph).read = frozenset(graph.weights())
    if not any(v.dynamic for v in graph.values()):
        mark_batch(graph)
    mark_caches(graph)
    _mark_handed_back(graph)
    graph.notes = (_DECIDED,) if by_example(program) else ()
    return graph


def _given(origin: Origin) -> frozenset[str]:
    """The names of the arguments that a module was captured with."""
    if origin.module is None:
        return frozenset()
    return frozenset(inspect.signature(origin.module.forward).bind(*origin.args, **origin.kwargs).arguments)


def _mark_handed_back(graph: Graph) -> None:
    """Set `Value.follows` on the outputs that the caller only hands back."""
    origin = origin_of(graph)
    info = getattr(origin.exported.graph._codegen, "pytree_info", None)
    if info is None or info.out_spec is None:
        return
    leaves = pytree.tree_leaves(origin.result, is_leaf=lambda leaf: leaf is None or isinstance(leaf, Slot))
    inside = handed_back(origin.module, info.out_spec, _given(origin))
    if len(leaves) != len(inside):
        return
    places = [(leaf.index, own) for leaf, own in zip(leaves, inside, strict=True) if isinstance(leaf, Slot)]
    kept = {graph.outputs[at] for at, own in places if not own} | set(graph.inputs)
    for at, own in places:
        value = graph.outputs[at]
        if own and value not in kept and value.weight is None and value.shape is not None:
            value.follows = frozenset(range(value.rank))


def _lower_program(
    program: ExportedProgram,
    module: nn.Module | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    walk: Callable[[Origin], Graph],
) -> Graph:
    if any(getattr(n.target, "__module__", "") == _VMAP for n in program.graph.nodes if n.op == "call_function"):
        return _lower_functional(program, module, args, kwargs, walk)
    try:
        return walk(_origin(program, module, args, kwargs))
    except StaleViewError:
        return _lower_functional(program, module, args, kwargs, walk)


def _lower_functional(
    program: ExportedProgram,
    module: nn.Module | None,
    args: tuple[Any, ...],
    kwargs: dict[str, Any],
    walk: Callable[[Origin], Graph],
) -> Graph:
    """The graph of a program without in-place operators and `torch.vmap`; where composites still hide some, without
    those that have no rule.
    """
    with quiet():
        functional = program.run_decompositions({})
    try:
        return walk(_origin(functional, module, args, kwargs))
    except StaleViewError:
        table = default_decompositions()
        for target in [t for t in table if isinstance(t, OpOverload) and lowering_of(t._opname) is not None]:
            del table[target]
        with quiet():
            functional = program.run_decompositions(table)
        return walk(_origin(functional, module, args, kwargs))


def batch_of(inputs: Any) -> int:
    """The size of axis 0 of the first tensor that has one; 0 if none has."""
    sizes = (t.shape[0] for t in pytree.tree_leaves(inputs) if isinstance(t, torch.Tensor) and t.ndim)
    return next(sizes, 0)


def twice(inputs: Any) -> Any:
    """Inputs with the batch doubled: axis 0 of every tensor where it has the batch's size."""
    size = batch_of(inputs)

    def double(leaf: Any) -> Any:
        batched = isinstance(leaf, torch.Tensor) and leaf.ndim and leaf.shape[0] == size
        return torch.cat([leaf, leaf]) if batched else leaf

    return pytree.tree_map(double, inputs)


def batch_shapes(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
    """For `torch.export`: axis 0 of every tensor that `twice` doubles is dynamic, by argument of `forward`."""
    size, batch = batch_of((args, kwargs)), Dim("batch")

    def shape(leaf: Any) -> Any:
        batched = isinstance(leaf, torch.Tensor) and leaf.ndim and leaf.shape[0] == size
        return {0: batch} if batched else None

    args, kwargs = pytree.tree_map(shape, (args, kwargs))
    return dict(inspect.signature(module.forward).bind(*args, **kwargs).arguments)


def _origin(
    program: ExportedProgram, module: nn.Module | None, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> Origin:
    try:
        with quiet():
            exported = program.module(check_guards=False)
    except Exception as error:  # a child called `graph` or `meta`, say
        name = type(module).__name__
        raise InputError(f"torch.export cannot make a graph module of {name}: {first_line(error)}") from error
    assert isinstance(exported, fx.GraphModule)
    decompose(exported)
    bind(exported, pytree.tree_leaves((args, kwargs)))
    tensors = Tensors.of(exported if module is None else module)
    return Origin(module, exported, args, kwargs, tensors)


def export(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], *, training: bool = False, shapes: Any = None
) -> ExportedProgram:
    """Run `torch.export` in eval (or train) mode, as `run_export` does.

    `shapes` says which sizes are dynamic. Objects in the result are made known to torch where they are not yet.
    """
    try:
        return _export(module, args, kwargs, training, shapes)
    except InputError:
        if not _make_known(module, args, kwargs, training):
            raise
        return _export(module, args, kwargs, training, shapes)


def _make_known(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], training: bool) -> bool:
    """Make the classes of a module's inputs and result known to torch's trees; whether there were new ones."""
    try:
        with mode_of(module, training=training), quiet(), torch.no_grad():
            return make_known((args, kwargs, module(*args, **kwargs)))
    except Exception:
        return False


def _export(
    module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], training: bool, shapes: Any
) -> ExportedProgram:
    with mode_of(module, training=training), quiet(), detached_data(module) if training else nullcontext():
        try:
            return run_export(module, args, kwargs, shapes)
        except Exception as error:
            raise InputError(why_not(module, args, kwargs, error)) from error
