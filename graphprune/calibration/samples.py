"""Calibration data: samples of a model's inputs, cut into batches, and what its values are when it runs on them.

The model is run in spans, each once for all batches: between two of them its weights may change, so that what comes
later sees it. What lies between spans is kept in memory or, where that is too much, in files.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from graphprune import frontends
from graphprune.errors import InputError
from graphprune.frontends.chance import Script
from graphprune.frontends.spans import Span
from graphprune.ir.graph import Graph, Value
from graphprune.ops.base import Array

from .running import runner
from .store import Scratch

Batch = dict[str, Array]

#: A path of an `.npz` file, arrays by name, or batches as the model takes them.
Data = str | Path | Mapping[str, Any] | Iterable[Any]

#: Where the batch is free: samples in one, and elements of the largest value (as the graph is bound) in one.
_MOST_SAMPLES, _MOST_ELEMENTS = 16, 1 << 24

_NUMBERED = "arr_"  # what numpy.savez calls arrays that were given without a name


@dataclass(frozen=True)
class Samples:
    """Calibration data of a graph: batches of arrays by input name, and how many samples they are; `note` for users."""

    batches: list[Batch]
    count: int
    note: str = ""


def read_samples(graph: Graph, data: Data, *, bound: bool = False) -> Samples:
    """Check data against the inputs of a graph and cut them into batches: of the bound size where that is fixed, or
    wherever all sizes must be as `bound` (samples are repeated then if there are too few).

    Raises InputError where an input is missing, its type, shape or number of samples do not fit, or a file is none.
    """
    if isinstance(data, str | Path):
        batches: Iterable[Batch] = [_by_name(graph, _arrays_of(data), f"'{data}'")]
    elif isinstance(data, Mapping):
        batches = [_by_name(graph, data, "the calibration data")]
    else:
        batches = _taken(graph, data)
    return _cut(graph, [_checked(graph, batch, bound) for batch in batches], bound)


def _arrays_of(path: str | Path) -> dict[str, Array]:
    try:
        file = np.load(path, allow_pickle=False)
        if isinstance(file, np.ndarray):
            raise InputError(f"'{path}' holds one array without a name; write it with numpy.savez(FILE, input=..)")
        with file:
            return {name: file[name] for name in file.files}
    except FileNotFoundError:
        raise InputError(f"there is no file '{path}'") from None
    except (OSError, ValueError, BadZipFile, EOFError) as error:
        pickled = "allow_pickle" in str(error)  # numpy says so of every file that it does not know, too
        hint = ": it is none, or holds pickled objects, which are never loaded" if pickled else f": {error}"
        raise InputError(f"'{path}' cannot be read as calibration data (.npz){hint}") from error


def _by_name(graph: Graph, given: Mapping[str, Any], where: str) -> Batch:
    names = [value.name for value in graph.inputs]
    if given and all(name.startswith(_NUMBERED) for name in given) and _NUMBERED + "0" not in names:
        given = {name: given[f"{_NUMBERED}{i}"] for i, name in enumerate(names) if f"{_NUMBERED}{i}" in given}
    missing = [name for name in names if name not in given]
    strange = [name for name in given if name not in names]
    known = f"the inputs of '{graph.name}' are {', '.join(names)}"
    if missing:
        raise InputError(f"{where} lacks the input '{missing[0]}'; it has {', '.join(given) or 'nothing'}, and {known}")
    if strange:
        raise InputError(f"{where} has '{strange[0]}', which is no input; {known}")
    return {name: _array(given[name]) for name in names}


def _array(item: Any) -> Array:
    return frontends.frontend("torch").as_array(item) if hasattr(item, "detach") else np.asarray(item)


def _taken(graph: Graph, batches: Iterable[Any]) -> Iterator[Batch]:
    """Batches as the model takes them; of those that are longer (with labels, say) the first entries."""
    for number, batch in enumerate(batches):
        if isinstance(batch, Mapping) and {v.name for v in graph.inputs} == set(batch):
            yield {name: _array(item) for name, item in batch.items()}
            continue
        try:
            named: Batch = frontends.of(graph).named_inputs(graph, batch)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            names = ", ".join(value.name for value in graph.inputs)
            raise InputError(
                f"batch {number} of the calibration data does not give the inputs {names}: {error}"
            ) from error
        yield {name: _array(item) for name, item in named.items()}


def _checked(graph: Graph, batch: Batch, fixed: bool) -> Batch:
    return {value.name: _fitting(value, batch[value.name], fixed) for value in graph.inputs}


def _fitting(value: Value, array: Array, fixed: bool) -> Array:
    name, bound, free = f"the data for '{value.name}'", value.sizes, frozenset() if fixed else value.dynamic
    if array.dtype != value.dtype:
        kinds = {_kind(array.dtype), _kind(value.dtype)}
        if len(kinds) > 1:
            raise InputError(f"{name} are {array.dtype}, but the input is {value.dtype}")
        if kinds == {"i"} and array.size and not _holds(value.dtype, array):
            raise InputError(f"{name} are {array.dtype} and do not fit into {value.dtype}")
        array = array.astype(value.dtype)
    fits = array.ndim == len(bound) and all(
        axis == 0 or axis in free or have == want
        for axis, (have, want) in enumerate(zip(array.shape, bound, strict=True))
    )
    if not fits:
        want = [f"any ({n} now)" if a in free and a else n for a, n in enumerate(bound)]
        text = ", ".join(map(str, ["samples", *want[1:]] if want else want))
        hint = " (other sizes: --input-shape)" if value.dynamic - free - {0} else ""
        raise InputError(f"{name} have the shape {list(array.shape)}; the input takes [{text}]{hint}")
    return array


def _kind(dtype: np.dtype[Any]) -> str:
    if dtype.kind in "fV":  # bfloat16 is one of numpy's voids
        return "f"
    return "i" if dtype.kind in "iu" else dtype.kind


def _holds(dtype: np.dtype[Any], array: Array) -> bool:
    limits = np.iinfo(dtype)
    return int(array.min()) >= limits.min and int(array.max()) <= limits.max


def _cut(graph: Graph, given: Sequence[Batch], bound: bool) -> Samples:
    """Batches of one size, and as many as there are complete ones. Inputs that are no samples come with each."""
    sampled = _sampled(graph)
    if not sampled:
        raise InputError(f"no input of '{graph.name}' has an axis for samples, so that calibration data mean nothing")
    for batch in given:
        counts = {v.name: len(batch[v.name]) for v in sampled}
        if len(set(counts.values())) > 1:
            raise InputError(f"the inputs have different numbers of samples: {counts}")
    first = sampled[0]
    total = sum(len(batch[first.name]) for batch in given)
    if not total:
        raise InputError("the calibration data hold no samples")
    if (
        0 in first.dynamic and graph.frontend == "onnx" and not bound
    ):  # a captured graph runs at the sizes it was captured with
        size = min(_free_size(graph, given[0], first), total)
        return Samples([part for batch in given for part in _parts(batch, sampled, size)], total)
    size = first.sizes[0]
    alike = len({tuple(batch[v.name].shape[1:] for v in sampled) for batch in given}) == 1
    if alike and any(len(batch[first.name]) % size for batch in given):
        given = [_joined(graph, given, sampled)]
    if bound and total < size:
        given = [_repeated(given[0], sampled, size)]
    parts = [part for batch in given for part in _parts(batch, sampled, size) if len(part[first.name]) == size]
    if not parts:
        raise InputError(f"the model takes batches of {size}, and the calibration data hold {total} samples")
    lost = total - size * len(parts)
    return Samples(
        parts, total - max(lost, 0), f"{lost} samples fill no batch of {size} and were left out" if lost > 0 else ""
    )


def _sampled(graph: Graph) -> list[Value]:
    """The inputs that hold samples along axis 0: those of the same size there as the first one that has axes."""
    ranked = [value for value in graph.inputs if value.rank]
    return [value for value in ranked if value.sizes[0] == ranked[0].sizes[0]]


def _joined(graph: Graph, given: Sequence[Batch], sampled: Sequence[Value]) -> Batch:
    """All batches as one."""
    return {
        v.name: np.concatenate([batch[v.name] for batch in given]) if v in sampled else given[0][v.name]
        for v in graph.inputs
    }


def _repeated(batch: Batch, sampled: Sequence[Value], size: int) -> Batch:
    """Samples again and again, for a whole batch."""
    return {**batch, **{v.name: np.resize(batch[v.name], (size, *batch[v.name].shape[1:])) for v in sampled}}


def _parts(batch: Batch, sampled: Sequence[Value], size: int) -> Iterator[Batch]:
    for start in range(0, len(batch[sampled[0].name]), size):
        cut = {value.name: batch[value.name][start : start + size] for value in sampled}
        yield {**batch, **cut}


def _free_size(graph: Graph, batch: Batch, first: Value) -> int:
    """Samples that fit into one batch, by the largest value of the graph."""
    largest = max((prod(v.sizes) for n in graph.nodes for v in n.outputs if v.shape is not None), default=1)
    grown = prod(batch[first.name].shape[1:]) / max(prod(first.sizes[1:]), 1)
    return int(np.clip(_MOST_ELEMENTS / max(largest * grown / first.sizes[0], 1), 1, _MOST_SAMPLES))


class Flow:
    """Calibration data on their way through a graph, one span after the other.

    `advance` runs the next span, with the graph's weights as they are then, on all batches; after that `values` gives
    what was asked for of that span, batch by batch. ONNX: random operators follow a script where there is one.
    """

    def __init__(
        self, graph: Graph, samples: Samples, taps: Sequence[Sequence[Value]], script: Script | None = None
    ) -> None:
        self._graph = graph
        self._spans = spans_of(graph, taps, script)
        pairs = zip(taps, self._spans, strict=True)
        self._names = {v.name: n for group, span in pairs for v, n in zip(group, span.taps, strict=True)}
        self._store = Scratch()
        self._count = len(samples.batches)
        self._at = -1
        for number, batch in enumerate(samples.batches):
            for name, array in batch.items():
                self._store[number, name] = array

    def advance(self) -> None:
        """Run the next span; what only spans before it needed is forgotten."""
        if self._at >= 0:
            self._forget(self._spans[self._at].done)
        self._at += 1
        span = self._spans[self._at]
        run = span.open()
        for number in range(self._count):
            made = run({name: self._store[number, name] for name in span.reads})
            for name, item in made.items():
                self._store[number, name] = item

    def values(self, value: Value) -> Iterator[Array]:
        """A value of the current span (or the same one of a copy of the graph), of each batch in turn."""
        for number in range(self._count):
            yield self._store[number, self._names[value.name]]

    def _forget(self, names: Iterable[str]) -> None:
        for name in names:
            for number in range(self._count):
                del self._store[number, name]


def spans_of(graph: Graph, taps: Sequence[Sequence[Value]], script: Script | None = None) -> list[Span]:
    """The graph cut so that each span makes one group of values."""
    frontend = frontends.of(graph)
    if graph.frontend != "onnx":
        return list(frontend.spans(graph, taps))
    return list(frontend.spans(graph, taps, lambda model: runner(graph, model, script)))
