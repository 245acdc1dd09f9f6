"""Describing a fused operator as steps of canonical kinds (see `graphprune.ops.fused`)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

import numpy as np

from graphprune.ir.graph import Value
from graphprune.ops.fused import In, Out, Ref, Step

from .registry import Coding, Lowered, UnlowerableError, View

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Operand:
    """Something a step reads or makes, with its sizes."""

    ref: Ref
    shape: Shape

    @property
    def rank(self) -> int:
        """Number of axes."""
        return len(self.shape)


class Sketch:
    """Collects steps. Each method adds one and returns what it makes; `to` names the foreign output that this is, if
    that output is asked for.
    """

    def __init__(self, view: View) -> None:
        self.view = view
        self._slots: list[int] = []
        self._steps: list[Step] = []
        self._encoded: dict[int, Coding] = {}

    def input(self, slot: int, coding: Coding | None = None) -> Operand | None:
        """A foreign input; None if it is not given. `coding` says how it lies in several slots."""
        if not self.view.has(slot):
            return None
        if slot not in self._slots:
            self._slots.append(slot)
        if coding is not None:
            self._encoded[slot] = coding
        return Operand(In(self._slots.index(slot)), coding.shape if coding is not None else self.view.shape(slot))

    def given(self, slot: int, coding: Coding | None = None) -> Operand:
        """A foreign input that must be there."""
        found = self.input(slot, coding)
        if found is None:
            raise UnlowerableError
        return found

    def step(
        self, kind: str, inputs: Sequence[Operand | None], sizes: Shape, name: str = "", to: int = -1, **attrs: Any
    ) -> Operand:
        """A step with one result."""
        made = to >= 0 and self.view.wants(to)
        if min(sizes, default=1) < 1 or (made and tuple(sizes) != self.view.out_shape(to)):
            raise UnlowerableError
        ref: Ref = Out(to) if made else Value(name, tuple(sizes), np.dtype(np.float32))
        refs = tuple(None if i is None else i.ref for i in inputs)
        self._steps.append(Step(kind, refs, ref, attrs))
        return Operand(ref, tuple(sizes))

    def lowered(self, outputs: int = 1) -> Lowered:
        """The whole: every other input is kept as an operand that says how."""
        slots = [*self._slots, *(s for s in self.view.slots if s not in self._slots and not self._stored(s))]
        return Lowered("fused", tuple(slots), {"steps": tuple(self._steps)}, outputs, self._encoded)

    def _stored(self, slot: int) -> bool:
        """Whether it is a parameter of the operator (a scale, a zero point) or part of an encoded operand."""
        return self.view.constant(slot) or any(slot in c.slots for c in self._encoded.values())

    def add(self, operands: Sequence[Operand | None], name: str = "", to: int = -1) -> Operand:
        """A sum under broadcasting (of one operand: itself)."""
        given = [o for o in operands if o is not None]
        shape = np.broadcast_shapes(*(o.shape for o in given))
        return self.step("elementwise", given, shape, name, to, fn="add")

    def same(self, x: Operand, to: int) -> Operand:
        """The operand as an output."""
        return self.step("elementwise", [x], x.shape, "", to, fn="identity")

    def reshape(self, x: Operand, shape: Shape, name: str = "", to: int = -1) -> Operand:
        """Other sizes."""
        return self.step("reshape", [x], shape, name, to, shape=tuple(shape))

    def transpose(self, x: Operand, perm: Sequence[int], name: str = "", to: int = -1) -> Operand:
        """Axes in another order."""
        return self.step("transpose", [x], tuple(x.shape[a] for a in perm), name, to, perm=tuple(perm))

    def concat(self, parts: Sequence[Operand], axis: int, name: str = "", to: int = -1) -> Operand:
        """Joined along an axis."""
        others = {tuple(n for a, n in enumerate(p.shape) if a != axis) for p in parts}
        if len(others) > 1:
            raise UnlowerableError
        size = sum(p.shape[axis] for p in parts)
        shape = tuple(size if a == axis else n for a, n in enumerate(parts[0].shape))
        return self.step("concat", parts, shape, name, to, axis=axis)

    def split(self, x: Operand, sizes: Sequence[int], axis: int = -1) -> list[Operand]:
        """Pieces along an axis."""
        axis %= x.rank
        if sum(sizes) != x.shape[axis]:
            raise UnlowerableError
        shapes = [tuple(size if a == axis else n for a, n in enumerate(x.shape)) for size in sizes]
        values = [Value(f"piece{i}", shape, np.dtype(np.float32)) for i, shape in enumerate(shapes)]
        self._steps.append(Step("split", (x.ref,), tuple(values), {"axis": axis, "sizes": list(sizes)}))
        return [Operand(value, shape) for value, shape in zip(values, shapes, strict=True)]

    def top(self, x: Operand, count: int, axis: int) -> tuple[Operand, Operand]:
        """The largest along an axis, and where they are."""
        shape = tuple(count if a == axis else n for a, n in enumerate(x.shape))
        values = Value("top", shape, np.dtype(np.float32)), Value("places", shape, np.dtype(np.int64))
        self._steps.append(Step("topk", (x.ref,), values, {"axis": axis}))
        return Operand(values[0], shape), Operand(values[1], shape)

    def unbind(self, x: Operand, axis: int) -> list[Operand]:
        """One piece for each index of an axis, which disappears."""
        shape = tuple(n for a, n in enumerate(x.shape) if a != axis)
        return [self.step("select", [x], shape, f"part{i}", axis=axis, index=i) for i in range(x.shape[axis])]

    def heads(self, x: Operand, count: int, name: str) -> Operand:
        """`[batch, length, heads * width]` as `[batch, heads, length, width]`; four axes are so already."""
        if x.rank == 4:
            return x
        if x.rank != 3 or count < 1 or x.shape[2] % count:
            raise UnlowerableError
        apart = self.reshape(x, (*x.shape[:2], count, x.shape[2] // count))
        return self.transpose(apart, (0, 2, 1, 3), name)

    def merged(self, x: Operand, to: int = -1) -> Operand:
        """The inverse."""
        back = self.transpose(x, (0, 2, 1, 3))
        return self.reshape(back, (*back.shape[:2], back.shape[2] * back.shape[3]), "", to)

    def attend(
        self, query: Operand, key: Operand, value: Operand, mask: Operand | None = None, *, to: int = -1
    ) -> Operand:
        """Scaled dot-product attention over `[batch, heads, length, width]`."""
        if query.shape[1] % key.shape[1] or query.shape[3] != key.shape[3] or key.shape[1:3] != value.shape[1:3]:
            raise UnlowerableError
        scale = self.view.attr("scale") or 1 / sqrt(query.shape[-1])
        attrs: Mapping[str, Any] = {"scale": float(scale), "grouped": query.shape[1] != key.shape[1]}
        key = self.step("elementwise", [key], key.shape, "keys", fn="identity")
        shape = (*query.shape[:3], value.shape[3])
        found = self.step("attention", [query, key, value, mask], shape, "attended", **attrs)
        return found if to < 0 else self.same(found, to)

    def cached(self, new: Operand, past: Operand | None, to: int) -> Operand:
        """Keys or values after those of earlier runs, handed out as a cache. A shared buffer has the size it had."""
        whole = new if past is None else self.concat([past, new], 2)
        if self.view.wants(to):
            steps = self.view.out_shape(to)[2]
            if steps == whole.shape[2]:
                return self.same(whole, to)
            if steps > whole.shape[2]:
                raise UnlowerableError
            self.step("slice", [whole], (*whole.shape[:2], steps, whole.shape[3]), "", to, slices=[(2, 0, steps, 1)])
        return whole
