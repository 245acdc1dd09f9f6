"""Finding the constants that a model stores as integers: behind a DequantizeLinear, or in the slots of an operator."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from onnx import NodeProto

from graphprune.ir.graph import Value, Weight

from ..protos import attributes
from ..quantized import Encoded, Layout, Part, Single, affine, quantizing, scale_layout
from .registry import Coding

_MOVES = frozenset({"Reshape", "Transpose", "Slice", "Squeeze", "Unsqueeze", "Identity", "Concat", "Split"})
_CODERS = frozenset({"DequantizeLinear", "QuantizeLinear"})


class Store:
    """Makes one value for each stored constant, however many nodes read it."""

    def __init__(self, values: Mapping[str, Value], protos: Sequence[NodeProto]) -> None:
        self._values = values
        self._readers = Counter(name for proto in protos for name in proto.input)
        self._uses: dict[str, list[NodeProto]] = {}
        for proto in protos:
            for name in proto.input:
                self._uses.setdefault(name, []).append(proto)
        self._made: dict[tuple[object, ...], Value] = {}
        self._names: set[str] = set()

    def decoded(self, proto: NodeProto, dtype: np.dtype[np.generic]) -> Value | None:
        """The output of a node that only decodes (or encodes) a constant."""
        if proto.op_type not in _CODERS or proto.domain not in ("", "ai.onnx", "com.microsoft"):
            return None
        key = (proto.op_type, *proto.input, *(a.SerializeToString() for a in proto.attribute))
        if key not in self._made:
            weight = self._decoder(proto, dtype)
            if weight is None:
                return None
            self._made[key] = _constant(proto.output[0], weight)
        return self._made[key]

    def _decoder(self, proto: NodeProto, dtype: np.dtype[np.generic]) -> Encoded | None:
        weights = [self._weight(name) for name in proto.input]
        if any(w is None and n for w, n in zip(weights, proto.input, strict=True)) or dtype.hasobject:
            return None
        data, scale, zero = (*weights, None)[:3]
        if data is None or scale is None or (zero is not None and zero.size != scale.size):
            return None
        attrs = attributes(proto)
        layout = scale_layout(scale.shape, data.shape, int(attrs.get("axis", 1)), int(attrs.get("block_size", 0)))
        if layout is None:
            return None
        layouts = (Layout(), layout, layout)
        parts = [_part(n, w, y, i) for i, (n, w, y) in enumerate(zip(proto.input, weights, layouts, strict=False))]
        decode = affine if proto.op_type == "DequantizeLinear" else quantizing(dtype)
        return Encoded(data.shape, dtype, parts, decode, proto)

    def table(self, proto: NodeProto) -> Value | None:
        """A table of 8-bit integers whose rows are looked up first and decoded later."""
        weight = self._weight(proto.input[0]) if proto.op_type == "Gather" else None
        if weight is None or weight.dtype.itemsize != 1 or weight.dtype.kind not in "iu" or len(weight.shape) < 2:
            return None
        scales = self._later_scales(proto.output[0])
        if scales is None:
            return None
        names = [proto.input[0], *scales]
        weights = [self._weight(name) for name in names]
        single = all(w is not None and w.size == 1 for w in weights[1:])
        key = ("table", *names)
        if key not in self._made:
            layouts, slots = (Layout(), Single(), Single()), (0, None, None)
            parts = [_part(*each) for each in zip(names, weights, layouts, slots, strict=False)]
            found = Encoded(weight.shape, np.dtype(np.float32), parts if single else parts[:1], affine)
            self._made[key] = _constant(self._name(names[0]), found)
        return self._made[key]

    def _later_scales(self, name: str) -> list[str] | None:
        """The scale and zero point by which a value is read, past operators that only move elements."""
        queue, seen = [name], {name}
        while queue:
            value = queue.pop()
            for reader in self._uses.get(value, []):
                if reader.op_type == "DequantizeLinear" or reader.op_type.startswith(("QLinear", "QGemm")):
                    at = list(reader.input).index(value)
                    return list(reader.input[at + 1 : at + 3])
                if reader.op_type in _MOVES and reader.output[0] not in seen:
                    seen.add(reader.output[0])
                    queue.append(reader.output[0])
        return None

    def operand(self, proto: NodeProto, coding: Coding) -> Value | None:
        """The operand that lies in several slots of an operator; None where it is computed."""
        names = [proto.input[s] if s is not None and s < len(proto.input) else "" for s in coding.slots]
        weights = [self._weight(name) for name in names]
        if any(w is None and n for w, n in zip(weights, names, strict=True)) or weights[0] is None:
            return None
        key = (*coding.slots, *names)
        if key not in self._made:
            slots = [None if s in coding.context else s for s in coding.slots]
            parts = [_part(*each) for each in zip(names, weights, coding.layouts, slots, strict=True)]
            weight = Encoded(coding.shape, np.dtype(np.float32), parts, coding.decode)
            self._made[key] = _constant(self._name(names[0]), weight)
        return self._made[key]

    def _weight(self, name: str) -> Weight | None:
        return self._values[name].weight if name in self._values else None

    def _name(self, stored: str) -> str:
        """The name of the integers, where nothing else may go by it."""
        name, count = stored, 1
        while name in self._names or (name in self._values and (self._readers[stored] > 1 or count > 1)):
            name, count = f"{stored}::{count}", count + 1
        self._names.add(name)
        return name


def _part(name: str, weight: Weight | None, layout: Layout, slot: int | None) -> Part | None:
    return None if weight is None else Part(name, weight, layout, slot)


def _constant(name: str, weight: Weight) -> Value:
    return Value(name, weight.shape, weight.dtype, weight=weight)
