"""Running a module without a trace: what `forward` sets on it, and what an exporter leaves there, is taken back."""

from __future__ import annotations

import functools
import random
import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch
from torch import fx, nn

#: Containers within containers are followed this far, and so are objects that are neither modules nor tensors.
_DEPTH = 4

#: Tensors of fewer elements are compared with what they were: writing through `.data` does not count as a write.
_SMALL = 1 << 20

#: Objects from there are nothing that a `forward` changes.
_OTHERS = frozenset({"torch", "numpy", "graphprune", *sys.stdlib_module_names})

#: What `functools.lru_cache` makes.
_CACHED = type(functools.lru_cache(len))

#: Puts something back as it was.
_Undo = Callable[[], None]


@contextmanager
def preserved(module: nn.Module, *, parameters: bool = False) -> Iterator[None]:
    """Restore a module when this ends: every attribute of every submodule, what containers hold, the values of buffers
    and the states of random number generators.

    `torch.export` runs `forward` on fake tensors. Where that sets attributes or fills caches, a fake tensor would be
    left in them, and the caller's next run would fail. Graph modules set nothing, and are left alone. With `parameters`
    those keep their values, too, which a few modules overwrite in training.
    """
    if isinstance(module, fx.GraphModule):
        yield
        return
    undo = _Snapshot().of(module, parameters=parameters)
    try:
        with _same_chance():
            yield
    finally:
        for step in undo:
            step()
        _forget_results(module)


@contextmanager
def _same_chance() -> Iterator[None]:
    """Restore the states of the random number generators of Python, numpy and torch."""
    python, arrays = random.getstate(), np.random.get_state()
    started = torch.cuda.is_initialized()  # type: ignore[no-untyped-call]
    devices = range(torch.cuda.device_count()) if started else ()
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        random.setstate(python)
        np.random.set_state(arrays)


class _Snapshot:
    """Collects how to put back each object once, parents before children."""

    def __init__(self) -> None:
        self._undo: list[_Undo] = []
        self._seen: set[int] = set()

    def of(self, module: nn.Module, *, parameters: bool) -> list[_Undo]:
        for child in module.modules():
            self._attributes(child, 0)
        for kind in {type(child) for child in module.modules()}:
            if not kind.__module__.startswith("torch."):
                self._items(list(vars(kind).values()), 0)
        for tensor in {*module.buffers(), *_plain_tensors(module), *(module.parameters() if parameters else ())}:
            self._tensor(tensor)
        return self._undo

    def _attributes(self, thing: Any, depth: int) -> None:
        own = vars(thing)
        before = dict(own)

        def back() -> None:
            if len(own) != len(before) or any(own.get(key, own) is not value for key, value in before.items()):
                own.clear()
                own.update(before)

        self._undo.append(back)
        self._items(list(before.values()), depth)

    def _items(self, items: list[Any], depth: int) -> None:
        for item in items:
            if id(item) in self._seen or isinstance(item, (nn.Module, torch.Tensor, type)):
                continue
            if isinstance(item, (dict, list, set, deque)):
                self._seen.add(id(item))
                self._container(item, depth)
            elif depth < _DEPTH and _is_plain_object(item):
                self._seen.add(id(item))
                self._attributes(item, depth + 1)

    def _container(self, item: Any, depth: int) -> None:
        before = list(item.items()) if isinstance(item, dict) else list(item)

        def back() -> None:
            now = list(item.items()) if isinstance(item, dict) else list(item)
            if len(now) == len(before) and all(map(_same, now, before)):
                return
            item.clear()
            (item.extend if isinstance(item, (list, deque)) else item.update)(before)

        self._undo.append(back)
        if depth < _DEPTH:
            self._items([v for _, v in before] if isinstance(item, dict) else before, depth + 1)

    def _tensor(self, tensor: torch.Tensor) -> None:
        if tensor.is_meta or tensor.layout is not torch.strided:
            return
        version, before = tensor._version, tensor.detach().clone()

        def back() -> None:
            if tensor.shape != before.shape:  # an observer's buffers take their size from what they see
                tensor.resize_(before.shape)
            if tensor._version != version or (tensor.numel() < _SMALL and not _equal(tensor, before)):
                with torch.no_grad():
                    tensor.copy_(before)

        self._undo.append(back)


def _same(a: Any, b: Any) -> bool:
    """The same object, or pairs of the same."""
    return a is b or (isinstance(a, tuple) and isinstance(b, tuple) and len(a) == len(b) and all(map(_is, a, b)))


def _is(a: Any, b: Any) -> bool:
    return a is b


def _equal(a: torch.Tensor, b: torch.Tensor) -> bool:
    with torch.no_grad():
        return bool(torch.equal(a, b)) or bool(((a == b) | (a.isnan() & b.isnan())).all())


def _plain_tensors(module: nn.Module) -> list[torch.Tensor]:
    """Tensors that are attributes, neither parameters nor buffers."""
    return [t for child in module.modules() for t in vars(child).values() if isinstance(t, torch.Tensor)]


def _is_plain_object(item: Any) -> bool:
    """Whether something is an object of the caller's: of a class in Python outside torch and the standard library."""
    home = type(item).__module__.partition(".")[0]
    return hasattr(item, "__dict__") and not callable(item) and home not in _OTHERS


def _forget_results(module: nn.Module) -> None:
    """Empty the caches of functions (`functools.lru_cache`) where the module's classes are written: what an exporter
    made them remember is of no use outside it.
    """
    homes = {type(child).__module__ for child in module.modules()}
    for home in (name for name in homes if not name.startswith("torch.")):
        for thing in list(vars(sys.modules.get(home, torch)).values()) if home in sys.modules else ():
            if isinstance(thing, _CACHED):  # asked by type: placeholders of missing packages raise when asked for more
                with suppress(Exception):
                    thing.cache_clear()
