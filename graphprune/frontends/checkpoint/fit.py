"""Finding the configuration whose model is the rewritten graph.

No field is known by name. Integers in the configuration that equal a size which changed are candidates; which of them
must follow, and how, is found by building models (without weights) and comparing the sizes of all parameters; and
what was found counts only if that model, captured, is the rewritten graph, operator by operator.
"""

from __future__ import annotations

import copy
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from graphprune.errors import InputError
from graphprune.ir.graph import Graph

from ..torch.capture.tracing import capture
from ..torch.module.size_settings import size_changes
from ..torch.run.execute import example_inputs
from ..torch.run.modes import quiet
from .compare import mismatch, same_constants, same_numbers
from .layers import Layers, numbered
from .origin import CheckpointOrigin, checkpoint_of
from .renumber import kept_ids, renumber, token_ids
from .skeleton import floating_dtype, skeleton

#: A place in a configuration: keys of nested dictionaries and indices of lists.
Path = tuple[Any, ...]
Shapes = dict[str, tuple[int, ...]]

#: Most candidates that are tried one by one.
_MOST_TRIES = 64

#: Counted as so many wrong sizes where a configuration gives no model at all.
_NO_MODEL = 1 << 30


@dataclass(frozen=True)
class Fitted:
    """The new configuration, what changed in it, and where layers went (old name of a tensor to its new one).

    `scales` says where its model multiplies by other numbers than the graph does; empty where it does not.
    """

    config: Any
    changes: Mapping[Path, tuple[Any, Any]]
    names: Mapping[str, str]
    scales: str = ""

    def describe(self) -> str:
        """The changes in words."""
        told = [f"{'.'.join(map(str, path))}: {old} -> {new}" for path, (old, new) in self.changes.items()]
        return ", ".join(told[:6]) + (f" and {len(told) - 6} more" if len(told) > 6 else "")


def fit(graph: Graph, *, scales: bool = False) -> Fitted:
    """The configuration of a rewritten graph; with `scales` also one whose model multiplies by other numbers.

    Raises InputError saying what no configuration can say.
    """
    origin = checkpoint_of(graph)
    layers = numbered(origin, graph)
    search = _Search(origin, graph, layers, scales)
    config = search.run()
    changes = {p: (v, _get(config.to_dict(), p)) for p, v in integers(origin.config.to_dict(), lists=False)}
    changes = {p: (old, new) for p, (old, new) in changes.items() if old != new and p not in search.special}
    return Fitted(config, changes, layers.names, search.scaled)


class _Search:
    def __init__(self, origin: CheckpointOrigin, graph: Graph, layers: Layers, scales: bool) -> None:
        self.origin = origin
        self.graph = graph
        self.layers = layers
        self.data = layers.shorten(origin.config.to_dict())
        self.special = token_ids(self.data)
        self.wanted = _wanted(origin, graph, layers)
        self.became = _became(graph, layers)
        self.refusal = self.scaled = ""
        self._scales = scales

    def run(self) -> Any:
        """Sizes first, from every candidate changed or from none; then what the model of such a configuration is."""
        every = self._mended({path: self._first(value) for path, value in self._sizes() if self._options(value)})
        chosen = every if not self._count_wrong(every) else self._mended({})
        wrong = self._wrong_shape(chosen)
        if wrong:
            raise InputError(wrong + (f" ({self.refusal})" if self.refusal else ""))
        if chosen is not every:
            chosen = self._with_silent(chosen)
        chosen, problem = self._matched(chosen)
        if problem and self._scales and not self._mismatch(chosen, scales=True)[1]:
            self.scaled = problem
            return self._config(chosen)
        if problem:
            raise InputError(f"a configuration would give another model: {problem}{self._advice(chosen)}")
        return self._config(self._needed(chosen))

    def _advice(self, chosen: dict[Path, int]) -> str:
        """What to leave alone: the change without which the first operator that differs has the constants it should."""
        at, _ = self._mismatch(chosen)
        for path, new in chosen.items():
            rest = {p: v for p, v in chosen.items() if p != path}
            old = _get(self.data, path)
            place = self._place(old, new)
            if place and 0 <= at < len(self.graph.nodes) and self._same_constants(at, rest):
                return f"; where {'.'.join(map(str, path))} stays {old} there is one: --exclude '{place}'"
        return ""

    def _place(self, old: int, new: int) -> str:
        """The first axis of a weight that had one size and has the other."""
        assert self.origin.module is not None
        for name, tensor in self.origin.module.state_dict().items():
            sizes = zip(tensor.shape, self.wanted.get(name, ()), strict=False)
            axis = next((i for i, sizes in enumerate(sizes) if sizes == (old, new)), None)
            if axis is not None:
                return f"{name}[{axis}]"
        return ""

    def _same_constants(self, at: int, chosen: Mapping[Path, int]) -> bool:
        """Whether the model of a configuration has at one operator the constants of the rewritten graph."""
        try:
            captured = self._capture(chosen)
        except InputError:
            return False
        return len(captured.nodes) == len(self.graph.nodes) and same_constants(self.graph.nodes[at], captured.nodes[at])

    def _capture(self, chosen: Mapping[Path, int]) -> Graph:
        model = skeleton(self._config(chosen), type(self.origin.module), self._dtype())
        return capture(model, example_inputs(self.graph))

    def _with_silent(self, chosen: dict[Path, int]) -> dict[Path, int]:
        """With the candidates that no parameter's size tells of (a number of heads, say) changed as well."""
        for path, value in self._sizes():
            if path not in chosen and self._options(value):
                trial = chosen | {path: self._first(value)}
                chosen = chosen if self._count_wrong(trial) else trial
        return chosen

    def _matched(self, chosen: dict[Path, int]) -> tuple[dict[Path, int], str]:
        """Take changes back while that moves the first difference further down the model; what is left of it."""
        reached, problem = self._mismatch(chosen)
        untried = list(chosen)
        while problem and untried:
            path = untried.pop(0)
            rest = {p: v for p, v in chosen.items() if p != path}
            further, found = (reached, problem) if self._count_wrong(rest) else self._mismatch(rest)
            if further > reached:
                chosen, reached, problem, untried = rest, further, found, list(rest)
        return chosen, problem

    def _sizes(self) -> Iterator[tuple[Path, Any]]:
        """Integers that may be sizes: ids of special tokens are none."""
        return ((p, v) for p, v in integers(self.data) if not any(p[: len(own)] == own for own in self.special))

    def _options(self, value: int) -> list[int]:
        return sorted(self.became.get(value, set()) - {value}) if value > 1 else []

    def _first(self, value: int) -> int:
        return self._options(value)[0]

    def _mended(self, chosen: dict[Path, int]) -> dict[Path, int]:
        """Turn single candidates to another value while that brings more parameters to their sizes."""
        best = self._count_wrong(chosen)
        for path, value in list(self._sizes()) * 2:
            if not best:
                break
            for option in [value, *self._options(value)][:_MOST_TRIES]:
                if not self._options(value) or option == chosen.get(path, value):
                    continue
                trial = {p: v for p, v in chosen.items() if p != path}
                if option != value:
                    trial[path] = option
                count = self._count_wrong(trial)
                if count < best:
                    best, chosen = count, trial
        return chosen

    def _needed(self, chosen: dict[Path, int]) -> dict[Path, int]:
        """Without the changes that make no difference: a window that only happens to be as large as a layer."""
        for path in list(chosen):
            rest = {p: v for p, v in chosen.items() if p != path}
            if not self._count_wrong(rest) and not self._mismatch(rest)[1]:
                chosen = rest
        return chosen

    def _config(self, chosen: Mapping[Path, int]) -> Any:
        data = copy.deepcopy(self.data)
        for path, value in chosen.items():
            change(data, path, value)
        kept = kept_ids(self.graph)
        if kept is not None:
            renumber(data, kept)
        try:
            with quiet():
                config = type(self.origin.config).from_dict(data)
                _keep_attention(config, self.origin.config)
                return config
        except Exception as error:
            raise InputError(f"transformers refuses such a configuration: {' '.join(str(error).split())}") from error

    def _shapes(self, chosen: Mapping[Path, int]) -> Shapes | None:
        try:
            model = skeleton(self._config(chosen), type(self.origin.module), self._dtype())
        except InputError as error:
            self.refusal = self.refusal or str(error)
            return None
        return {name: tuple(t.shape) for name, t in model.state_dict().items()}

    def _dtype(self) -> torch.dtype:
        assert self.origin.module is not None
        return floating_dtype(self.origin.module)

    def _count_wrong(self, chosen: Mapping[Path, int]) -> int:
        """How many axes of parameters have another size than they should."""
        found = self._shapes(chosen)
        if found is None:
            return _NO_MODEL
        wrong = sum(_apart(found.get(name), shape) for name, shape in self.wanted.items())
        return wrong + sum(1 + len(found[name]) for name in found.keys() - self.wanted)

    def _wrong_shape(self, chosen: Mapping[Path, int]) -> str:
        """What is wrong with the parameters' sizes under these changes."""
        found = self._shapes(chosen)
        if found is None:
            return "no configuration has these sizes"
        for name, shape in self.wanted.items():
            if found.get(name) != shape:
                have = list(found[name]) if name in found else "no such weight"
                one = f"where one configuration for all layers gives {have}; --uniform keeps the same count in each"
                return f"'{name}' has the shape {list(shape)} {one}"
        extra = sorted(found.keys() - self.wanted)
        return f"a configuration brings '{extra[0]}' with it, which is not there" if extra else ""

    def _mismatch(self, chosen: Mapping[Path, int], *, scales: bool = False) -> tuple[int, str]:
        """Where the model of a configuration, captured, is another graph than the rewritten one and computes something
        else: see `mismatch`.
        """
        try:
            model = skeleton(self._config(chosen), type(self.origin.module), self._dtype())
            captured = capture(model, example_inputs(self.graph))
        except InputError as error:
            return -1, str(error)
        at, problem = mismatch(self.graph, captured, self.layers.names, scales=scales)
        same = problem and same_numbers(self.graph, captured, self.layers.names, model.state_dict().keys())
        return (len(self.graph.nodes) + 1, "") if same else (at, problem)


def _keep_attention(config: Any, own: Any) -> None:
    """Compute attention as the model did: the choice is part of a configuration, but not of its data."""
    how = getattr(own, "_attn_implementation", None)
    if how is not None:
        config._attn_implementation = how


def _apart(found: tuple[int, ...] | None, shape: tuple[int, ...]) -> int:
    """On how many axes two shapes differ."""
    if found is None or len(found) != len(shape):
        return 1 + len(shape)
    return sum(a != b for a, b in zip(found, shape, strict=True))


def _wanted(origin: CheckpointOrigin, graph: Graph, layers: Layers) -> Shapes:
    """The sizes that every tensor in the state of the model should have, by its new name."""
    assert origin.module is not None
    weights = graph.weights()
    first = origin.tensors.aliases
    found: Shapes = {}
    for name, tensor in origin.module.state_dict().items():
        if name not in layers.removed:
            value = weights.get(first.get(name, name))
            shape = tuple(tensor.shape) if value is None or value.shape is None else value.shape
            found[layers.names.get(name, name)] = shape
    return found


def _became(graph: Graph, layers: Layers) -> dict[int, set[int]]:
    """What each size turned into anywhere in the model."""
    found: dict[int, set[int]] = defaultdict(set)
    for change in size_changes(graph).values():
        for before, after in change.became.items():
            found[before] |= after
    for before, after in layers.counts.items():
        found[before] |= after
    return found


def integers(data: Any, path: Path = (), *, lists: bool = True) -> Iterator[tuple[Path, Any]]:
    """Every integer in nested data with its path; lists of numbers as one item where `lists` is False."""
    if isinstance(data, dict):
        for key, item in data.items():
            yield from integers(item, (*path, key), lists=lists)
    elif isinstance(data, (list, tuple)):
        if lists:
            for at, item in enumerate(data):
                yield from integers(item, (*path, at))
        else:
            yield path, data
    elif isinstance(data, int) and not isinstance(data, bool):
        yield path, data


def _get(data: Any, path: Path) -> Any:
    for key in path:
        data = data[key]
    return data


def change(data: Any, path: Path, value: int) -> None:
    """Put another number into a configuration's data; raises InputError where it is in a tuple."""
    *front, last = path
    for key in front:
        data = data[key]
    if isinstance(data, tuple):
        raise InputError("a configuration holds a tuple, which cannot be changed")
    data[last] = value
