"""A model in float32 that stands for one in another float type: runtimes do not run it, or it rounds much."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Set as AbstractSet

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, TypeProto, numpy_helper

#: Types that onnxruntime's CPU kernels mostly lack.
RARE = frozenset({TensorProto.BFLOAT16, TensorProto.DOUBLE})


def widened(model: ModelProto, *, halves: bool = False) -> ModelProto:
    """A copy in which every tensor of a rare float type (with `halves`, of float16 too) is float32; the model itself if
    it has none.

    Weights keep their (rounded) values, so two models that agree in that type up to rounding agree here too.
    """
    kinds = RARE | {TensorProto.FLOAT16} if halves else RARE
    twin = ModelProto()
    twin.CopyFrom(model)
    changed = sum([_widen_graph(graph, kinds) for graph in _graphs(twin.graph)])
    return twin if changed else model


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph and all those inside it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.type in _GRAPHS else ():
                yield from _graphs(inner)


_GRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)


def _widen_graph(graph: GraphProto, kinds: AbstractSet[int]) -> bool:
    changed = [_widen_tensor(tensor, kinds) for tensor in graph.initializer]
    changed += [_widen_type(value.type, kinds) for value in (*graph.input, *graph.output, *graph.value_info)]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                changed.append(_widen_tensor(attribute.t, kinds))
            elif attribute.name in ("to", "dtype", "stash_type", "output_dtype") and attribute.i in kinds:
                attribute.i = TensorProto.FLOAT
                changed.append(True)
    return any(changed)


def _widen_tensor(tensor: TensorProto, kinds: AbstractSet[int]) -> bool:
    if tensor.data_type not in kinds:
        return False
    array = numpy_helper.to_array(tensor).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))
    return True


def _widen_type(kind: TypeProto, kinds: AbstractSet[int]) -> bool:
    if kind.tensor_type.elem_type not in kinds:
        return False
    kind.tensor_type.elem_type = TensorProto.FLOAT
    return True
