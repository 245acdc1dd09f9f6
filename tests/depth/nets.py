"""Small networks with something to take out of their depth."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as nf
from torch import Tensor, nn

from tests.ops.registry import Net, conv, parameter

WIDTH = 8


class Bottleneck(nn.Module):
    """A residual block as in ResNet; `project` puts a convolution on the shortcut."""

    def __init__(self, project: bool = False) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(WIDTH, 4, 3, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.bn2 = conv(4, WIDTH, 3, bias=False), nn.BatchNorm2d(WIDTH)
        self.relu = nn.ReLU(inplace=True)
        self.down = conv(WIDTH, WIDTH) if project else None

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn2(self.conv2(self.relu(self.bn1(self.conv1(x)))))
        y += x if self.down is None else self.down(x)
        return self.relu(y)


class Layer(nn.Module):
    """A transformer layer: `form` is "pre", "post" (norms after the additions) or "parallel" (attention beside MLP)."""

    def __init__(self, form: str, index: int = 0) -> None:
        super().__init__()
        self.form, self.index = form, index
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 12), nn.Linear(12, WIDTH)
        self.norm1 = nn.LayerNorm(WIDTH)
        self.norm2 = nn.LayerNorm(WIDTH) if form != "parallel" else nn.Identity()
        self.drop = nn.Dropout(0.1)

    def attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        q, k, v = (t.unflatten(-1, (2, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        y = nf.scaled_dot_product_attention(q, k, v, mask)
        return self.drop(self.out(y.transpose(1, 2).flatten(2)))

    def mlp(self, x: Tensor) -> Tensor:
        return self.drop(self.down(nf.gelu(self.up(x))))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.form == "post":
            x = self.norm1(x + self.attend(x, mask))
            return self.norm2(x + self.mlp(x))
        if self.form == "parallel":
            y = self.norm1(x)
            return self.attend(y, mask) + self.mlp(y) + x
        x = x + self.attend(self.norm1(x), mask)
        return x + self.mlp(self.norm2(x))


class Config:
    """What a language model's configuration looks like."""

    def __init__(self, layers: int) -> None:
        self.num_hidden_layers, self.num_heads, self.layer_types = layers, layers, ["full"] * layers


class Tower(nn.Module):
    """An embedding, layers and a head; `taps` also returns what goes into each layer."""

    def __init__(self, form: str, layers: int = 3, taps: bool = False) -> None:
        super().__init__()
        self.config = Config(layers)
        self.embed = nn.Linear(5, WIDTH)
        self.layers = nn.ModuleList(Layer(form, i) for i in range(layers))
        self.head, self.taps = nn.Linear(WIDTH, 3), taps

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Any:
        x, seen = self.embed(x), []
        for layer in self.layers:
            seen.append(x)
            x = layer(x, mask)
        return (self.head(x), *seen) if self.taps else self.head(x)


def resnet() -> tuple[nn.Module, Tensor]:
    """A projected block, two identical ones and a head."""
    blocks = nn.Sequential(Bottleneck(project=True), Bottleneck(), Bottleneck())

    def call(net: Any, x: Tensor) -> Tensor:
        return net.head(net.blocks(net.stem(x)).mean((2, 3)))

    return Net(call, stem=conv(3, WIDTH), blocks=blocks, head=nn.Linear(WIDTH, 3)), torch.randn(2, 3, 6, 6)


def tower(form: str, **options: Any) -> tuple[nn.Module, Tensor]:
    return Tower(form, **options), torch.randn(2, 4, 5)


def scaled() -> tuple[nn.Module, Tensor]:
    """Layer scale, and a shortcut that is a number times the input."""

    def call(net: Any, x: Tensor) -> Tensor:
        x = net.stem(x)
        return net.head(1.5 * x + net.gamma * net.b(torch.tanh(net.a(x))))

    parts = {
        "stem": nn.Linear(5, WIDTH),
        "a": nn.Linear(WIDTH, 6),
        "b": nn.Linear(6, WIDTH),
        "head": nn.Linear(WIDTH, 3),
    }
    return Net(call, gamma=parameter(WIDTH), **parts), torch.randn(2, 5)


def crossed() -> tuple[nn.Module, tuple[Tensor, Tensor]]:
    """Branches that also read a memory which stays; without the last one, nobody would read it."""

    def call(net: Any, x: Tensor, m: Tensor) -> Tensor:
        memory = torch.tanh(net.memory(m))
        for layer in net.layers:
            x = x + layer(torch.cat([x, memory], -1))
        return net.head(x)

    layers = nn.ModuleList(nn.Linear(2 * WIDTH, WIDTH) for _ in range(2))
    net = Net(call, memory=nn.Linear(WIDTH, WIDTH), layers=layers, head=nn.Linear(WIDTH, 3))
    return net, (torch.randn(2, WIDTH), torch.randn(2, WIDTH))


def plain() -> tuple[nn.Module, Tensor]:
    """Layers without shortcuts."""
    layers = [part for _ in range(3) for part in (nn.Linear(WIDTH, WIDTH), nn.Tanh())]
    return nn.Sequential(nn.Linear(5, WIDTH), *layers, nn.Linear(WIDTH, 3)), torch.randn(2, 5)


def unfit() -> tuple[nn.Module, Tensor]:
    """Additions of which none is residual: two convolutions, a bias, a gate read twice, a sum of another shape."""

    def call(net: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        x = net.a(x) + net.b(x) + net.bias
        y = x * (1 + torch.tanh(0.8 * (x + 0.04 * x**3)))
        gate = net.c(y)
        y = y + torch.tanh(gate)
        return y + net.d(y).mean(-1, keepdim=True), gate

    parts = {name: nn.Linear(WIDTH, WIDTH) for name in "abcd"}
    return Net(call, bias=parameter(WIDTH), **parts), torch.randn(2, WIDTH)
