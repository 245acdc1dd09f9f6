"""Lowerings of normalisations and softmax."""

from __future__ import annotations

import torch

from .registry import Call, Spec, lowers


@lowers("batch_norm", "native_batch_norm", "_native_batch_norm_legit_no_training", "cudnn_batch_norm")
def batch_norm(call: Call) -> Spec:
    """Scale, bias and running statistics are all optional."""
    inputs = ("input", "weight", "bias", "running_mean", "running_var")
    return Spec("batch_norm", inputs, {"epsilon": call["eps"], "training": bool(call.get("training", False))})


@lowers("layer_norm", "native_layer_norm")
def layer_norm(call: Call) -> Spec:
    """Statistics over as many last axes as `normalized_shape` has entries."""
    return _layer_norm(call, rms=False, epsilon=call["eps"])


@lowers("rms_norm", "_fused_rms_norm")
def rms_norm(call: Call) -> Spec:
    """The default epsilon is the machine epsilon of the data's type."""
    epsilon = call["eps"]
    return _layer_norm(call, rms=True, epsilon=torch.finfo(call.dtype("input")).eps if epsilon is None else epsilon)


def _layer_norm(call: Call, *, rms: bool, epsilon: float) -> Spec:
    rank = call.rank("input")
    axes = list(range(rank - len(call["normalized_shape"]), rank))
    inputs = ("input", "weight") if rms else ("input", "weight", "bias")
    return Spec("layer_norm", inputs, {"axes": axes, "rms": rms, "epsilon": epsilon})


@lowers("group_norm")
def group_norm(call: Call) -> Spec:
    """Channels on axis 1."""
    return Spec("group_norm", ("input", "weight", "bias"), {"groups": call["num_groups"], "epsilon": call["eps"]})


@lowers("instance_norm")
def instance_norm(call: Call) -> Spec:
    """Running statistics are read only where `use_input_stats` is off: then it is a batch norm."""
    if not call["use_input_stats"]:
        return Spec("batch_norm", ("input", "weight", "bias", "running_mean", "running_var"), {"epsilon": call["eps"]})
    inputs = ("input", "weight", "bias", "running_mean", "running_var")
    return Spec("instance_norm", inputs, {"epsilon": call["eps"]})


@lowers("softmax", "log_softmax", "_softmax", "_log_softmax", "_safe_softmax")
def softmax(call: Call) -> Spec:
    """One axis."""
    return Spec("softmax", ("self",), {"axis": call.axis("self", call["dim"])})
