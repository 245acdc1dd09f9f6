"""Output types of operators that the onnx package cannot infer: onnxruntime's own, and a few of the standard."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from onnx import NodeProto, TypeProto, defs, shape_inference

from .protos import domain, element_type, static_shape, tensor_type

#: Operators onnxruntime writes into the default domain, where the onnx checker does not know them.
DEFAULT_DOMAIN_EXTRAS = frozenset(
    {"SimplifiedLayerNormalization", "FusedConv", "FusedGemm", "FusedMatMul", "FastGelu", "QuickGelu", "BiasGelu"}
)

_LIKE_FIRST = frozenset(
    {
        "SimplifiedLayerNormalization",
        "FastGelu",
        "QuickGelu",
        "BiasGelu",
        "Gelu",
        "SkipLayerNormalization",
        "SkipSimplifiedLayerNormalization",
        "GroupNormalization",
    }
)
#: The standard operator whose inference fits.
_LIKE_STANDARD = {"FusedConv": "Conv", "FusedGemm": "Gemm"}


def contrib_types(node: NodeProto, types: Mapping[str, TypeProto], attrs: Mapping[str, Any]) -> dict[str, TypeProto]:
    """Types of the outputs; empty where the operator's own inference is to be asked."""
    if domain(node) == "" and node.op_type not in DEFAULT_DOMAIN_EXTRAS | _LIKE_FIRST:
        return {}
    if node.op_type in _LIKE_FIRST and len(node.output) == 1 and node.input and node.input[0] in types:
        return {node.output[0]: types[node.input[0]]}
    if node.op_type in _LIKE_STANDARD:
        return _standard(node, types)
    if node.op_type == "FusedMatMul":
        return _matmul(node, types, attrs)
    return {}


def _standard(node: NodeProto, types: Mapping[str, TypeProto]) -> dict[str, TypeProto]:
    schema = defs.get_schema(_LIKE_STANDARD[node.op_type], 13, "")
    known = {*schema.attributes}
    plain = NodeProto(op_type=schema.name, input=node.input[:3], output=node.output)
    plain.attribute.extend(a for a in node.attribute if a.name in known)
    try:
        found: dict[str, TypeProto] = shape_inference.infer_node_outputs(
            schema, plain, {name: types[name] for name in plain.input if name}
        )
    except Exception:  # inference is advice
        return {}
    return found


def _matmul(node: NodeProto, types: Mapping[str, TypeProto], attrs: Mapping[str, Any]) -> dict[str, TypeProto]:
    shapes = [static_shape(types[name]) for name in node.input[:2]]
    if any(s is None or len(s) < 2 for s in shapes) or attrs.get("transBatchA") or attrs.get("transBatchB"):
        return {}
    a, b = (
        (*s[:-2], s[-1], s[-2]) if attrs.get(flag) else s
        for s, flag in zip(shapes, ("transA", "transB"), strict=True)
        if s is not None
    )
    try:
        batch = np.broadcast_shapes(a[:-2], b[:-2])
    except ValueError:
        return {}
    return {node.output[0]: tensor_type(element_type(types[node.input[0]]), (*batch, a[-2], b[-1]))}
