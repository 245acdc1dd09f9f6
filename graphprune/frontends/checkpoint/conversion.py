"""Tensors that transformers spells or packs otherwise on disk than in the class, one at a time.

Its own tables (`conversion_mapping`) say which stored tensors make which of the class's. Here they are asked once, by
names and sizes alone; a tensor is made when it is needed, by transformers' operations on just what it is made of. Where
experts that are stored apart are stacked, some of them can be made without the others.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from copy import deepcopy
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphprune.ir.weights import RowReader, joined

from ..torch.arrays import numpy_dtype, shared, to_numpy, torch_dtype
from .shards import Stored

#: Reads a tensor by name, all of it or what the caller needs.
Fetch = Callable[[str], torch.Tensor]


@dataclass(frozen=True, eq=False)
class Step:
    """One conversion, forth or back: names of what it takes by transformers' patterns, what it makes by name, in order.

    `stacks` and `unstacks` say that it stacks lists of tensors, or takes stacks apart, along the first axis, which it
    leaves alone otherwise: some indices of that axis can be converted without the others.
    """

    model: Any
    transform: Any
    first: str
    sources: dict[str, list[str]]
    made: dict[str, torch.Tensor]
    stacks: bool
    unstacks: bool

    def run(self, fetch: Fetch, start: int = 0, stop: int | None = None) -> list[torch.Tensor]:
        """What it makes, in the order of `made`; of lists of tensors, those from a start to a stop."""
        return list(
            _convert(self.model, self.transform, self.first, _between(self.sources, start, stop), fetch).values()
        )


def _between(sources: dict[str, list[str]], start: int, stop: int | None) -> dict[str, list[str]]:
    return {pattern: names[start:stop] for pattern, names in sources.items()}


@dataclass(frozen=True, eq=False)
class Converted:
    """A tensor of the class that is made of stored ones, the `place`-th that a step makes. Like `Stored`."""

    step: Step
    stored: Mapping[str, Stored]
    place: int
    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def file(self) -> Path:
        """Where the first of its sources lies."""
        return self.stored[next(iter(self.step.sources.values()))[0]].file

    @property
    def read_rows(self) -> RowReader | None:
        """Reads some indices of the first axis without the others; None where they cannot be told apart."""
        return self._between if self.step.stacks else None

    def read(self) -> np.ndarray:
        """The elements."""
        rows = self.read_rows
        return self._between(0, None) if rows is None else joined(rows, self.shape, self.dtype)()

    def _between(self, start: int, stop: int | None) -> np.ndarray:
        return to_numpy(self.step.run(lambda name: shared(self.stored[name].read()), start, stop)[self.place])


@dataclass
class Spelling:
    """The folder's tensors by the class's names, and the transforms that made them so (none where they had them)."""

    tensors: dict[str, Stored | Converted]
    transforms: list[Any] = field(default_factory=list)


def spelling(model: Any, stored: dict[str, Stored]) -> Spelling:
    """What transformers makes of a folder's tensors for a model; as they are where its version has no such tables."""
    core = _core()
    if core is None or getattr(model.config, "quantization_config", None) is not None:
        return Spelling(dict(stored))
    transforms = importlib.import_module("transformers.conversion_mapping").get_model_conversion_mapping(model)
    state, (renamings, converters) = model.state_dict(), _kinds(core, transforms)
    found: dict[str, Stored | Converted] = {}
    groups: dict[str, _Group] = {}
    for name in sorted(stored, key=core.dot_natural_key):
        own, pattern = core.rename_source_key(name, renamings, converters, model.base_model_prefix, state)
        if own not in state and name in state:
            own, pattern = core.rename_source_key(name, [], [], model.base_model_prefix, state)
        if pattern is None or own not in state:
            found.setdefault(own if own in state else name, stored[name])
        else:
            groups.setdefault(own, _Group(own)).add(name, pattern, converters)
    for group in groups.values():
        with suppress(Exception):  # what then lacks is looked for, and told, by who reads the result
            found.update(_converted(core, model, group, stored))
    plain = not groups and all(name in stored for name in found)
    return Spelling(found, [] if plain else [t for t in transforms if t.was_used()])


def respelled(
    model: Any, sizes: Mapping[str, torch.Tensor], transforms: Iterable[Any]
) -> tuple[dict[str, str], list[tuple[Step, list[str]]]]:
    """How tensors of the class (given without elements) are stored, where `transforms` made them what they are.

    The stored name of each that is only renamed, and the conversions with the stored names of what they make.
    """
    core = _core()
    renamings, converters = _kinds(core, [t.reverse_transform() for t in reversed(list(transforms))])
    names: dict[str, str] = {}
    groups: dict[str, _Group] = {}
    for name in sorted(sizes, key=core.dot_natural_key):
        made, pattern = core.apply_converters(name, converters)
        if pattern is None:
            names[name] = core.apply_renamings(name, renamings)
        else:
            groups.setdefault(made, _Group(made)).add(name, pattern, converters)
    steps = [group.step(core, model, sizes.__getitem__) for group in groups.values()]
    return names, [(step, [core.apply_renamings(name, renamings) for name in step.made]) for step in steps]


def _core() -> Any:
    try:
        core = importlib.import_module("transformers.core_model_loading")
        return core if hasattr(core, "rename_source_key") else None
    except ImportError:
        return None


def _kinds(core: Any, transforms: Iterable[Any]) -> tuple[list[Any], list[Any]]:
    """Renamings and converters, which transformers applies one after the other."""
    every = list(transforms)
    kinds = (core.WeightRenaming, core.WeightConverter)
    renamings, converters = ([t for t in every if isinstance(t, kind)] for kind in kinds)
    return renamings, converters


class _Group:
    """The tensors that one conversion takes, as they are found."""

    def __init__(self, first: str) -> None:
        self.first = first
        self.transform: Any = None
        self.sources: dict[str, list[str]] = {}

    def add(self, name: str, pattern: str, converters: list[Any]) -> None:
        if self.transform is None:
            # where two converters have a pattern in common, transformers takes the last
            self.transform = next(c for c in reversed(converters) if pattern in c.source_patterns)
        self.sources.setdefault(pattern, []).append(name)

    def step(self, core: Any, model: Any, fetch: Fetch) -> Step:
        """The conversion, tried on sizes alone."""
        made = _convert(model, self.transform, self.first, self.sources, fetch)
        lists = {len(names) for names in self.sources.values()}
        sizes = {fetch(name).shape[:1] for names in self.sources.values() for name in names}
        ways = _stacks(core, self.transform, lists, made), _unstacks(core, self.transform, sizes, made)
        return Step(model, self.transform, self.first, self.sources, made, *ways)


def _converted(core: Any, model: Any, group: _Group, stored: dict[str, Stored]) -> dict[str, Stored | Converted]:
    def sizes(name: str) -> torch.Tensor:
        return torch.empty(stored[name].shape, dtype=torch_dtype(stored[name].dtype), device="meta")

    step = group.step(core, model, sizes)
    return {
        name: Converted(step, stored, place, numpy_dtype(made.dtype), tuple(made.shape))
        for place, (name, made) in enumerate(step.made.items())
    }


def _convert(model: Any, transform: Any, first: str, sources: dict[str, list[str]], fetch: Fetch) -> dict[str, Any]:
    worker = deepcopy(transform)
    for pattern, names in sources.items():
        for name in names:
            worker.add_tensor(first, name, pattern, fetch(name))
    made = worker.convert(first, model=model, config=model.config)
    return {name: tensor[0] if isinstance(tensor, list) else tensor for name, tensor in made.items()}


def _stacks(core: Any, transform: Any, lists: set[int], made: dict[str, torch.Tensor]) -> bool:
    """Whether lists of as many tensors are stacked along the first axis, which stays as it is."""
    first, *rest = transform.operations
    same = {tuple(tensor.shape[:1]) for tensor in made.values()} == {(count,) for count in lists} and len(lists) == 1
    return type(first) is core.MergeModulelist and first.dim == 0 and same and _beside_first(core, rest)


def _unstacks(core: Any, transform: Any, sizes: set[Any], made: dict[str, torch.Tensor]) -> bool:
    """Whether stacks along the first axis are taken apart, which stayed as it was until then."""
    *rest, last = transform.operations
    even = len(sizes) == 1 and len(made) % prod(next(iter(sizes))) == 0
    return type(last) is core.SplitModulelist and last.dim == 0 and even and _beside_first(core, rest)


def _beside_first(core: Any, operations: list[Any]) -> bool:
    """Whether operations only move elements along other axes than the first."""
    known = (core.Concatenate, core.Chunk, core.Transpose, core.Interleave)
    if any(type(op) not in known or getattr(op, "check_dims", False) for op in operations):
        return False
    return all(axis > 0 for op in operations for key, axis in vars(op).items() if key.startswith("dim"))
