"""Worked examples: complex numbers, as transforms and rotations make them."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from .registry import Net, conv, example, image, parameter


@example(
    """
    4 of 2 exact: a.weight[0] a.bias[0] out.weight[1]
    """
)
def rotary_embedding_by_complex_numbers() -> Any:
    """Pairs of a head as complex numbers, times the positions' angles: whole heads pass."""

    def forward(m: Net, x: torch.Tensor) -> torch.Tensor:
        pairs = torch.view_as_complex(m.a(x).unflatten(-1, (4, -1, 2)))
        turned = pairs * torch.polar(torch.ones(5), torch.arange(5.0)).view(1, 5, 1, 1)
        return m.out(torch.view_as_real(turned).flatten(2))

    return Net(forward, a=nn.Linear(3, 8), out=nn.Linear(8, 2)), torch.randn(1, 5, 3)


@example(
    """
    6 exact: a.weight[0] a.bias[0] w[0] out.weight[1]
    """
)
def global_filter() -> Any:
    """A transform along both positions and learned frequencies for each channel, real and imaginary side by side."""

    def forward(m: Net, x: torch.Tensor) -> torch.Tensor:
        spectrum = torch.fft.rfft2(m.a(x)) * torch.view_as_complex(m.w)
        return m.out(torch.fft.irfft2(spectrum, s=x.shape[2:]))

    return Net(forward, a=conv(3, 6), w=parameter(6, 6, 4, 2), out=conv(6, 2)), image()


@example(
    """
    6 exact: a.weight[0] a.bias[0] b.weight[0] b.bias[0] out.weight[1]
    """
)
def complex_numbers_of_two_layers() -> Any:
    """Real and imaginary parts that two layers make, conjugated and looked at in all ways."""

    def forward(m: Net, x: torch.Tensor) -> torch.Tensor:
        z = torch.complex(m.a(x), m.b(x))
        turned = z.conj() * torch.polar(z.abs() + 1, m.b(x))
        return m.out(torch.view_as_real(turned.conj().resolve_conj()).sum(-1) + turned.imag + z.conj_physical().real)

    return Net(forward, a=conv(3, 6), b=conv(3, 6), out=conv(6, 2)), image()
