"""The onnx package's node tests, as they are and with something to prune around them.

In a node test nothing is a weight. So each real operand comes from a product with a random square matrix along one of
its axes, each real result goes into one, and integers become constants: whatever the operator lets pass along that axis
can then be pruned, and the proof shows whether its rule is right.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

#: Where the products go: along the last axis, or along the one after the batch.
FORMS = ("plain", "last", "channels")
_LETTERS = "abcdefgh"
#: Width of the results of products behind an operator, and the oldest opset with Einsum.
_OUT, _EINSUM = 3, 12


@cache
def node_cases() -> dict[str, Any]:
    """Every node test of the onnx package by name, in its order."""
    from onnx.backend.test.case.node import collect_testcases

    with np.errstate(all="ignore"):
        return {case.name: case for case in collect_testcases(None)}


def operator(case: Any) -> str:
    """The operator that a case is about."""
    return str(
        case.model.graph.node[-1].op_type if case.name.endswith("_expanded") else case.model.graph.node[0].op_type
    )


def built(case: Any, form: str) -> ModelProto | None:
    """A case's model in one of the forms; None where that form does not apply."""
    return case.model if form == "plain" else _wrapped(case, form)


def _axis(array: Any, form: str) -> int | None:
    """The axis that a product can be put on."""
    if not isinstance(array, np.ndarray) or array.dtype != np.float32 or not array.size:
        return None
    if form == "last":
        return array.ndim - 1 if array.ndim else None
    return 1 if array.ndim >= 3 else None


def _product(name: str, weight: str, out: str, rank: int, form: str) -> NodeProto:
    if form == "last":
        return helper.make_node("MatMul", [name, weight], [out], name=f"{out}__product")
    old = _LETTERS[:rank]
    equation = f"{old},bz->{old.replace('b', 'z')}"
    return helper.make_node("Einsum", [name, weight], [out], name=f"{out}__product", equation=equation)


def _wrapped(case: Any, form: str) -> ModelProto | None:
    model = ModelProto()
    model.CopyFrom(case.model)
    graph, (given, wanted) = model.graph, case.data_sets[0]
    opset = {o.domain: o.version for o in model.opset_import}.get("", 0)
    usable = all(isinstance(array, np.ndarray) and array.dtype != object for array in given)
    if len(given) != len(graph.input) or not usable or (form == "channels" and opset < _EINSUM):
        return None
    random = np.random.default_rng(0)
    inputs, before = _before(graph, given, form, random)
    outputs, after = _after(graph, wanted, form, random)
    if not before:
        return None
    nodes = [*before, *graph.node, *after]
    for field, values in (("node", nodes), ("input", inputs), ("output", outputs)):
        graph.ClearField(field)
        getattr(graph, field).extend(values)
    model.ir_version = max(model.ir_version, 8)
    return model


def _copy(info: ValueInfoProto) -> ValueInfoProto:
    copy = ValueInfoProto()
    copy.CopyFrom(info)
    return copy


def _weight(graph: onnx.GraphProto, array: np.ndarray, name: str) -> str:
    graph.initializer.append(numpy_helper.from_array(array, name))
    return name


def _before(
    graph: onnx.GraphProto, arrays: list[np.ndarray], form: str, random: np.random.Generator
) -> tuple[list[ValueInfoProto], list[NodeProto]]:
    """Inputs, and products that make the operands."""
    inputs, nodes = [], []
    for info, array in zip(map(_copy, graph.input), arrays, strict=True):
        axis, name = _axis(array, form), info.name
        if array.dtype != np.float32:
            _weight(graph, array, name)
            continue
        if axis is not None and array.shape[axis] > 1:
            size = array.shape[axis]
            matrix = (random.standard_normal((size, size)) / np.sqrt(size)).astype(np.float32)
            info.name = f"{name}__given"
            nodes.append(_product(info.name, _weight(graph, matrix, f"{name}__in"), name, array.ndim, form))
        inputs.append(info)
    return inputs, nodes


def _after(
    graph: onnx.GraphProto, arrays: list[Any], form: str, random: np.random.Generator
) -> tuple[list[ValueInfoProto], list[NodeProto]]:
    """Outputs, and products that read the results."""
    outputs, nodes = [], []
    for info, array in zip(map(_copy, graph.output), arrays, strict=False):
        axis = _axis(array, form)
        if axis is None:
            outputs.append(info)
            continue
        matrix = random.standard_normal((array.shape[axis], _OUT)).astype(np.float32)
        name, shape = f"{info.name}__made", list(array.shape)
        shape[axis] = _OUT
        weight = _weight(graph, matrix, f"{info.name}__out")
        nodes.append(_product(info.name, weight, name, array.ndim, form))
        outputs.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, shape))
    return outputs, nodes


def first_of_each(form: str) -> Iterator[tuple[str, ModelProto]]:
    """One case of each operator, for a quick look."""
    seen = set()
    for name, case in node_cases().items():
        if operator(case) not in seen:
            model = built(case, form)
            if model is not None:
                seen.add(operator(case))
                yield name, model
