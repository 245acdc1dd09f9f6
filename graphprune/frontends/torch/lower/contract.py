"""Lowerings of convolutions, matrix products, einsum, attention and recurrent layers."""

from __future__ import annotations

import string
from typing import Any

from .registry import Call, Spec, lowers


@lowers("conv1d", "conv2d", "conv3d", "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution")
def conv(call: Call) -> Spec | None:
    """Unbatched data is left unknown: the canonical kind has its channels on axis 1."""
    if call.rank("input") != call.rank("weight"):
        return None
    transposed = bool(call.get("transposed", call.name.startswith("conv_transpose")))
    attrs: dict[str, Any] = {"groups": call["groups"], "transposed": transposed, **_window(call, transposed)}
    if not transposed:
        attrs["pointwise"] = _pointwise(call)
    return Spec("conv", ("input", "weight", "bias"), attrs)


def _window(call: Call, transposed: bool) -> dict[str, Any]:
    """Where the kernel is laid: strides, dilations, and pads before and after on each axis."""
    kernel, padding = call.shape("weight")[2:], call["padding"]
    strides, dilations = (tuple(_each(call[name], len(kernel))) for name in ("stride", "dilation"))
    if padding == "same":
        total = [d * (k - 1) for d, k in zip(dilations, kernel, strict=True)]
        pads = tuple((n // 2, n - n // 2) for n in total)
    else:
        pads = tuple((n, n) for n in _each(0 if padding == "valid" else padding, len(kernel)))
    places: dict[str, Any] = {"strides": strides, "dilations": dilations, "pads": pads}
    if transposed:
        places["output_pads"] = tuple(_each(call["output_padding"], len(kernel)))
    return places


def _pointwise(call: Call) -> tuple[int, ...]:
    """The axes along which the kernel has one position and nothing is skipped or padded."""
    kernel, padding = call.shape("weight")[2:], call["padding"]
    strides, pads = (_each(n, len(kernel)) for n in (call["stride"], 0 if isinstance(padding, str) else padding))
    return tuple(i + 2 for i, sizes in enumerate(zip(kernel, strides, pads, strict=True)) if sizes == (1, 1, 0))


def _each(value: Any, count: int) -> list[int]:
    """One number for each axis, where one may stand for all."""
    given = [value] if isinstance(value, int) else list(value)
    return given * count if len(given) == 1 else given


def _matmul(*inputs: str, trans_b: bool = False) -> Spec:
    return Spec("matmul", inputs, {"trans_a": False, "trans_b": trans_b})


@lowers("linear")
def linear(call: Call) -> Spec | None:
    """The weight is stored as (out, in)."""
    return _matmul("input", "weight", "bias", trans_b=True) if call.rank("weight") == 2 else None


@lowers("matmul")
def matmul(call: Call) -> Spec:
    """numpy's rules for vectors and batches."""
    return _matmul("self", "other")


@lowers("mm", "bmm")
def mm(call: Call) -> Spec:
    """Plain and batched matrix product."""
    return _matmul("self", "mat2")


@lowers("mv")
def mv(call: Call) -> Spec:
    """Matrix times vector."""
    return _matmul("self", "vec")


@lowers("dot")
def dot(call: Call) -> Spec:
    """Vector times vector."""
    return _matmul("self", "tensor")


@lowers("addmm")
def addmm(call: Call) -> Spec:
    """`beta` and `alpha` scale bias and product and leave indices alone."""
    spec = _matmul("mat1", "mat2", "self")
    return Spec(spec.kind, spec.inputs, {**spec.attrs, "beta": float(call["beta"])})


@lowers("baddbmm")
def baddbmm(call: Call) -> Spec:
    """Batched `addmm`."""
    return _matmul("batch1", "batch2", "self")


@lowers("einsum")
def einsum(call: Call) -> Spec | None:
    """The equation with its ellipsis spelled out and its result explicit."""
    ranks = [len(t.meta["val"].shape) for t in call["tensors"]]
    equation = explicit_equation(call["equation"], ranks)
    return None if equation is None else Spec("einsum", ("tensors",), {"equation": equation})


def explicit_equation(equation: str, ranks: list[int]) -> str | None:
    """Spell out ellipses and a missing result; None where the equation does not fit the ranks."""
    left, arrow, right = equation.replace(" ", "").partition("->")
    terms = left.split(",")
    if len(terms) != len(ranks):
        return None
    spare = [c for c in string.ascii_letters if c not in equation]
    hidden = [rank - len(t.replace("...", "")) if "..." in t else 0 for t, rank in zip(terms, ranks, strict=True)]
    dots = "".join(spare[: max(hidden)])
    full = [t.replace("...", dots[len(dots) - own :]) for t, own in zip(terms, hidden, strict=True)]
    if any(len(t) != r for t, r in zip(full, ranks, strict=True)):
        return None
    if not arrow:
        letters = "".join(terms).replace(".", "")
        right = dots + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    return f"{','.join(full)}->{right.replace('...', dots)}"


@lowers("scaled_dot_product_attention")
def attention(call: Call) -> Spec:
    """The default scale is written out."""
    scale = call["scale"]
    attrs = {
        "scale": float(scale) if scale is not None else float(call.shape("query")[-1]) ** -0.5,
        "causal": call["is_causal"],
        "grouped": call["enable_gqa"],
    }
    return Spec("attention", ("query", "key", "value", "attn_mask"), attrs)


@lowers("lstm")
def lstm(call: Call) -> Spec | None:
    """States are (h0, c0)."""
    return _recurrent(call, "lstm", ["h0", "c0"])


@lowers("gru")
def gru(call: Call) -> Spec | None:
    """One state."""
    return _recurrent(call, "gru", ["h0"])


@lowers("rnn_tanh", "rnn_relu")
def rnn(call: Call) -> Spec | None:
    """One state."""
    return _recurrent(call, "rnn", ["h0"])


def _recurrent(call: Call, cell: str, states: list[str]) -> Spec | None:
    if call.target._overloadname != "input":
        return None
    directions = 2 if call["bidirectional"] else 1
    hx = call["hx"]
    state = (hx[0] if isinstance(hx, (list, tuple)) else hx).meta["val"].shape
    params = call["params"]
    hidden = params[1].meta["val"].shape[0] // {"lstm": 4, "gru": 3, "rnn": 1}[cell]
    projected = hidden != state[-1]
    parts = ["w_ih", "w_hh", *(["b_ih", "b_hh"] if call["has_biases"] else []), *(["w_hr"] if projected else [])]
    order = [f"{p}.{layer}.{d}" for layer in range(call["num_layers"]) for d in range(directions) for p in parts]
    attrs: dict[str, Any] = {
        "cell": cell,
        "hidden": hidden,
        "layers": call["num_layers"],
        "directions": directions,
        "batch_first": call["batch_first"],
        "order": ["x", *states, *order],
        "proj": state[-1] if projected else 0,
    }
    return Spec("recurrent", ("input", "hx", "params"), attrs)


@lowers("_grouped_mm", "grouped_mm_fallback")
def grouped_matmul(call: Call) -> Spec | None:
    """Rows sorted by matrix, times a matrix each (torch's, and transformers' where that has no kernel)."""
    x, weight = ("self", "mat2") if "mat2" in call else ("input", "weight")
    if not call.has("offs") or call.get("bias") is not None or (call.rank(x), call.rank(weight)) != (2, 3):
        return None
    return Spec("grouped_matmul", ("offs", x, weight))
