"""A model in float32 that stands for one in bfloat16 or float64, for runtimes that do not run those types."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from onnx import AttributeProto, GraphProto, ModelProto, TensorProto, TypeProto, numpy_helper

#: Types that onnxruntime's CPU kernels mostly lack.
RARE = frozenset({TensorProto.BFLOAT16, TensorProto.DOUBLE})


def widened(model: ModelProto) -> ModelProto:
    """A copy in which every tensor of a rare float type is float32; the model itself if it has none.

    Weights keep their (rounded) values, so two models that agree in the rare type up to rounding agree here too.
    """
    twin = ModelProto()
    twin.CopyFrom(model)
    changed = sum([_widen_graph(graph) for graph in _graphs(twin.graph)])
    return twin if changed else model


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph and all those inside it."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs) if attribute.type in _GRAPHS else ():
                yield from _graphs(inner)


_GRAPHS = (AttributeProto.GRAPH, AttributeProto.GRAPHS)


def _widen_graph(graph: GraphProto) -> bool:
    changed = [_widen_tensor(tensor) for tensor in graph.initializer]
    changed += [_widen_type(value.type) for value in (*graph.input, *graph.output, *graph.value_info)]
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == AttributeProto.TENSOR:
                changed.append(_widen_tensor(attribute.t))
            elif attribute.name in ("to", "dtype", "stash_type", "output_dtype") and attribute.i in RARE:
                attribute.i = TensorProto.FLOAT
                changed.append(True)
    return any(changed)


def _widen_tensor(tensor: TensorProto) -> bool:
    if tensor.data_type not in RARE:
        return False
    array = numpy_helper.to_array(tensor).astype(np.float32)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(array), tensor.name))
    return True


def _widen_type(kind: TypeProto) -> bool:
    if kind.tensor_type.elem_type not in RARE:
        return False
    kind.tensor_type.elem_type = TensorProto.FLOAT
    return True
