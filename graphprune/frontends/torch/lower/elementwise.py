"""Lowerings of operators that work element by element under broadcasting."""

from __future__ import annotations

import torch

from .registry import Call, Name, Spec, lowers

_UNARY = """
    abs acos acosh angle asin asinh atan atanh bitwise_not ceil celu conj_physical cos cosh deg2rad digamma elu erf
    erfc erfinv exp exp2 expm1 fix floor frac gelu hardshrink hardsigmoid hardswish isfinite isinf isnan leaky_relu
    lgamma log log10 log1p log2 log_sigmoid logical_not logit mish nan_to_num neg positive rad2deg reciprocal relu
    relu6 round rsqrt rrelu selu sgn sigmoid sign signbit silu sin sinc sinh softplus softshrink sqrt square tan tanh
    tanhshrink threshold trunc special_erf special_expit special_expm1 special_log1p _conj _neg_view resolve_conj
    resolve_neg
""".split()

_BROADCAST = """
    add addcdiv addcmul arctan2 atan2 bitwise_and bitwise_left_shift bitwise_or bitwise_right_shift bitwise_xor complex
    copysign div eq float_power floor_divide fmax fmin fmod ge gt heaviside hypot le lerp logaddexp logaddexp2
    logical_and logical_or logical_xor lt masked_fill maximum minimum mul ne polar pow remainder rsub sub true_divide
    where xlogy __and__ __or__ __xor__ __lshift__ __rshift__
""".split()

# Other names of the same functions.
_SYNONYMS = {
    "absolute": "abs",
    "arccos": "acos",
    "arcsin": "asin",
    "arctan": "atan",
    "divide": "div",
    "greater": "gt",
    "greater_equal": "ge",
    "less": "lt",
    "less_equal": "le",
    "multiply": "mul",
    "negative": "neg",
    "not_equal": "ne",
    "subtract": "sub",
    "clamp": "clip",
    "clamp_max": "clip",
    "clamp_min": "clip",
    "hardtanh": "clip",
    "clip": "clip",
}

_IDENTITY = ["alias", "clone", "contiguous", "detach", "lift", "lift_fresh", "lift_fresh_copy"]


@lowers(*_UNARY, *_BROADCAST, *_SYNONYMS)
def elementwise(call: Call) -> Spec:
    """`fn` is ATen's name; `scalars` are the Python numbers among the operands."""
    name = _SYNONYMS.get(call.name, call.name.strip("_"))
    nothing = name == "add" and call.tensors() == ("self",) and call.scalars() == [0]
    if nothing and call.dtype("self") == call.results[0].dtype:  # `sum` of a list starts from zero
        return Spec("elementwise", ("self",), {"fn": "identity"})
    return Spec("elementwise", call.tensors(), {"fn": name, "scalars": call.scalars()})


@lowers(*_IDENTITY)
def identity(call: Call) -> Spec:
    """A copy or another name of the same elements."""
    return Spec("elementwise", ("self",), {"fn": "identity"})


@lowers("zero", "fill")
def overwrite(call: Call) -> Spec:
    """Every element set to one value: what an in-place fill means."""
    return Spec("elementwise", call.tensors(), {"fn": call.name, "scalars": call.scalars()})


@lowers("to", "_to_copy", "type_as")
def cast(call: Call) -> Spec:
    """A change of type or device; one to the type it has already is the identity."""
    before, after = call["self"].meta["val"], call.results[0]
    same = before.dtype == after.dtype and before.device == after.device
    attrs = {"fn": "identity" if same else "cast"}
    if call.has("other"):
        target = torch.ops.aten._to_copy.default
        return Spec(
            "elementwise", ("self",), attrs, target, (Name("self"),), {"dtype": after.dtype, "device": after.device}
        )
    return Spec("elementwise", ("self",), attrs)


@lowers("prelu", "_prelu_kernel")
def prelu(call: Call) -> Spec | None:
    """A slope for each channel."""
    if call.name == "_prelu_kernel":
        return Spec("elementwise", ("self", "weight"), {"fn": "prelu"})
    return Spec("prelu", ("self", "weight"))


@lowers("glu")
def glu(call: Call) -> Spec:
    """The first half times the sigmoid of the second."""
    return Spec("glu", ("self",), {"axis": call.axis("self", call["dim"])})
