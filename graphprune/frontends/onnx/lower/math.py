"""Lowerings: elementwise operators, products, convolutions, reductions."""

from __future__ import annotations

from .registry import Lowered, UnlowerableError, View, lowers

#: Elementwise operators by canonical function name, where that is not the ONNX name in snake case.
_ELEMENTWISE = {
    "Abs": "abs",
    "Acos": "acos",
    "Acosh": "acosh",
    "Add": "add",
    "And": "and",
    "Asin": "asin",
    "Asinh": "asinh",
    "Atan": "atan",
    "Atanh": "atanh",
    "BiasGelu": "gelu",
    "BitCast": "bitcast",
    "BitShift": "bitshift",
    "BitwiseAnd": "bitwise_and",
    "BitwiseNot": "bitwise_not",
    "BitwiseOr": "bitwise_or",
    "BitwiseXor": "bitwise_xor",
    "Ceil": "ceil",
    "Celu": "celu",
    "Clip": "clip",
    "Cos": "cos",
    "Cosh": "cosh",
    "Div": "div",
    "Elu": "elu",
    "Equal": "eq",
    "Erf": "erf",
    "Exp": "exp",
    "FastGelu": "gelu",
    "Floor": "floor",
    "Gelu": "gelu",
    "Greater": "gt",
    "GreaterOrEqual": "ge",
    "HardSigmoid": "hardsigmoid",
    "HardSwish": "hardswish",
    "Identity": "identity",
    "IsInf": "isinf",
    "IsNaN": "isnan",
    "LeakyRelu": "leaky_relu",
    "Less": "lt",
    "LessOrEqual": "le",
    "Log": "log",
    "Max": "max",
    "Mean": "mean",
    "Min": "min",
    "Mish": "mish",
    "Mod": "mod",
    "Mul": "mul",
    "Neg": "neg",
    "Not": "not",
    "Or": "or",
    "PRelu": "prelu",
    "Pow": "pow",
    "QuickGelu": "gelu",
    "Reciprocal": "reciprocal",
    "Relu": "relu",
    "Round": "round",
    "Selu": "selu",
    "Shrink": "shrink",
    "Sigmoid": "sigmoid",
    "Sign": "sign",
    "Sin": "sin",
    "Sinh": "sinh",
    "Softplus": "softplus",
    "Softsign": "softsign",
    "Sqrt": "sqrt",
    "Sub": "sub",
    "Sum": "sum",
    "Swish": "silu",
    "Tan": "tan",
    "Tanh": "tanh",
    "ThresholdedRelu": "threshold",
    "Where": "where",
    "Xor": "xor",
}
_REDUCTIONS = {
    "ReduceL1": "l1",
    "ReduceL2": "l2",
    "ReduceLogSum": "sum",
    "ReduceLogSumExp": "logsumexp",
    "ReduceMax": "max",
    "ReduceMean": "mean",
    "ReduceMin": "min",
    "ReduceProd": "prod",
    "ReduceSum": "sum",
    "ReduceSumSquare": "sumsq",
    "ArgMax": "argmax",
    "ArgMin": "argmin",
}


@lowers(*_ELEMENTWISE)
def elementwise(view: View) -> Lowered:
    """Operators that work index by index with numpy broadcasting."""
    return Lowered("elementwise", view.slots, {"fn": _ELEMENTWISE[view.op]})


@lowers("Cast")
def cast(view: View) -> Lowered:
    """A cast; to the type the input has already, a no-op."""
    fact = view.fact(0)
    same = fact is not None and fact.elem_type == view.attr("to")
    return Lowered("elementwise", (0,), {"fn": "identity" if same else "cast"})


@lowers("CastLike")
def cast_like(view: View) -> Lowered:
    """A cast to the type of another value, whose elements are not read."""
    return Lowered("elementwise", (0,), {"fn": "cast"})


@lowers("Dropout")
def dropout(view: View) -> Lowered | None:
    """A no-op at inference; in training mode a random factor for each element."""
    training = view.param("training_mode")
    fn = "random_dropout" if training is not None and training.any() else "dropout"
    return Lowered("elementwise", (0,), {"fn": fn}, outputs=2 if view.produced > 1 else 1)


@lowers("Gemm", "FusedGemm")
def gemm(view: View) -> Lowered:
    """A matrix product with bias."""
    flags = {"trans_a": bool(view.attr("transA", 0)), "trans_b": bool(view.attr("transB", 0))}
    return Lowered("matmul", (0, 1, 2), {**flags, "beta": float(view.attr("beta", 1.0))})


@lowers("MatMul", "FusedMatMul", "TransposeMatMul", "FusedMatMulActivation")
def matmul(view: View) -> Lowered | None:
    """A numpy matrix product."""
    if view.attr("transBatchA") or view.attr("transBatchB"):
        return None
    trans = {"trans_a": bool(view.attr("transA", 0)), "trans_b": bool(view.attr("transB", 0))}
    a, b = view.shape(0), view.shape(1)
    if a[-2 if trans["trans_a"] else -1] != b[0 if len(b) == 1 else -1 if trans["trans_b"] else -2]:
        return None
    return Lowered("matmul", (0, 1), trans)


@lowers("Einsum")
def einsum(view: View) -> Lowered:
    """An einsum with its ellipsis spelled out and its result made explicit."""
    equation = view.attr("equation", "").replace(" ", "")
    return Lowered("einsum", view.slots, {"equation": explicit_equation(equation, [view.rank(i) for i in view.slots])})


def explicit_equation(equation: str, ranks: list[int]) -> str:
    """Expand `...` for operands of these ranks and add `->` with numpy's implicit result."""
    left, arrow, right = equation.partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        raise UnlowerableError
    free = [c for c in "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz" if c not in equation]
    widths = [rank - len(t.replace("...", "")) if "..." in t else 0 for t, rank in zip(terms, ranks, strict=True)]
    letters = "".join(free[: max(widths, default=0)])
    spelled = [t.replace("...", letters[len(letters) - w :]) for t, w in zip(terms, widths, strict=True)]
    if any(len(t) != rank for t, rank in zip(spelled, ranks, strict=True)):
        raise UnlowerableError
    if not arrow:
        named = "".join(terms).replace(".", "")
        right = "..." * ("..." in left) + "".join(sorted(c for c in set(named) if named.count(c) == 1))
    return ",".join(spelled) + "->" + right.replace("...", letters)


@lowers(*_REDUCTIONS)
def reduce(view: View) -> Lowered:
    """Reductions, their axes resolved."""
    keepdims = bool(view.attr("keepdims", 1))
    if view.op.startswith("Arg"):
        axes: list[int] | None = [int(view.attr("axis", 0))]
    else:
        axes = view.ints("axes")
        if not axes and view.attr("noop_with_empty_axes"):
            return Lowered("elementwise", (0,), {"fn": "reduce_nothing"})
    rank = view.rank()
    resolved = tuple(sorted(view.axis(a) for a in axes)) if axes else tuple(range(rank))
    return Lowered("reduce", (0,), {"fn": _REDUCTIONS[view.op], "axes": resolved, "keepdims": keepdims})


@lowers("LSTM", "GRU", "RNN")
def recurrent(view: View) -> Lowered:
    """One recurrent layer, with its weights stacked by direction."""
    order = ["x", "W", "R", "B", "lengths", "h0", "c0", "P"]
    attrs = {
        "cell": view.op.removeprefix("DynamicQuantize").lower(),
        "hidden": int(view.attr("hidden_size") or view.shape(2)[-1]),
        "layers": 1,
        "directions": 2 if view.attr("direction", "forward") == "bidirectional" else 1,
        "batch_first": bool(view.attr("layout", 0)),
        "proj": 0,
        "onnx": True,
    }
    slots = tuple(range(8 if attrs["cell"] == "lstm" else 6))
    attrs["order"] = order[: len(slots)]
    return Lowered("recurrent", slots, attrs, outputs=3)
