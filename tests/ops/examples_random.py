"""Worked examples: operators that draw random numbers, which the original and the result must draw alike."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

from .examples_onnx import model, node, normal
from .registry import Net, example, parameter


def _net(call: Any) -> Any:
    net = Net(lambda m, x: m.b(torch.relu(call(m.a(x)))), a=nn.Linear(5, 8), b=nn.Linear(8, 3))
    return net, torch.randn(4, 5)


@example("8 exact: a.weight[0] a.bias[0] b.weight[1]")
def noise_like_the_data() -> Any:
    """It goes where the data goes."""
    return _net(lambda h: h + torch.randn_like(h) * torch.bernoulli(torch.sigmoid(h)) + torch.poisson(h.exp()))


@example("8 exact: a.weight[0] a.bias[0] b.weight[1]")
def noise_of_a_size_that_is_written_down() -> Any:
    """The size follows."""
    return _net(lambda h: h + torch.randn(1, 8) * torch.randint(1, 4, (8,)) + torch.normal(0.0, 1.0, (4, 8)))


@example("8 exact: a.weight[0] a.bias[0] constant_empty_like[1] constant_zeros_like[1] b.weight[1]")
def noise_written_in_place() -> Any:
    """Exponential, uniform and normal numbers in tensors made for them, and a coin for each sample."""

    def call(h: torch.Tensor) -> torch.Tensor:
        kept = h.new_empty((4, 1)).bernoulli_(0.6)
        return h * kept + torch.empty_like(h).exponential_() + torch.zeros_like(h).uniform_(-1, 1).normal_()

    return _net(call)


@example("8 exact: a.weight[0] a.bias[0] b.weight[1]")
def dropout_always() -> Any:
    """Dropout that is on at inference too, of single numbers and of whole channels."""
    return _net(
        lambda h: F.alpha_dropout(F.dropout1d(F.dropout(h, 0.3, True).unsqueeze(-1), 0.3, True), 0.2, True)[..., 0]
    )


@example(
    """
    2 of 4 exact: q.weight[0] q.bias[0] k.weight[0] k.bias[0] v.weight[0] v.bias[0] out.weight[1]
    """
)
def attention_with_dropout() -> Any:
    """Each head drops weights of its own."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (p(x).unflatten(-1, (2, 4)).transpose(1, 2) for p in (m.q, m.k, m.v))
        y = F.scaled_dot_product_attention(q, k, v, dropout_p=0.3)
        return m.out(y.transpose(1, 2).flatten(2))

    parts = {name: nn.Linear(6, 8) for name in ("q", "k", "v")}
    return Net(call, out=nn.Linear(8, 2), **parts), torch.randn(2, 5, 6)


@example(
    """
    8 renormalizing: a.weight[0] a.bias[0] constant_empty_like[1] constant_empty_like_1[1] constant_zeros_like[1]
    + b.weight[1]
    """
)
def gumbel_softmax_over_channels() -> Any:
    """Weights picked by chance: soft, and as a one-hot."""
    return _net(lambda h: h * F.gumbel_softmax(h) + F.gumbel_softmax(h, hard=True))


@example(
    """
    8 renormalizing: gate.weight[0] gate.bias[0] codes[0]
    6 exact: codes[1] out.weight[1]
    """
)
def picked_by_chance() -> Any:
    """Rows of a codebook are picked by chance: they go with what their chances are computed by."""

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        ids = torch.multinomial(m.gate(x).softmax(-1), 2)
        return m.out(m.codes[ids].sum(1))

    return Net(call, gate=nn.Linear(5, 8), codes=parameter(8, 6), out=nn.Linear(6, 3)), torch.randn(4, 5)


@example("8 exact: a.weight[0] a.bias[0] b.weight[1]")
def shuffled_samples() -> Any:
    """Samples in an order of chance; channels pass."""
    return _net(lambda h: h + 0.5 * h[torch.randperm(4)])


def _onnx(middle: list[Any], **weights: Any) -> Any:
    """From `h` to `g`, eight wide."""
    nodes = [node("Gemm", "x a ab", "i", transB=1), node("Relu", "i", "h"), *middle]
    nodes += [node("Relu", "g", "r"), node("Gemm", "r b bb", "y", transB=1)]
    own = {"a": normal(8, 5), "ab": normal(8), "b": normal(3, 8), "bb": normal(3)}
    return model(nodes, {**own, **weights}, [4, 5], [4, 3])


@example("8 exact: a[0] ab[0] b[1]")
def onnx_noise() -> Any:
    """Like the data, and of a shape that is written down."""
    return _onnx(
        [
            node("RandomNormalLike", "h", "n"),
            node("Mul", "h n", "p"),
            node("RandomUniform", "", "u", shape=[1, 8], low=-1.0),
            node("Add", "p u", "g"),
        ]
    )


@example("8 exact: a[0] ab[0] b[1]")
def onnx_coins_and_dropout() -> Any:
    """Dropout in training mode drops at inference, too; somebody reads what it dropped."""
    return _onnx(
        [
            node("Sigmoid", "h", "p"),
            node("Bernoulli", "p", "coin"),
            node("Mul", "h coin", "m"),
            node("Dropout", "m ratio on", "d left"),
            node("Cast", "left", "l", to=1),
            node("Add", "d l", "g"),
        ],
        ratio=np.array(0.3, np.float32),
        on=np.array(True),
    )


@example("8 renormalizing: a[0] ab[0] b[1]")
def onnx_picked_by_chance() -> Any:
    """Positions among the channels, by chance; what is looked up there joins."""
    return _onnx(
        [
            node("Multinomial", "h", "ids", sample_size=2, dtype=7),
            node("GatherElements", "h ids", "found", axis=1),
            node("ReduceSum", "found axes", "s"),
            node("Add", "h s", "g"),
        ],
        axes=[1],
    )
