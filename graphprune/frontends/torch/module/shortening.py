"""The caller's own class with modules taken out of it: what is left where a pass removed all that they compute.

Nothing here knows which layers a model has. A module goes when the graph has lost every tensor of it; how is tried in
several ways, and the one is taken that computes what the graph computes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn
from torch.utils import _pytree as pytree

from graphprune.ir.graph import Graph

from ..lower.arguments import owner_of
from ..origin import Origin, Source, origin_of
from ..run.modes import mode_of
from .depth_settings import follow, renumber

Way = Literal["drop", "identity", "zeros"]

#: Takes modules out of a copy of the caller's module, in place; says what it did.
Shortening = Callable[[nn.Module], str]


class Zeros(nn.Module):
    """Stands for a module whose result no longer counts: zeros like its first tensor, laid out as its results were.

    `layout` holds a `Like` in the place of each such tensor; there is None where the module gave anything else.
    """

    def __init__(self, layout: Any) -> None:
        super().__init__()
        self._layout = layout

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Zeros."""
        first = _first_tensor(args, kwargs)
        return pytree.tree_map(lambda like: like.zeros(first) if isinstance(like, Like) else None, self._layout)


@dataclass(frozen=True)
class Like:
    """The sizes of a result: those given, and where there is None that of the module's first tensor."""

    sizes: tuple[int | None, ...]

    @classmethod
    def of(cls, result: Any, first: Any) -> Like | None:
        """How a result is sized, where both are floating-point tensors of one rank."""
        if not all(isinstance(t, torch.Tensor) and t.is_floating_point() for t in (result, first)):
            return None
        if result.ndim != first.ndim:
            return None
        return cls(tuple(None if a == b else int(a) for a, b in zip(result.shape, first.shape, strict=True)))

    def zeros(self, first: torch.Tensor) -> torch.Tensor:
        """Zeros for this first tensor."""
        return first.new_zeros([b if a is None else a for a, b in zip(self.sizes, first.shape, strict=True)])


def _first_tensor(args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
    return next((a for a in (*args, *kwargs.values()) if isinstance(a, torch.Tensor)), None)


def shortenings(graph: Graph, left: Iterable[str]) -> list[Shortening]:
    """The ways to take out what read the tensors in `left`.

    Out of a list of layers first (numbers and settings that count them follow), then with an identity in the place of
    each, then of the modules without tensors beside them, too (activations), then with zeros.
    """
    origin = origin_of(graph)
    module = origin.module
    assert module is not None
    gone = _gone(module, set(origin.read), set(left))
    if not gone:
        return []
    found: list[Shortening] = []
    layouts = _layouts(origin, gone)
    if any(_listed(module, path) for path in gone):
        found += [_Taker(gone, layouts, "drop", "identity", settled) for settled in (True, False)]
    found.append(_Taker(gone, layouts, "identity", "identity"))
    silent = _silent(graph, gone)
    if silent:
        found.append(_Taker([*gone, *silent], layouts, "identity", "identity"))
    if layouts.keys() >= set(gone):
        found += [_Taker(gone, layouts, "drop", "zeros", settled=True), _Taker(gone, layouts, "zeros", "zeros")]
    return found


def _silent(graph: Graph, gone: list[str]) -> list[str]:
    """Modules without tensors beside those that go, of whose operators nothing is left in the graph either."""
    origin = origin_of(graph)
    assert origin.module is not None
    before = {owner_of(node) for node in origin.exported.graph.nodes if node.op == "call_function"}
    now = {node.source.owner for node in graph.nodes if isinstance(node.source, Source)}
    found: dict[str, None] = {}
    for parent in {path.rpartition(".")[0] for path in gone}:
        for name, child in origin.module.get_submodule(parent).named_children():
            path = f"{parent}.{name}".lstrip(".")
            if path in before - now and next(child.parameters(), None) is None and next(child.buffers(), None) is None:
                found[path] = None
    return list(found)


def _layouts(origin: Origin, paths: list[str]) -> dict[str, Any]:
    """What the modules at these paths give on the example: see `Zeros`; those that do not run are left out."""
    module, found = origin.module, {}
    assert module is not None

    def note(path: str) -> Callable[..., None]:
        def hook(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], result: Any) -> None:
            first = _first_tensor(args, kwargs)
            found[path] = pytree.tree_map(lambda leaf: Like.of(leaf, first), result)

        return hook

    hooks = [module.get_submodule(p).register_forward_hook(note(p), with_kwargs=True) for p in paths]
    try:
        with mode_of(module, training=False), torch.no_grad():
            module(*origin.args, **origin.kwargs)
    except Exception:
        return {}
    finally:
        for handle in hooks:
            handle.remove()
    return found


@dataclass(frozen=True)
class _Taker:
    gone: list[str]
    layouts: dict[str, Any]
    first: Way
    otherwise: Way
    settled: bool = False

    def __call__(self, module: nn.Module) -> str:
        """Take the modules out; what was done, in words."""
        drop = [p for p in self.gone if self.first == "drop" and _listed(module, p)]
        notes = list(_dropped(module, drop, settled=self.settled))
        way = self.otherwise if self.first == "drop" else self.first
        rest = [p for p in self.gone if p not in drop]
        for path in sorted(rest, reverse=True):
            parent, _, name = path.rpartition(".")
            stand_in = nn.Identity() if way == "identity" else Zeros(self.layouts[path])
            setattr(module.get_submodule(parent), name, stand_in)
        if rest:
            notes.append(f"{_several(rest)} replaced by {'an identity' if way == 'identity' else 'zeros'}")
        return "; ".join(notes)


def _gone(module: nn.Module, read: set[str], left: set[str]) -> list[str]:
    """The outermost modules all of whose tensors are gone; of a list that is gone as a whole, its children."""
    staying = {path for name in read - left for path in _above(name)}
    found: dict[str, None] = {}
    for name in sorted(left):
        paths = [path for path in _above(name) if path not in staying]
        if not paths:
            return []
        path = paths[0]
        while isinstance(module.get_submodule(path), nn.Sequential | nn.ModuleList | nn.ModuleDict) and len(paths) > 1:
            path, paths = paths[1], paths[1:]
        found[path] = None
    return list(found)


def _above(name: str) -> list[str]:
    """The paths of the modules that a tensor lies in, outermost first, the whole model left out."""
    parts = name.split(".")
    return [".".join(parts[:n]) for n in range(1, len(parts))]


def _listed(module: nn.Module, path: str) -> bool:
    """Whether a module is one of many in a list of layers; of a sequence only where all are of one class."""
    parent = module.get_submodule(path.rpartition(".")[0])
    if isinstance(parent, nn.Sequential):
        return len({type(child) for child in parent}) == 1
    return isinstance(parent, nn.ModuleList | nn.ModuleDict)


def _dropped(module: nn.Module, paths: list[str], *, settled: bool) -> Iterator[str]:
    """Take children out of their lists."""
    lists: dict[str, list[str]] = {}
    for path in paths:
        parent, _, name = path.rpartition(".")
        lists.setdefault(parent, []).append(name)
    for parent, names in lists.items():
        holder = module.get_submodule(parent)
        order = list(holder._modules)
        places = sorted(order.index(name) for name in names)
        numbered = order == [str(i) for i in range(len(order))]
        notes = follow(module, parent, len(order), places) if settled else []
        if settled:
            renumber([child for child in holder._modules.values() if child is not None], places)
        _delete(holder, [order[place] for place in places])
        moved = numbered and places[-1] < len(order) - len(places)
        yield f"without {_several([f'{parent}.{order[place]}' for place in places])}"
        if moved:
            yield f"later names under {parent} moved up"
        yield from notes


def _delete(holder: nn.Module, names: list[str]) -> None:
    """Children that are numbered stay numbered without gaps."""
    numbered = list(holder._modules) == [str(i) for i in range(len(holder._modules))]
    for name in names:
        del holder._modules[name]
    if numbered:
        children = list(holder._modules.values())
        holder._modules.clear()
        holder._modules.update({str(i): child for i, child in enumerate(children)})


def _several(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} and {len(names) - 1} more"
