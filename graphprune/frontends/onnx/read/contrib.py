"""Output types of operators that the onnx package cannot infer: onnxruntime's own, and a few of the standard."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from onnx import NodeProto, TensorProto, TypeProto, defs, helper, shape_inference

from ..protos import domain, element_type, static_shape, tensor_type

#: Operators onnxruntime writes into the default domain, where the onnx checker does not know them.
DEFAULT_DOMAIN_EXTRAS = frozenset(
    {"SimplifiedLayerNormalization", "FusedConv", "FusedGemm", "FusedMatMul", "FastGelu", "QuickGelu", "BiasGelu"}
)

Shape = tuple[int, ...]
#: From the shapes of the inputs (None: absent or not known) and the attributes to those of the outputs.
Infer = Callable[[Sequence[Shape | None], Mapping[str, Any]], Sequence[Shape | None]]

_LIKE_FIRST = frozenset(
    {
        "SimplifiedLayerNormalization",
        "FastGelu",
        "QuickGelu",
        "BiasGelu",
        "BiasAdd",
        "BiasSoftmax",
        "MoE",
        "Gelu",
        "GroupNormalization",
        "GroupNorm",
        "RotaryEmbedding",
        "QuantizeLinear",
        "DequantizeLinear",
        "QLinearSigmoid",
        "QLinearLeakyRelu",
        "QLinearSoftmax",
    }
)
#: The standard operator whose inference fits.
_LIKE_STANDARD = {"FusedConv": "Conv", "FusedGemm": "Gemm"}
_INFERENCES: dict[str, Infer] = {}
#: Operators on data and weights in blocks of 8 or 16 channels, as the machine that wrote the file prefers; the file
#: does not say which. So they have shapes, for what follows, but no rules.
_BLOCKED = "com.microsoft.nchwc"
#: Where the element type of the outputs comes from: that of this input if it is given, else (or at -1) float.
_TYPED_BY = {
    "QGemm": 8,
    "EmbedLayerNormalization": 2,
    "MatMulIntegerToFloat": 3,
    "QAttention": 3,
    "QEmbedLayerNormalization": 8,
    "DequantizeLinear": 1,
}
_ZERO_POINT = {"QuantizeLinear": 2, "QLinearConv": 7, "QLinearConcat": 1, "QLinearAdd": 7, "QLinearMul": 7}


def contrib_types(node: NodeProto, types: Mapping[str, TypeProto], attrs: Mapping[str, Any]) -> dict[str, TypeProto]:
    """Types of the outputs; empty where the operator's own inference is to be asked."""
    standard = domain(node) == ""
    if standard and node.op_type not in DEFAULT_DOMAIN_EXTRAS | {"GroupNormalization"}:
        return {}
    if node.op_type in _LIKE_STANDARD:
        return _standard(node, types)
    if domain(node) == _BLOCKED:
        return _inferred(node, types, attrs, _IN_BLOCKS.get(node.op_type))
    infer = _like_first if node.op_type in _LIKE_FIRST else _INFERENCES.get(node.op_type)
    return _inferred(node, types, attrs, infer)


def _inferred(
    node: NodeProto, types: Mapping[str, TypeProto], attrs: Mapping[str, Any], infer: Infer | None
) -> dict[str, TypeProto]:
    shapes = [static_shape(types[name]) if name in types else None for name in node.input]
    if infer is None or not shapes:
        return {}
    try:
        found = infer([*shapes, *[None] * 16], attrs)
    except Exception:  # inference is advice: what it cannot tell stays unknown
        return {}
    kind = _element(node, types)
    pairs = zip(node.output, found, strict=False)
    return {name: tensor_type(kind, shape) for name, shape in pairs if name and shape is not None}


def _element(node: NodeProto, types: Mapping[str, TypeProto]) -> int:
    slot = _TYPED_BY.get(node.op_type, _ZERO_POINT.get(node.op_type, 0))
    name = node.input[slot] if slot < len(node.input) else ""
    return element_type(types[name]) if name in types else TensorProto.FLOAT


def infers(*ops: str) -> Callable[[Infer], Infer]:
    """Register the decorated function as the inference of these operators."""

    def register(infer: Infer) -> Infer:
        _INFERENCES.update(dict.fromkeys(ops, infer))
        return infer

    return register


def _like_first(shapes: Sequence[Shape | None], attrs: Mapping[str, Any]) -> list[Shape | None]:
    return [shapes[0]]


@infers("SkipLayerNormalization", "SkipSimplifiedLayerNormalization")
def _skip_norm(shapes: Sequence[Any], attrs: Mapping[str, Any]) -> list[Shape | None]:
    return [shapes[0], None, None, shapes[0]]


@infers("QEmbedLayerNormalization")
def _quantised_embed(shapes: Sequence[Any], attrs: Mapping[str, Any]) -> list[Shape | None]:
    return [(*shapes[0], shapes[2][1]), shapes[0][:1]]


@infers("NhwcMaxPool")
def _pool_last(shapes: Sequence[Any], attrs: Mapping[str, Any]) -> list[Shape | None]:
    x = shapes[0]
    return [_conv(x, (x[-1], 1, *attrs["kernel_shape"]), attrs, last=True, groups=x[-1])]


@infers("SkipGroupNorm")
def _skip_group_norm(shapes: Sequence[Any], attrs: Mapping[str, Any]) -> list[Shape | None]:
    return [shapes[0], shapes[0]]


@infers("EmbedLayerNormalization")
def _embed(shapes: Sequence[Any], attrs: Mapping[str, Any]) -> list[Shape | None]:
    full = (*shapes[0], shapes[2][1])
    return [full, shapes[0][:1], full]


@infers("BiasSplitGelu")
def _split_gelu(shapes: Sequence[Any], attrs: Mapping[str, Any]) -> list[Shape | None]:
    return [(*shapes[0][:-1], shapes[0][-1] // 2)]


@infers("QLinearAdd", "QLinearMul")
def _broadcast(shapes: Sequence[Any], attrs: Mapping[str, Any]) -> list[Shape | None]:
    return [np.broadcast_shapes(shapes[0], shapes[3])]


@infers("QLinearGlobalAveragePool")
def _global_pool(shapes: Sequence[Any], attrs: Mapping[str, Any]) -> list[Shape | None]:
    x = shapes[0]
    ones = [1] * (len(x) - 2)
    return [(x[0], *ones, x[-1]) if attrs.get("channels_last") else (*x[:2], *ones)]


@infers("QLinearConcat")
def _concat(shapes: Sequence[Any], attrs: Mapping[str, Any]) -> list[Shape | None]:
    parts = [s for s in shapes[2::3] if s is not None]
    axis = int(attrs["axis"]) % len(parts[0])
    return [tuple(sum(p[a] for p in parts) if a == axis else n for a, n in enumerate(parts[0]))]


@infers("FusedMatMul", "MatMulIntegerToFloat", "DynamicQuantizeMatMul", "TransposeMatMul", "FusedMatMulActivation")
def _matmul(shapes: Sequence[Any], attrs: Mapping[str, Any]) -> list[Shape | None]:
    if attrs.get("transBatchA") or attrs.get("transBatchB") or min(len(s) for s in shapes[:2]) < 2:
        return [None]
    flags = attrs.get("transA"), attrs.get("transB")
    a, b = ((*s[:-2], s[-1], s[-2]) if flag else s for s, flag in zip(shapes[:2], flags, strict=True))
    return [(*np.broadcast_shapes(a[:-2], b[:-2]), a[-2], b[-1]) if a[-1] == b[-2] else None]


@infers("DynamicQuantizeLSTM")
def _quantised_lstm(shapes: Sequence[Any], attrs: Mapping[str, Any]) -> list[Shape | None]:
    (steps, batch, _), directions, hidden = shapes[0], shapes[1][0], int(attrs["hidden_size"])
    state = (directions, batch, hidden)
    return [(steps, directions, batch, hidden), state, state]


@infers("QGemm")
def _gemm(shapes: Sequence[Any], attrs: Mapping[str, Any]) -> list[Shape | None]:
    a = shapes[0][::-1] if attrs.get("transA") else shapes[0]
    b = shapes[3][::-1] if attrs.get("transB") else shapes[3]
    return [(a[0], b[1]) if a[1] == b[0] else None]


@infers("MatMulNBits")
def _matmul_nbits(shapes: Sequence[Any], attrs: Mapping[str, Any]) -> list[Shape | None]:
    return [(*shapes[0][:-1], int(attrs["N"])) if shapes[0][-1] == int(attrs["K"]) else None]


@infers("Attention", "QAttention")
def _attention(shapes: Sequence[Any], attrs: Mapping[str, Any]) -> list[Shape | None]:
    x, past = shapes[0], shapes[4] if len(shapes[4] or ()) == 5 else shapes[8]
    sizes = attrs.get("qkv_hidden_sizes") or [shapes[1][1] // 3] * 3
    present = (2, x[0], attrs["num_heads"], x[1] + (past[3] if past else 0), sizes[0] // attrs["num_heads"])
    return [(*x[:2], sizes[2]), past if attrs.get("past_present_share_buffer") else present]


@infers("MultiHeadAttention")
def _multi_head(shapes: Sequence[Any], attrs: Mapping[str, Any]) -> list[Shape | None]:
    query, key, value, past = shapes[0], shapes[1], shapes[2], shapes[6]
    heads = int(attrs["num_heads"])
    width = query[4] if len(query) == 5 else query[2] // heads
    if len(query) == 5 or len(key or ()) == 5:
        wide, steps = heads * width, (key or query)[1]
    else:
        wide, steps = (heads * value[3], key[2]) if len(value) == 4 else (value[2], key[1])
    steps = past[2] if shapes[8] is not None else steps + (past[2] if past else 0)
    return [(*query[:2], wide), (query[0], heads, steps, width), (query[0], heads, steps, wide // heads), None]


@infers("GroupQueryAttention")
def _group_query(shapes: Sequence[Any], attrs: Mapping[str, Any]) -> list[Shape | None]:
    query, key, past = shapes[0], shapes[1], shapes[3]
    heads, own = int(attrs["num_heads"]), int(attrs["kv_num_heads"])
    width = query[2] // heads if key else query[2] // (heads + 2 * own)
    cache = (query[0], own, query[1] + (past[2] if past else 0), width)
    return [(*query[:2], heads * width), cache, cache, None]


@infers("NhwcConv", "NhwcFusedConv")
def _conv_last(shapes: Sequence[Any], attrs: Mapping[str, Any]) -> list[Shape | None]:
    return [_conv(shapes[0], shapes[1], attrs, last=True)]


@infers("QLinearConv")
def _quantised_conv(shapes: Sequence[Any], attrs: Mapping[str, Any]) -> list[Shape | None]:
    return [_conv(shapes[0], shapes[3], attrs, last=bool(attrs.get("channels_last")))]


@infers("QLinearAveragePool")
def _quantised_pool(shapes: Sequence[Any], attrs: Mapping[str, Any]) -> list[Shape | None]:
    x, last = shapes[0], bool(attrs.get("channels_last"))
    channels = x[-1] if last else x[1]
    return [_conv(x, (channels, 1, *attrs["kernel_shape"]), attrs, last=last, groups=channels)]


def _conv(x: Shape, weight: Shape, attrs: Mapping[str, Any], *, last: bool, groups: int = 1) -> Shape:
    """The output of a convolution (or pool, with the shape of a weight made up); channels last or second."""
    spatial = x[1:-1] if last else x[2:]
    if (x[-1] if last else x[1]) != weight[1] * int(attrs.get("group", groups)):
        raise ValueError("the channels of data and weight differ")
    plain = NodeProto(op_type="Conv", input=["x", "w"], output=["y"])
    schema = defs.get_schema("Conv", 11, "")
    names = schema.attributes.keys() & attrs.keys() - {"group", "kernel_shape"}
    plain.attribute.extend(helper.make_attribute(name, attrs[name]) for name in sorted(names))
    data = tensor_type(TensorProto.FLOAT, (x[0], weight[1], *spatial))
    known = {"x": data, "w": tensor_type(TensorProto.FLOAT, weight)}
    found = static_shape(shape_inference.infer_node_outputs(schema, plain, known)["y"])
    if found is None:
        raise ValueError("the convolution's sizes are not known")
    return (found[0], *found[2:], found[1]) if last else found


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


def _blocked_conv(shapes: Sequence[Any], attrs: Mapping[str, Any]) -> list[Shape | None]:
    return [_conv(shapes[0], shapes[1], attrs, last=False)]


def _blocked_pool(shapes: Sequence[Any], attrs: Mapping[str, Any]) -> list[Shape | None]:
    channels = shapes[0][1]
    return [_conv(shapes[0], (channels, 1, *attrs["kernel_shape"]), attrs, last=False, groups=channels)]


def _blocked_global_pool(shapes: Sequence[Any], attrs: Mapping[str, Any]) -> list[Shape | None]:
    return [(*shapes[0][:2], *[1] * (len(shapes[0]) - 2))]


def _unblocked(shapes: Sequence[Any], attrs: Mapping[str, Any]) -> list[Shape | None]:
    batch, _, *sizes = shapes[0]
    channels = int(attrs["channels"])
    return [(batch, *sizes, channels) if attrs.get("channels_last") else (batch, channels, *sizes)]


_IN_BLOCKS: dict[str, Infer] = {
    "Conv": _blocked_conv,
    "MaxPool": _blocked_pool,
    "AveragePool": _blocked_pool,
    "GlobalMaxPool": _blocked_global_pool,
    "GlobalAveragePool": _blocked_global_pool,
    "ReorderOutput": _unblocked,
}
