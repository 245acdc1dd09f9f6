"""What is known about every value before lowering: shapes under two bindings, element types, small constants.

One walk over the nodes in order. Each is evaluated where all its inputs are small and known, else its output types
come from the onnx package's inference for that operator, which is told the values of the shape inputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from math import prod

import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, TypeProto, defs, shape_inference

from graphprune.ir.graph import Weight

from ..protos import attributes, domain, element_type, open_shape, output_names, static_shape, subgraphs, tensor_type
from ..tensors import is_data, numpy_dtype, onnx_dtype, to_tensor
from .binding import Bound, Shape
from .contrib import contrib_types
from .fitting import too_small
from .fold import LIMIT, Small, evaluate

#: Float constants up to this size are read while loading (Resize scales, Clip bounds).
_FEW = 64


@dataclass
class Fact:
    """What is known about one value.

    `derived` marks numbers computed from sizes and literals alone (tensors of floats made so are data like any other),
    `computed` what is from literals alone.
    """

    type: TypeProto | None
    other: TypeProto | None
    small: Small | None = None
    derived: bool = False
    constant: bool = False
    computed: bool = False
    weight: Weight | None = None

    @cached_property
    def shape(self) -> Shape | None:
        """The sizes under the first binding."""
        return static_shape(self.type)

    @cached_property
    def other_shape(self) -> Shape | None:
        """The sizes under the second binding; -1 where they follow an axis that has only one size in both."""
        return open_shape(self.other)

    @cached_property
    def elem_type(self) -> int:
        """The ONNX element type, 0 where unknown."""
        return element_type(self.type)

    @cached_property
    def dynamic(self) -> frozenset[int]:
        """Axes whose size differs between the bindings."""
        if self.shape is None or self.other_shape is None or len(self.shape) != len(self.other_shape):
            return frozenset()
        return frozenset(i for i, (a, b) in enumerate(zip(self.shape, self.other_shape, strict=True)) if a != b)

    @cached_property
    def literal(self) -> bool:
        """A constant without learned numbers: integers, or one number repeated in a matrix or larger."""
        weight = self.weight
        if self.computed or weight is None:
            return self.computed
        if not is_data(weight.dtype):
            return True
        if len(weight.shape) < 2 or weight.size > 1 << 20 or weight.size == 0:
            return False
        array = weight.array().reshape(-1)
        return bool((array == array[0]).all())

    def known(self) -> Small | None:
        """The value, where it is small; literals are read for this."""
        if self.small is None and self.weight is not None and self.weight.size <= LIMIT and self.literal:
            return Small.fixed(self.weight.array())
        return self.small

    @cached_property
    def data(self) -> tuple[TensorProto, TensorProto] | None:
        """The value as tensors under both bindings, for shape inference."""
        if self.small is None:
            return None
        first = to_tensor(self.small.value, "")
        return first, first if self.small.static else to_tensor(self.small.other, "")


def of_weight(weight: Weight) -> Fact:
    """The fact of a constant; its value is read if it is small and may say how (integers, a few floats)."""
    kind = tensor_type(onnx_dtype(weight.dtype) if weight.dtype != object else TensorProto.STRING, weight.shape)
    limit = _FEW if is_data(weight.dtype) else LIMIT
    readable = weight.dtype != object and weight.size <= limit
    return Fact(kind, kind, Small.fixed(weight.array()) if readable else None, constant=True, weight=weight)


def of_small(small: Small, derived: bool) -> Fact:
    """The fact of an evaluated value."""
    elem_type = onnx_dtype(small.value.dtype)
    first = tensor_type(elem_type, small.value.shape)
    same = small.value.shape == small.other.shape
    other = first if same else tensor_type(elem_type, small.other.shape)
    return Fact(first, other, small, derived=derived, constant=small.static, computed=small.static)


class Propagation:
    """The walk: `facts` by value name, filled node by node.

    `refused` are the nodes that the sizes do not fit, under each binding.
    """

    def __init__(self, model: ModelProto, bound: Mapping[str, Bound], weights: Mapping[str, Weight]) -> None:
        self.model = model
        self.opsets = {domain(NodeProto(domain=o.domain)): o.version for o in model.opset_import}
        self.facts: dict[str, Fact] = {name: of_weight(weight) for name, weight in weights.items()}
        self._declared = {v.name: v.type for v in [*model.graph.value_info, *model.graph.output]}
        self._whole: dict[str, TypeProto] | None = None
        self._bound = bound
        self.refused: tuple[set[str], set[str]] = (set(), set())
        for info in model.graph.input:
            if info.name in bound:
                sizes, elem_type = bound[info.name], element_type(info.type)
                first = tensor_type(elem_type, sizes.shape) if elem_type else None
                other = first if sizes.other == sizes.shape or not elem_type else tensor_type(elem_type, sizes.other)
                self.facts[info.name] = Fact(first, other)

    def learn(self, name: str, weight: Weight) -> None:
        """Enter a constant made by a node."""
        self.facts[name] = of_weight(weight)

    def visit(self, node: NodeProto) -> None:
        """Learn about the outputs of a node whose inputs are known."""
        inputs = [self.facts.get(name) if name else None for name in node.input]
        derived = self._derived(node, inputs)
        literal = bool(inputs) and all(i is None or i.literal for i in inputs) and not any(subgraphs(node))
        found = self._evaluated(node, inputs, derived)
        if found is not None:
            for name, small in zip([n for n in node.output if n], found, strict=True):
                self.facts[name] = of_small(small, derived and _numbers(small.value.dtype, small.value.shape))
            return
        first = self._inferred(node, 0)
        moves = any(i is not None and (i.other is not i.type or (i.small and not i.small.static)) for i in inputs)
        other = self._inferred(node, 1) if moves else first
        constant = literal or (bool(inputs) and all(i is None or i.constant for i in inputs))
        for name in output_names(node):
            kind = first.get(name)
            again = other.get(name) if open_shape(other.get(name)) is not None else _opened(kind, inputs)
            if open_shape(kind) == open_shape(again):
                again = kind
            fact = Fact(kind, again, constant=constant, computed=literal)
            fact.derived = derived and _numbers(numpy_dtype(fact.elem_type), fact.shape)
            self.facts[name] = fact

    def _derived(self, node: NodeProto, inputs: list[Fact | None]) -> bool:
        """Whether the outputs follow from sizes: a Shape or Size, or computed from such and literals alone."""
        if node.op_type in ("Shape", "Size") and domain(node) == "":
            return True
        if any(subgraphs(node)) or not any(i is not None and i.derived for i in inputs):
            return False
        return all(i is None or i.derived or (i.constant and _numbers(dtype_of(i), i.shape)) for i in inputs)

    def _evaluated(self, node: NodeProto, inputs: list[Fact | None], derived: bool) -> list[Small] | None:
        if domain(node) or any(subgraphs(node)) or any(name not in self.facts for name in node.input if name):
            return None
        if node.op_type in ("Shape", "Size"):
            return _measured(node, inputs[0])
        if not inputs or any(i is not None and not (i.small or i.literal) for i in inputs):
            return None
        known = [i.known() if i else None for i in inputs]
        if any(i is not None and k is None for i, k in zip(inputs, known, strict=True)):
            return None
        found = evaluate(node, known, self.model.opset_import)
        floats = found is not None and any(is_data(s.value.dtype) for s in found)
        if floats and not derived and not all(i is None or i.literal for i in inputs):
            return found if _single_numbers(node, inputs, found or []) else None
        return found

    def _inferred(self, node: NodeProto, binding: int) -> dict[str, TypeProto]:
        """Output types under one binding: by the operator's own inference, else as declared in the model."""
        types, data = {}, {}
        for name in filter(None, node.input):
            fact = self.facts.get(name)
            kind = None if fact is None else (fact.type, fact.other)[binding]
            if fact is None or kind is None:
                break
            types[name] = kind
            if fact.data is not None:
                data[name] = fact.data[binding]
        else:
            found = contrib_types(node, types, attributes(node)) or self._schema_types(node, types, data, binding)
            if too_small(node, types, data):
                self._refuse(node, binding)
                return {name: _ranked(kind) for name, kind in found.items()}
            if binding == 1:
                return _followed(node, found, [self.facts.get(name) for name in node.input])
            if all(static_shape(found.get(name)) is not None for name in node.output if name):
                return found
            return {**(self._fallback(node) if binding == 0 else {}), **_whole_ones(found)}
        return self._fallback(node) if binding == 0 else {}

    def _refuse(self, node: NodeProto, binding: int) -> None:
        self.refused[binding].add(next(filter(None, node.output), node.name))

    def _schema_types(
        self, node: NodeProto, types: dict[str, TypeProto], data: dict[str, TensorProto], binding: int
    ) -> dict[str, TypeProto]:
        place, opset = domain(node), self.opsets.get(domain(node), 1)
        if any(subgraphs(node)) or not defs.has(node.op_type, opset, place):
            return {}
        try:
            schema = defs.get_schema(node.op_type, opset, place)
            bare = NodeProto(op_type=node.op_type, domain=node.domain, input=node.input, output=output_names(node))
            bare.attribute.extend(node.attribute)
            found: dict[str, TypeProto] = shape_inference.infer_node_outputs(
                schema, bare, types, data, opset_imports=list(self.model.opset_import), ir_version=self.model.ir_version
            )
        except Exception:  # inference is advice: what it cannot tell stays unknown and frozen
            if all(static_shape(kind) is not None for kind in types.values()):
                self._refuse(node, binding)
            return {}
        return found | _further_outputs(node, found)

    def _fallback(self, node: NodeProto) -> dict[str, TypeProto]:
        """What the model declares, or what inference over the whole model finds (for control flow)."""
        if any(subgraphs(node)) and self._whole is None:
            self._whole = self._infer_whole()
        sources = (self._whole or {}, self._declared)
        return {name: s[name] for name in reversed(node.output) for s in sources if name in s}

    def _infer_whole(self) -> dict[str, TypeProto]:
        model = ModelProto()
        model.CopyFrom(self.model)
        for info in model.graph.input:
            if info.name in self._bound and self.facts[info.name].type is not None:
                info.type.CopyFrom(self.facts[info.name].type)
        try:
            found = shape_inference.infer_shapes(model).graph
        except Exception:  # as above
            return {}
        return {v.name: v.type for v in [*found.value_info, *found.output]}


#: The slot of a target shape, whose entries are the sizes of the output.
_TARGETS = {"Reshape": 1, "Expand": 1, "ConstantOfShape": 0}


def _followed(node: NodeProto, types: Mapping[str, TypeProto], inputs: Sequence[Fact | None]) -> dict[str, TypeProto]:
    """Types under the second binding, with sizes open that are computed from an open size."""
    found = dict(types)
    slot = _TARGETS.get(node.op_type, -1)
    small = inputs[slot].small if 0 <= slot < len(inputs) and inputs[slot] is not None else None  # type: ignore[union-attr]
    if small is None or small.static or node.output[0] not in found:
        return found
    sizes, entries = open_shape(found[node.output[0]]), small.follows.reshape(-1)
    if sizes is not None and len(sizes) == len(entries):
        same = small.value.reshape(-1) == small.other.reshape(-1)
        opened = tuple(-1 if e and s else n for n, e, s in zip(sizes, entries, same, strict=True))
        found[node.output[0]] = tensor_type(element_type(found[node.output[0]]), opened)
    return found


def _opened(kind: TypeProto | None, inputs: Sequence[Fact | None]) -> TypeProto | None:
    """A type under the second binding where that cannot be inferred: open along axes that look like open ones of the
    first input.
    """
    first, sizes = next(iter(inputs), None), static_shape(kind)
    if first is None or kind is None or sizes is None or first.shape is None or first.other_shape is None:
        return kind
    if len(first.shape) != len(sizes) or -1 not in first.other_shape:
        return kind
    pairs = zip(sizes, first.shape, first.other_shape, strict=True)
    return tensor_type(element_type(kind), tuple(-1 if b < 0 and n == a else n for n, a, b in pairs))


def _single_numbers(node: NodeProto, inputs: list[Fact | None], found: list[Small]) -> bool:
    """Whether constants of one number each make such again: an exporter's arithmetic for paddings, not learned axes."""
    if node.op_type == "DequantizeLinear" or not all(_numbers(s.value.dtype, s.value.shape) for s in found):
        return False
    return all(i is None or (i.constant and _numbers(dtype_of(i), i.shape)) for i in inputs)


def _numbers(dtype: np.dtype[np.generic], shape: Shape | None) -> bool:
    """Integers and truth values, or a single real number."""
    return not is_data(dtype) or (shape is not None and prod(shape) <= 1)


def _further_outputs(node: NodeProto, found: Mapping[str, TypeProto]) -> dict[str, TypeProto]:
    """What old opsets do not say: Dropout's mask is like its data, BatchNormalization's statistics one a channel."""
    shape = static_shape(found.get(node.output[0]))
    if shape is None or node.op_type not in ("Dropout", "BatchNormalization"):
        return {}
    sizes = shape if node.op_type == "Dropout" else shape[1:2]
    return {n: tensor_type(element_type(found[n]), sizes) for n in node.output[1:] if n in found}


def _ranked(kind: TypeProto) -> TypeProto:
    """The type without its sizes."""
    return tensor_type(element_type(kind), None)


def _whole_ones(types: dict[str, TypeProto]) -> dict[str, TypeProto]:
    return {name: kind for name, kind in types.items() if static_shape(kind) is not None}


def _measured(node: NodeProto, fact: Fact | None) -> list[Small] | None:
    """The value of Shape or Size."""
    if fact is None or fact.shape is None or fact.other_shape is None:
        return None
    first, other = np.array(fact.shape, np.int64), np.array(fact.other_shape, np.int64)
    if len(first) != len(other):
        return None
    follows = first != other
    other = np.where(other < 0, first, other)
    if node.op_type == "Size":
        return [Small(first.prod(), other.prod(), np.asarray(bool(fact.dynamic)))]
    attrs = attributes(node)
    part = slice(attrs.get("start", 0), attrs.get("end"))
    return [Small(first[part], other[part], follows[part])]


def dtype_of(fact: Fact | None) -> np.dtype[np.generic]:
    """The numpy element type of a value; `object` where unknown."""
    return numpy_dtype(fact.elem_type) if fact is not None and fact.elem_type else np.dtype(object)
