"""Representative sizes for dynamic input axes: two bindings, so that what follows the input can be told apart."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from onnx import ModelProto, ValueInfoProto

from graphprune.errors import InputError

from ..protos import attributes, dims
from .roles import BATCH, OTHER, Free, expression, role_of, rounds

Shape = tuple[int, ...]

#: Names that exporters write for any unknown size: two axes of such a name have nothing to do with each other.
_PLACEHOLDERS = frozenset({"none", "dynamic", "unknown", "unk", "any", "nan", "null", "dyn"})


@dataclass(frozen=True)
class Bound:
    """An input's shape under both bindings; None where not even the rank is known. In the second, -1 is a size that may
    be any.
    """

    shape: Shape | None
    other: Shape | None


#: Sizes by input name, or in the order of the inputs.
InputShapes = Mapping[str, Sequence[int]] | Sequence[Sequence[int]]
#: Sizes of free axes, by their key.
Sizes = Mapping[str, int]


class Binding:
    """The inputs of a model, which of their axes are free, and sizes for these: given, or to be tried."""

    def __init__(self, model: ModelProto, input_shapes: InputShapes | None, shapes: Sequence[Shape] = ()) -> None:
        """`shapes` are those of the weights, in bodies as well."""
        weights = {w.name for w in model.graph.initializer}
        self.model, self._weights = model, shapes
        self.inputs = [i for i in model.graph.input if i.name not in weights]
        self.given = _by_name(self.inputs, input_shapes or {})
        self._known: dict[str, int] = {}
        for name in self.given:
            if name not in {i.name for i in self.inputs}:
                known = ", ".join(f"'{i.name}'" for i in self.inputs)
                raise InputError(
                    f"a shape was given for '{name}', which is no input of the model (its inputs are {known})"
                )
        for info in self.inputs:
            if info.name in self.given:
                _check(info, self.given[info.name])
                self._learn(info, self.given[info.name])

    def _learn(self, info: ValueInfoProto, shape: Shape) -> None:
        for axis, (dim, size) in enumerate(zip(dims(info) or [], shape, strict=False)):
            if isinstance(dim, int):
                continue
            known = self._known.setdefault(_key(info.name, axis, dim), size)
            if known != size:
                raise InputError(f"the size '{dim}' of the model's inputs is given as {known} and as {size}")

    @cached_property
    def free(self) -> dict[str, Free]:
        """The axes whose sizes the caller chooses, by key; those of one symbol together."""
        found: dict[str, Free] = {}
        for info in self.inputs:
            for axis, dim in enumerate(dims(info) or []):
                key = _key(info.name, axis, dim)
                told = axis == 1 and info.name in self._channels and info.name not in self.given
                if not isinstance(dim, int) and not told:
                    role = role_of(dim if key == dim else None, axis, dims(info) or [])
                    found.setdefault(key, Free(key, dim or "", role, [])).axes.append((info.name, axis))
        names = dict.fromkeys((free.name for free in found.values()), 1)
        return {k: f for k, f in found.items() if k in self._known or expression(f.name, names) is None}

    @cached_property
    def open(self) -> dict[str, Free]:
        """Those whose size nobody gave."""
        return {key: free for key, free in self.free.items() if key not in self._known}

    def first(self) -> dict[str, int]:
        """The sizes to begin with."""
        return next(self.rounds())

    def rounds(self) -> Iterator[dict[str, int]]:
        """Sizes to try, in turn, for what nobody gave; as many samples as somebody gave elsewhere."""
        batch = next((n for key, n in self._known.items() if key in self.free and self.free[key].role == BATCH), None)
        for found in rounds(list(self.open.values()), self.model, self._weights):
            same = {key: batch for key in found if batch is not None and self.free[key].role == BATCH}
            yield {**self._known, **found, **same}

    def around(self) -> Iterator[dict[str, int]]:
        """As `rounds`, but given sizes change as well, except how many samples there are: for a branch that runs at
        sizes of its own.
        """
        batch = {key: n for key, n in self._known.items() if key in self.free and self.free[key].role == BATCH}
        others = [free for key, free in self.free.items() if free.role != BATCH]
        now = {key: self._known[key] for key in self.free if key in self._known and key not in batch}
        if now:
            for num, den in ((1, 2), (2, 1), (1, 3), (3, 1), (1, 4), (4, 1)):
                yield {**self.first(), **{key: max(1, size * num // den) for key, size in now.items()}}
        for found in rounds(others, self.model, self._weights):
            yield {**self.first(), **{k: n for k, n in found.items() if self.free[k].role != BATCH}, **batch}

    def bounds(self, sizes: Sizes, others: Sizes) -> dict[str, Bound]:
        """Every input under sizes and, for the second binding, under `others`; what has none there may be any size."""
        second = {key: others.get(key, -1) for key in sizes}
        return {i.name: Bound(self._shape(i, sizes), self._shape(i, second)) for i in self.inputs}

    def assumed(self, sizes: Sizes) -> dict[str, dict[str, int]]:
        """The sizes that nobody gave, by input and axis."""
        found: dict[str, dict[str, int]] = {}
        for key, free in self.open.items():
            for name, axis in free.axes:
                found.setdefault(name, {})[f"{axis} ({free.name})" if free.name else f"{axis}"] = sizes[key]
        return found

    def shapes(self, sizes: Sizes) -> dict[str, Shape]:
        """Every input's shape."""
        return {i.name: shape for i in self.inputs if (shape := self._shape(i, sizes)) is not None}

    def _shape(self, info: ValueInfoProto, sizes: Sizes) -> Shape | None:
        declared = dims(info)
        if declared is None:
            return self.given.get(info.name)
        return tuple(self._size(info, axis, dim, sizes) for axis, dim in enumerate(declared))

    def _size(self, info: ValueInfoProto, axis: int, dim: int | str | None, sizes: Sizes) -> int:
        key = _key(info.name, axis, dim)
        if isinstance(dim, int) or key in sizes:
            return dim if isinstance(dim, int) else sizes[key]
        channels = self._channels.get(info.name)
        if axis == 1 and channels is not None:
            return channels
        named = {free.name: sizes[key] for key, free in self.free.items() if key in sizes}
        if not isinstance(dim, str) or -1 in named.values():
            return -1 if -1 in sizes.values() else 1
        return expression(dim, named) or 1

    @cached_property
    def _channels(self) -> dict[str, int]:
        """The channel counts that convolutions prescribe for what they read."""
        shapes = {w.name: w.dims for w in self.model.graph.initializer}
        found = {}
        for node in self.model.graph.node:
            if node.op_type == "Conv" and len(node.input) > 1 and len(shapes.get(node.input[1], ())) > 1:
                found[node.input[0]] = int(shapes[node.input[1]][1]) * int(attributes(node).get("group", 1))
        return found

    def moved(self, key: str, size: int) -> list[int]:
        """Second sizes for an axis of this size, the likeliest to run first."""
        role = self.free[key].role
        if role == BATCH:
            return [size + 1, 2 * size]
        if role == OTHER:
            return [2 * size, size + 8]
        return [size + 32, 2 * size]


def told(assumed: Mapping[str, Mapping[str, int]], shapes: Mapping[str, Shape]) -> dict[str, dict[str, int]]:
    """Assumed sizes, with those of some input shapes in their place."""
    return {
        name: {axis: shapes[name][int(axis.split()[0])] if name in shapes else size for axis, size in axes.items()}
        for name, axes in assumed.items()
    }


def _key(name: str, axis: int, dim: int | str | None) -> str:
    """What axes of one size have in common: their symbol, where it is a name and no placeholder."""
    if isinstance(dim, str) and re.search(r"[^\W\d]", dim) and dim.strip().lower() not in _PLACEHOLDERS:
        return dim
    return f"{name}[{axis}]"


def _by_name(inputs: Sequence[ValueInfoProto], given: InputShapes) -> dict[str, Shape]:
    if isinstance(given, Mapping):
        return {name: tuple(int(n) for n in shape) for name, shape in given.items()}
    if len(given) > len(inputs):
        raise InputError(f"{len(given)} input shapes were given, but the model has {len(inputs)} inputs")
    return {info.name: tuple(int(n) for n in shape) for info, shape in zip(inputs, given, strict=False)}


def _check(info: ValueInfoProto, shape: Shape) -> None:
    declared = dims(info)
    fits = declared is None or len(declared) == len(shape)
    fits = fits and all(not isinstance(d, int) or d == n for d, n in zip(declared or [], shape, strict=False))
    if not fits or any(n < 1 for n in shape):
        raise InputError(f"the input '{info.name}' has the shape {declared}, to which {list(shape)} does not fit")
