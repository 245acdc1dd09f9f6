"""Why a class of the caller's does not do, in words: the line of its code that stops, or where sizes part."""

from __future__ import annotations

import linecache
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import nn

from graphprune.ir.graph import Graph, Node

from ..capture.refusals import first_line
from ..capture.tracing import export, lower_program
from ..origin import origin_of
from ..run.execute import example_inputs
from ..run.modes import mode_of, split_inputs

#: Longer lines of code are cut.
_WIDTH = 80


@dataclass(frozen=True)
class Cause:
    """Why a class does not do, in words, and the nodes of the graph whose sizes its code holds (by name)."""

    text: str
    nodes: tuple[str, ...] = ()


def why_not(graph: Graph, module: nn.Module, problem: str) -> Cause:
    """Why a rebuilt class does not do; `problem` is what its trial said, the last resort."""
    args, kwargs = split_inputs(example_inputs(graph))
    try:
        with mode_of(module, training=False), torch.no_grad():
            module(*args, **kwargs)
    except Exception as error:
        return Cause(why_it_stops(error, module), _stopped_at(graph, error, module))
    found = where_sizes_part(graph, module)
    return found or Cause(f"it runs, but with other values than the rewritten graph ({problem})")


def modules_on_the_way(error: BaseException) -> list[nn.Module]:
    """The modules whose methods were running when an error was raised, innermost first."""
    found: dict[nn.Module, None] = {}
    for frame, _ in reversed(list(_frames(error))):
        owner = _owner(frame)
        if owner is not None:
            found.setdefault(owner)
    return list(found)


def _frames(error: BaseException) -> Iterator[tuple[FrameType, int]]:
    trace = error.__traceback__
    while trace is not None:
        yield trace.tb_frame, trace.tb_lineno
        trace = trace.tb_next


def _owner(frame: FrameType) -> nn.Module | None:
    """The module whose method a frame runs: its first argument."""
    code = frame.f_code
    first = frame.f_locals.get(code.co_varnames[0]) if code.co_argcount else None
    return first if isinstance(first, nn.Module) else None


def why_it_stops(error: BaseException, module: nn.Module) -> str:
    """The class and line that raise, and what they say."""
    place = _place(error, module)
    if place is None:
        return _said(error)
    path, file, number = place
    return f"{_named(module.get_submodule(path), path)} stops at {_line(file, number)}: {_said(error)}"


def _place(error: BaseException, module: nn.Module) -> tuple[str, str, int] | None:
    """The innermost submodule (by path) that raised, with file and line; one of the caller's own classes, if any is."""
    paths = {child: path for path, child in module.named_modules()}
    places = [(f, n) for f, n in reversed(list(_frames(error))) if _owner(f) in paths]
    own = [(f, n) for f, n in places if not _is_of_torch(f.f_code.co_filename)]
    for frame, number in own or places:
        owner = _owner(frame)
        assert owner is not None
        return paths[owner], frame.f_code.co_filename, number
    return None


def _stopped_at(graph: Graph, error: BaseException, module: nn.Module) -> tuple[str, ...]:
    """The nodes of the line that raised whose sizes changed; where there are none, those of its module."""
    place = _place(error, module)
    if place is None:
        return ()
    origin = origin_of(graph)
    before = {node.name: node.meta for node in origin.exported.graph.nodes if "val" in node.meta}
    mine = [n for n in graph.nodes if n.source.owner == place[0] and n.name in before and _resized(n, before[n.name])]
    at_line = [n for n in mine if _innermost(before[n.name].get("stack_trace", "")) == place[1:]]
    found = at_line or mine
    written = [n for n in found if n.kind in _HOLD]
    return tuple(n.name for n in written or found)


def _resized(node: Node, meta: dict[str, Any]) -> bool:
    """Whether an operator's (first) result has other sizes than when it was captured."""
    was = meta["val"][0] if isinstance(meta["val"], (tuple, list)) else meta["val"]
    return isinstance(was, torch.Tensor) and bool(node.outputs) and tuple(was.shape) != node.outputs[0].shape


def _named(module: nn.Module, path: str) -> str:
    return f"{type(module).__name__}{f' ({path})' if path else ''}"


def _is_of_torch(file: str) -> bool:
    return Path(file).is_relative_to(Path(torch.__file__).parent)


def _line(file: str, number: int) -> str:
    code = linecache.getline(file, number).strip()
    code = code if len(code) <= _WIDTH else f"{code[:_WIDTH]}..."
    place = f"line {number} of {Path(file).name}"
    return f"`{code}` ({place})" if code else place


def _said(error: BaseException) -> str:
    if isinstance(error, AssertionError) and not str(error):
        return "a check of its own fails with the new sizes"
    return first_line(error)


def where_sizes_part(graph: Graph, module: nn.Module) -> Cause | None:
    """Where a class that runs first makes other sizes than the graph: the line of code; None where none is found.

    The class is captured again. Its operators are those of the graph, one by one, up to where they part.
    """
    origin = origin_of(graph)
    args, kwargs = split_inputs(example_inputs(graph))
    try:
        own = lower_program(export(module, args, kwargs), module, args, kwargs, graph.name)
    except Exception:
        return None
    said = {node.name: node.meta.get("stack_trace", "") for node in origin.exported.graph.nodes}
    for mine, wanted in zip(own.nodes, graph.nodes, strict=False):
        if mine.op != wanted.op:
            return None
        pairs = zip(mine.outputs, wanted.outputs, strict=False)
        sizes = next(((a.shape, b.shape) for a, b in pairs if a.shape != b.shape), None)
        sizes = sizes or next(((mine.attrs[k], wanted.attrs[k]) for k in _WRITTEN if _differ(mine, wanted, k)), None)
        if sizes is not None:
            place = _innermost(said.get(wanted.name, ""))
            owner = _named(module.get_submodule(wanted.source.owner), wanted.source.owner)
            found, needed = map(_list, sizes)
            where = wanted.op if place is None else _line(*place)
            text = f"{owner} writes sizes into its code: {where} gives {found}, {needed} is needed"
            alike = [name for name, stack in said.items() if place is not None and _innermost(stack) == place]
            splits = [n.name for n in graph.nodes if n.name in alike and n.kind == wanted.kind]
            return Cause(text, tuple(splits or [wanted.name]))
    return None


#: Kinds of operators whose sizes stand in a call.
_HOLD = frozenset({"reshape", "expand", "split", "slice", "tile", "fill", "noise"})

#: Attributes of nodes that a class may hold as numbers in its code.
_WRITTEN = ("shape", "sizes", "slices", "groups")


def _differ(mine: Node, wanted: Node, key: str) -> bool:
    return key in mine.attrs and key in wanted.attrs and _list(mine.attrs[key]) != _list(wanted.attrs[key])


def _list(sizes: Any) -> str:
    return str(list(sizes)) if isinstance(sizes, (list, tuple)) else str(sizes)


def _innermost(stack: str) -> tuple[str, int] | None:
    """The innermost file and line of a stack as text that an exporter noted, outside torch."""
    found = re.findall(r'File "([^"]+)", line (\d+)', stack)
    return next(((file, int(at)) for file, at in reversed(found) if not _is_of_torch(file)), None)
