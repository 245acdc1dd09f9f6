"""What shape inference lets pass and no runtime does: windows, reflections and indices beyond what they run over."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from onnx import NodeProto, TensorProto, TypeProto, numpy_helper

from ..protos import attributes, domain, open_shape

#: Where operators with windows read their weight; -1 where they have none.
_WINDOWS = {"Conv": 1, "ConvInteger": 1, "QLinearConv": 3, "MaxPool": -1, "AveragePool": -1, "LpPool": -1}


def too_small(node: NodeProto, types: Mapping[str, TypeProto], data: Mapping[str, TensorProto]) -> bool:
    """Whether an input has too few indices along an axis for this node."""
    if domain(node) or not node.input or node.input[0] not in types:
        return False
    if node.op_type in _WINDOWS:
        return _window_too_large(node, types)
    if node.op_type == "Gather":
        return _looks_beyond(node, types, data)
    return node.op_type == "Pad" and _reflects_too_much(node, types, data)


def _looks_beyond(node: NodeProto, types: Mapping[str, TypeProto], data: Mapping[str, TensorProto]) -> bool:
    """Whether constant indices lie beyond the end of their axis."""
    sizes, tensor = open_shape(types[node.input[0]]), data.get(node.input[1])
    axis = int(attributes(node).get("axis", 0))
    if tensor is None or not sizes or not -len(sizes) <= axis < len(sizes):
        return False
    size, indices = sizes[axis], np.asarray(numpy_helper.to_array(tensor))
    return size >= 0 and bool(((indices >= size) | (indices < -size)).any())


def _window_too_large(node: NodeProto, types: Mapping[str, TypeProto]) -> bool:
    """Whether a window does not fit into its padded input even once (inference rounds that up to one position)."""
    attrs, slot = attributes(node), _WINDOWS[node.op_type]
    sizes = (open_shape(types[node.input[0]]) or ())[2:]
    weight = open_shape(types.get(node.input[slot])) if 0 <= slot < len(node.input) else None
    kernel = attrs.get("kernel_shape") or (weight or ())[2:]
    if attrs.get("auto_pad", "NOTSET") not in ("NOTSET", "VALID") or len(kernel) != len(sizes):
        return False
    pads = attrs.get("pads", [0] * 2 * len(sizes))
    dilations = attrs.get("dilations", [1] * len(sizes))
    rows = zip(sizes, kernel, dilations, pads, pads[len(sizes) :], strict=False)
    return any(n >= 0 and n + before + after < (k - 1) * d + 1 for n, k, d, before, after in rows)


def _reflects_too_much(node: NodeProto, types: Mapping[str, TypeProto], data: Mapping[str, TensorProto]) -> bool:
    attrs = attributes(node)
    if attrs.get("mode", "constant") != "reflect" or (len(node.input) > 3 and node.input[3]):
        return False
    pads = attrs.get("pads")
    if pads is None:
        tensor = data.get(node.input[1]) if len(node.input) > 1 else None
        pads = None if tensor is None else np.asarray(numpy_helper.to_array(tensor)).reshape(-1).tolist()
    sizes = open_shape(types[node.input[0]]) or ()
    if pads is None or len(pads) != 2 * len(sizes):
        return False
    return any(n >= 0 and max(pads[i], pads[len(sizes) + i]) >= max(n, 1) for i, n in enumerate(sizes))
