"""Lowerings: mixtures of experts that onnxruntime computes as one operator."""

from __future__ import annotations

from .registry import Lowered, UnlowerableError, View, lowers
from .sketch import Operand, Sketch

_ACTIVATIONS = frozenset({"relu", "gelu", "silu", "identity"})


@lowers("MoE")
def mixture(view: View) -> Lowered | None:
    """The k best experts for each token, their two (or, gated, three) layers, and the sum weighted by their shares.

    Weights are `[experts, rows, columns]`. Halves interleaved in one weight (swiglu) are left unknown.
    """
    if str(view.attr("activation_type", "relu")) not in _ACTIVATIONS or int(view.attr("use_sparse_mixer", 0)):
        return None
    sketch = Sketch(view)
    x, scores = sketch.given(0), sketch.given(1)
    tokens, width = scores.shape[0], x.shape[-1]
    share, chosen = _best(sketch, scores, int(view.attr("k", 1)))
    rows = x if x.rank == 2 else sketch.reshape(x, (tokens, width), "rows")
    inside = _layer(sketch, rows, chosen, 2, "th")
    if view.has(6):
        gate = _layer(sketch, rows, chosen, 6, "th")
        inside = sketch.step("elementwise", [inside, gate], inside.shape, "gated", fn="mul")
    made = _layer(sketch, inside, chosen, 4, "tkh")
    if made.shape[-1] != width:
        raise UnlowerableError
    mixed = sketch.step("einsum", [made, share], (tokens, width), "mixed", equation="tkh,tk->th")
    whole = mixed if x.rank == 2 else sketch.reshape(mixed, x.shape, "whole")
    sketch.step("elementwise", [whole, x], x.shape, "", 0, fn="of one width")  # the kernel asks for the width of x
    return sketch.lowered()


def _best(sketch: Sketch, scores: Operand, count: int) -> tuple[Operand, Operand]:
    """The shares of the best experts for each token, and which they are."""
    if scores.rank != 2 or not 0 < count <= scores.shape[1]:
        raise UnlowerableError
    shares = sketch.step("softmax", [scores], scores.shape, "shares", axis=1)
    return sketch.top(shares, count, 1)


def _layer(sketch: Sketch, x: Operand, chosen: Operand, slot: int, axes: str) -> Operand:
    """The layer of the chosen experts whose weight is in this slot, its bias in the next; `axes` are those of x."""
    weight, bias = sketch.given(slot), sketch.input(slot + 1)
    if weight.rank != 3 or weight.shape[2] != x.shape[-1] or (bias is not None and bias.shape != weight.shape[:2]):
        raise UnlowerableError
    name, sizes = f"layer{slot}", (*chosen.shape, weight.shape[1])
    own = sketch.step(
        "gather", [weight, chosen], (*chosen.shape, *weight.shape[1:]), f"{name}.own", axis=0, indices=None
    )
    made = sketch.step("einsum", [x, own], sizes, name, equation=f"{axes},tkih->tki")
    if bias is None:
        return made
    shift = sketch.step("gather", [bias, chosen], sizes, f"{name}.bias", axis=0, indices=None)
    return sketch.add([made, shift], f"{name}.sum")
