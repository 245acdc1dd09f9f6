"""Raisings of fused operators: head counts, hidden sizes and group counts follow what is kept inside them."""

from __future__ import annotations

from math import isclose, sqrt
from typing import Any

from graphprune.ir.graph import Value
from graphprune.ops.fused import value_inside

from ..protos import attributes
from .raising import Draft, raises


def _inside(draft: Draft, name: str) -> Value:
    return value_inside(draft.node, name)


def _of_step(draft: Draft, kind: str, name: str) -> Any:
    """An attribute of the first step of a kind."""
    return next(step.attrs[name] for step in draft.attrs["steps"] if step.kind == kind)


@raises("Attention", "QAttention", "MultiHeadAttention", "GroupQueryAttention")
def attention(draft: Draft) -> None:
    """Heads, where the operator names them, the widths of packed projections, and the scale that the width implied."""
    if draft.node.kind != "fused":
        return
    given = attributes(draft.original)
    scale, width = float(_of_step(draft, "attention", "scale")), _inside(draft, "keys").sizes[-1]
    if not given.get("scale") and not isclose(scale, 1 / sqrt(width)):
        draft.set("scale", scale)
    heads, own = _inside(draft, "attended").sizes[1], _inside(draft, "keys").sizes[1]
    for name, count in zip(("num_heads", "q_num_heads", "kv_num_heads"), (heads, heads, own), strict=True):
        if given.get(name):
            draft.set(name, count)
    if draft.op in ("Attention", "QAttention") and draft.original.domain == "com.microsoft":
        sizes = [_inside(draft, f"piece{i}").sizes[-1] for i in range(3)]
        if given.get("qkv_hidden_sizes") or len(set(sizes)) > 1:
            draft.set("qkv_hidden_sizes", sizes)


@raises("RotaryEmbedding")
def rotary(draft: Draft) -> None:
    """Heads, where the operator names them."""
    if attributes(draft.original).get("num_heads"):
        draft.set("num_heads", draft.x.sizes[1] if draft.x.rank == 4 else _inside(draft, "apart").sizes[1])


@raises("FusedConv", "NhwcConv", "NhwcFusedConv", "QLinearConv")
def conv(draft: Draft) -> None:
    """Groups."""
    if draft.node.kind == "fused":
        draft.set("group", int(_of_step(draft, "conv", "groups")))


@raises("GroupNorm", "SkipGroupNorm")
def group_norm(draft: Draft) -> None:
    """Groups."""
    draft.set("groups", int(_of_step(draft, "group_norm", "groups")))


@raises("MatMulNBits", always=True)
def small_matmul(draft: Draft) -> None:
    """The sizes of the weight."""
    weight = draft.node.inputs[1] if draft.node.kind == "matmul" else None
    if weight is not None:
        rows, depth = weight.sizes
        draft.set("N", rows)
        draft.set("K", depth)
