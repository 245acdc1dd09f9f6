"""Worked examples: group norms written with other operators, equal counts in each group or whole groups."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.functional import instance_norm, layer_norm

from .examples_onnx import model, node, normal, positive
from .registry import Net, conv, example, image, parameter

WITHIN = "3x4 renormalizing: a.weight[0] a.bias[0] s[0] t[0] b.weight[1]"
WHOLE = "3 of 4 exact: a.weight[0] a.bias[0] s[0] t[0] b.weight[1]"
GROUPS = 3


def _between(norm: Callable[[Any, torch.Tensor], torch.Tensor], **parts: Any) -> Any:
    """Two convolutions with a norm of three groups between them that has a scale and shift for each channel."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        return m.b(torch.relu(norm(m, m.a(x)) * m.s + m.t))

    return Net(call, a=conv(3, 12), b=conv(12, 2), s=parameter(12, 1, 1), t=parameter(12, 1, 1), **parts), image()


def _by_instance(m: Any, h: torch.Tensor) -> torch.Tensor:
    return instance_norm(h.reshape(len(h), GROUPS, -1)).reshape(h.shape)


def _by_moments(m: Any, h: torch.Tensor) -> torch.Tensor:
    rows = h.unflatten(1, (GROUPS, -1))
    apart = rows - rows.mean((2, 3, 4), keepdim=True)
    return (apart * torch.rsqrt((apart**2).mean((2, 3, 4), keepdim=True) + 1e-5)).reshape(h.shape)


def _by_variance(m: Any, h: torch.Tensor) -> torch.Tensor:
    """Without the axis that was reduced, which comes back as a new one."""
    rows = h.reshape(len(h), GROUPS, -1)
    variance, mean = torch.var_mean(rows, 2, correction=0)
    return ((rows - mean[:, :, None]) / (variance[:, :, None] + 1e-5).sqrt()).reshape(h.shape)


def _by_layer_norm(m: Any, h: torch.Tensor) -> torch.Tensor:
    rows = h.reshape(len(h), GROUPS, -1)
    return layer_norm(rows, rows.shape[2:]).reshape(h.shape)


@example(WITHIN)
def group_norm_as_instance_norm() -> Any:
    return _between(_by_instance)


@example(WHOLE, grouped="whole")
def group_norm_as_instance_norm_whole() -> Any:
    return _between(_by_instance)


@example("3 of 4 exact: a.weight[0] a.bias[0] w[0] v[0] s[0] t[0] b.weight[1]", grouped="whole")
def group_norm_as_instance_norm_with_a_scale_for_each_group_whole() -> Any:
    def norm(m: Any, h: torch.Tensor) -> torch.Tensor:
        return instance_norm(h.reshape(len(h), GROUPS, -1), weight=m.w, bias=m.v).reshape(h.shape)

    return _between(norm, w=parameter(3), v=parameter(3))


@example(WITHIN)
def group_norm_as_moments() -> Any:
    return _between(_by_moments)


@example(WHOLE, grouped="whole")
def group_norm_as_moments_whole() -> Any:
    return _between(_by_moments)


@example(WITHIN)
def group_norm_as_variance() -> Any:
    return _between(_by_variance)


@example(WITHIN)
def group_norm_as_layer_norm() -> Any:
    return _between(_by_layer_norm)


@example(
    """
    3x4 renormalizing: a[0] s[0] t[0] c[1]
    3x4 exact: c[0] b[1]
    """
)
def group_norm_of_opset_17_before_a_grouped_convolution() -> Any:
    return _onnx(3)


@example("3 of 4 exact: a[0] one[0] zero[0] s[0] t[0] c[0] c[1] b[1]", grouped="whole")
def group_norm_of_opset_17_before_a_grouped_convolution_whole() -> Any:
    return _onnx(3)


@example("3 of 4 exact: a[0] one[0] zero[0] s[0] t[0] c[0] b[1]", grouped="whole")
def group_norm_of_opset_17_before_a_depthwise_convolution_whole() -> Any:
    return _onnx(12)


def _onnx(groups: int) -> Any:
    """As exporters write it before opset 18."""
    nodes = [
        node("Conv", "x a", "h"), node("Reshape", "h apart", "i"), node("InstanceNormalization", "i one zero", "j"),
        node("Reshape", "j together", "k"), node("Mul", "k s", "l"), node("Add", "l t", "m"),
        node("Conv", "m c", "n", group=groups), node("Conv", "n b", "y"),
    ]  # fmt: skip
    weights: dict[str, Any] = {
        "a": normal(12, 3, 1, 1), "apart": [0, GROUPS, -1], "one": positive(3), "zero": normal(3),
        "together": [2, 12, 5, 5], "s": positive(12, 1, 1), "t": normal(12, 1, 1),
        "c": normal(12, 12 // groups, 1, 1), "b": normal(2, 12, 1, 1),
    }  # fmt: skip
    return model(nodes, weights, [2, 3, 5, 5], [2, 2, 5, 5])


@example("6 of 2 exact: q.weight[0] q.bias[0] g[0] o.weight[1]", ratio=0.7)
def norm_of_each_head_at_each_position() -> Any:
    """No group norm: it takes no statistic over positions, and heads go whole."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        heads = m.q(x).unflatten(-1, (6, 2))
        normed = heads * torch.rsqrt(heads.pow(2).mean(-1, keepdim=True) + 1e-6)
        return m.o((normed * m.g).flatten(-2))

    return Net(call, q=nn.Linear(3, 12), o=nn.Linear(12, 2), g=parameter(6, 1)), torch.randn(2, 5, 3)
