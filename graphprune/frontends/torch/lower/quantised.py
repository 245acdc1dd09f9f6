"""Lowerings of operators that round as integers would: models between `prepare_qat` and `convert`."""

from __future__ import annotations

from .registry import Call, Spec, lowers


@lowers(
    "fake_quantize_per_tensor_affine",
    "fake_quantize_per_tensor_affine_cachemask",
    "_fake_quantize_per_tensor_affine_cachemask_tensor_qparams",
    "_fake_quantize_learnable_per_tensor_affine",
)
def per_tensor(call: Call) -> Spec:
    """One scale and zero point for all elements."""
    return Spec("elementwise", call.tensors(), {"fn": "fake_quantize", "scalars": call.scalars()})


@lowers(
    "fake_quantize_per_channel_affine",
    "fake_quantize_per_channel_affine_cachemask",
    "_fake_quantize_learnable_per_channel_affine",
)
def per_channel(call: Call) -> Spec:
    """A scale and zero point for each index of an axis."""
    inputs = ("self", "scale", "zero_point")
    return Spec("per_channel", inputs, {"axis": call.axis("self", call["axis"])})
