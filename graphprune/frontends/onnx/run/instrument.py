"""The original model with a treatment: masks on values, and nodes run on the kept indices only."""

from __future__ import annotations

from math import prod
from typing import cast

import numpy as np
from onnx import ModelProto, NodeProto

from graphprune.ir.graph import Graph, Node, Value

from ...treatment import Compaction, Index, Treatment
from ..lower.random_operators import draws
from ..origin import Source
from ..protos import set_attribute
from ..quantized import Encoded
from ..tensors import onnx_dtype
from ..write.emit import assemble, fill, name_outputs, write_node
from ..write.writer import Writer
from .chance import drawing, drawn, without_chance
from .zeros import zero_points

#: Types for which onnxruntime has no Where, and wider ones for which it does.
_HELD = {"int16": "int32", "uint16": "int32", "uint64": "int64"}


def instrument(graph: Graph, treatment: Treatment) -> ModelProto:
    """The graph as an ONNX model with the treatment built in; see `docs/ir.md`. Sizes are those bound at load."""
    writer = _Instrumenter(graph, treatment)
    writer.run()
    model, weights = assemble(writer)
    fill(model, weights)
    return model


class _Instrumenter(Writer):
    def __init__(self, graph: Graph, treatment: Treatment) -> None:
        super().__init__(graph)
        self.treatment = treatment
        self.aliases: dict[str, str] = {}
        self.zeros = zero_points(graph)
        self.random = set(drawing(graph).values())
        for name, masks in treatment.masks.items():
            if name in self.weights:
                self.weights[name] = self.weights[name].masked(masks)
            elif name in self.encoded:
                self.encoded[name] = cast(Encoded, self.encoded[name].masked(masks))

    def run(self) -> None:
        """Write inputs' masks, then every node with what surrounds it."""
        for value in self.graph.inputs:
            if self.treatment.masks.get(value.name):
                self.aliases[value.name] = self._mask(value.name, value, self.fresh(f"{value.name}_masked"))
        self.write = self._write
        for node in self.graph.nodes:
            self._write(node)
        name_outputs(self)

    def name(self, value: Value | None) -> str:
        """Masked inputs are read under another name."""
        plain = super().name(value)
        return self.aliases.get(plain, plain)

    def _write(self, node: Node) -> None:
        start = len(self.nodes)
        write_node(node, self)
        self._without_chance(node, start)
        written = self.nodes[start:]
        compaction = self.treatment.compactions.get(node.name)
        if compaction is not None:
            before = self._compact(node, compaction, written)
            self.nodes[start:start] = before
        made = {name for proto in self.nodes[start:] for name in proto.output}
        for value in node.outputs:
            if self.name(value) not in made:
                continue  # an output left out: nothing reads it
            if self.treatment.masks.get(value.name):
                final = self.name(value)
                raw = self._detach(final, start)
                self._mask(raw, value, final)
            if value.name in self.treatment.bypass:
                final, source = self.name(value), self.values[self.treatment.bypass[value.name]]
                self._detach(final, start)
                self.node("Identity", [self.name(source)], final)

    def _without_chance(self, node: Node, start: int) -> None:
        """Put what scripts say in the place of what a node (written from `start` on) would draw.

        Where it runs on kept indices only, it draws what the result draws.
        """
        both = self.treatment.draws
        if both is None or node not in self.random:
            return
        script = both.left if node.name in self.treatment.compactions else both.full
        numbers = script.of(node.name, drawn(node))
        self.nodes[start:] = [
            new
            for proto in self.nodes[start:]
            for new in (without_chance(proto, node, numbers, self.opset) if draws(proto) else [proto])
        ]

    def _detach(self, name: str, start: int) -> str:
        """Give what makes `name` (among the nodes from `start` on) another output name."""
        raw = self.fresh(f"{name}_raw")
        for node in self.nodes[start:]:
            for j, output in enumerate(node.output):
                if output == name:
                    node.output[j] = raw
        return raw

    def _mask(self, raw: str, value: Value, final: str) -> str:
        """Zero the elements where any mask is False."""
        masks = self.treatment.masks[value.name]
        for position, mask in enumerate(masks):
            output = final if position == len(masks) - 1 else self.fresh(f"{final}_part")
            raw = self._where(np.asarray(mask, bool), raw, value, output)
        return raw

    def _zero(self, value: Value, base: str) -> str:
        """What stands for nothing: 0, or the zero point of a quantised value."""
        found = self.zeros.get(value.name)
        return self.constant(np.zeros((), value.dtype), f"{base}_zero") if found is None else self.parameter(found)

    def _where(self, mask: np.ndarray, name: str, value: Value, output: str) -> str:
        """The elements under the mask, zero elsewhere; by way of a type that onnxruntime has a kernel for."""
        condition = self.constant(mask, f"{output}_mask")
        if value.dtype == np.bool_:
            return self.node("And", [name, condition], output)
        zero, held = self._zero(value, output), _HELD.get(value.dtype.name)
        if held is None:
            return self.node("Where", [condition, name, zero], output)
        wide = [
            self.node("Cast", [x], self.fresh(f"{output}_wide"), to=onnx_dtype(np.dtype(held))) for x in (name, zero)
        ]
        kept = self.node("Where", [condition, *wide], self.fresh(f"{output}_kept"))
        return self.node("Cast", [kept], output, to=onnx_dtype(value.dtype))

    def _compact(self, node: Node, compaction: Compaction, written: list[NodeProto]) -> list[NodeProto]:
        """Gather the node's inputs, scatter its outputs; returns the nodes that belong before it."""
        source: Source = node.source
        proto = written[0]
        if compaction.groups is not None:
            set_attribute(proto, "num_groups" if node.kind == "group_norm" else "group", compaction.groups)
        end = len(self.nodes)
        for position, indices in compaction.inputs.items():
            value, slot = node.inputs[position], source.slots[position]
            if value is not None and indices:
                proto.input[slot] = self._gathered(value, indices)
        before = self.nodes[end:]
        del self.nodes[end:]
        for position, kept in compaction.positions.items():
            final = self.name(node.outputs[position])
            raw = self._detach(final, end - len(written))
            self.node("Gather", [self.constant(kept.astype(np.int64), f"{final}_original"), raw], final, axis=0)
        for position, indices in compaction.outputs.items():
            value = node.outputs[position]
            if not indices or not source.proto.output[position]:
                continue
            final = self.name(value)
            raw = self._detach(final, end - len(written))
            self._scattered(raw, value, indices, final)
        return before

    def _gathered(self, value: Value, indices: list[Index]) -> str:
        if value.name in self.weights:
            array = self.weights[value.name].array()
            for index in indices:
                array = take(array, index)
            return self.constant(array, f"{value.name}_compact")
        name, shape = self.name(value), list(value.sizes)
        for index in indices:
            name = self._take(name, index, shape, f"{value.name}_compact")
            shape[index.axis] = _width(index)
        return name

    def _take(self, name: str, index: Index, shape: list[int], base: str) -> str:
        """Gather along an axis; by full-rank indices as a lookup in the flattened tensor."""
        if index.indices.ndim == 1:
            picks = self.constant(index.indices.astype(np.int64), f"{base}_indices")
            return self.node("Gather", [name, picks], self.fresh(base), axis=index.axis)
        flat = self.node("Reshape", [name, self.ints([-1], f"{base}_flat")], self.fresh(base))
        places = take(np.arange(prod(shape)).reshape(shape), index)
        return self.node("Gather", [flat, self.constant(places, f"{base}_places")], self.fresh(base), axis=0)

    def _scattered(self, name: str, value: Value, indices: list[Index], final: str) -> None:
        """Put compact elements back where they came from, zero elsewhere, undoing the gathers last to first."""
        shapes = [list(value.sizes)]
        for index in indices:
            shapes.append([*shapes[-1]])
            shapes[-1][index.axis] = _width(index)
        for step, index in reversed(list(enumerate(indices))):
            back, found = inverse(index, shapes[step])
            full = self._take(name, Index(index.axis, back), shapes[step + 1], f"{final}_back")
            output = final if step == 0 else self.fresh(f"{final}_part")
            name = self._where(found, full, value, output)


def take(array: np.ndarray, index: Index) -> np.ndarray:
    """numpy's take (1-d indices) or take_along_axis (full rank, broadcast over the other axes)."""
    if index.indices.ndim == 1:
        return np.take(array, index.indices, axis=index.axis)
    shape = [n if a != index.axis else index.indices.shape[a] for a, n in enumerate(array.shape)]
    return np.take_along_axis(array, np.broadcast_to(index.indices, shape), axis=index.axis)


def _width(index: Index) -> int:
    return int(index.indices.shape[0 if index.indices.ndim == 1 else index.axis])


def inverse(index: Index, shape: list[int]) -> tuple[np.ndarray, np.ndarray]:
    """For each full position, where it lies in the compact tensor (0 if nowhere), and whether it does.

    The first is shaped like the indices (1-d, or of full rank); the second broadcasts against the full tensor.
    """
    size, indices = shape[index.axis], index.indices
    if indices.ndim == 1:
        back, found = np.zeros(size, np.int64), np.zeros(size, bool)
        back[indices], found[indices] = np.arange(len(indices)), True
        return back, found.reshape([size if a == index.axis else 1 for a in range(len(shape))])
    full = [size if a == index.axis else n for a, n in enumerate(indices.shape)]
    places = np.arange(indices.shape[index.axis]).reshape([-1 if a == index.axis else 1 for a in range(indices.ndim)])
    back, found = np.zeros(full, np.int64), np.zeros(full, bool)
    np.put_along_axis(back, indices, np.broadcast_to(places, indices.shape), index.axis)
    np.put_along_axis(found, indices, True, index.axis)
    return back, found
