"""The caller's own class where its sizes are held in places of all kinds; and why, in words, where it will not do."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as nf
from torch import nn

import graphprune as gp


def half(module: nn.Module, *inputs: torch.Tensor) -> Any:
    """Pruned to half of the channels, and proven."""
    torch.manual_seed(0)
    return gp.prune(module, inputs, target="channels=0.5")


def comes_back(module: nn.Module, *inputs: torch.Tensor) -> Any:
    """The same in its own class, which runs in both modes and gives what has the original's shapes."""
    result = half(module, *inputs)
    assert result.report.output_form == "own class", result.report.output_reason
    assert type(result.model) is type(module)
    for training in (False, True):
        expected, got = module.train(training)(*inputs), result.model.train(training)(*inputs)
        assert shapes(got) == shapes(expected)
    return result


def shapes(outputs: Any) -> list[tuple[int, ...]]:
    return [tuple(t.shape) for t in torch.utils._pytree.tree_leaves(outputs)]


class Down(nn.Module):
    """A module that owns no tensor and checks the sizes that pass."""

    def __init__(self, ins: int, outs: int) -> None:
        super().__init__()
        self.channels, self.out_channels = ins, outs
        self.conv = nn.Conv2d(ins, outs, 3, stride=2, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        assert x.shape[1] == self.channels
        x = self.conv(x)
        assert x.shape[1] == self.out_channels
        return x


class Encoder(nn.Module):
    """Several of them, of equal sizes before and of unequal ones after pruning."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 16, 3, padding=1)
        self.downs = nn.ModuleList([Down(16, 16), Down(16, 32), Down(32, 16)])
        self.last = nn.Conv2d(16, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x)
        for down in self.downs:
            x = nf.silu(down(x))
        return self.last(x)


def test_sizes_that_a_parent_checks() -> None:
    result = comes_back(Encoder(), torch.randn(2, 3, 16, 16))
    assert [(d.channels, d.out_channels) for d in result.model.downs] == [(8, 8), (8, 16), (16, 8)]


def test_sizes_that_a_parent_checks_where_they_go_apart() -> None:
    torch.manual_seed(0)
    module, overrides = Encoder(), {"first.weight[0]": 0.25, "downs.1.conv.weight[0]": 0.75}
    result = gp.prune(module, torch.randn(2, 3, 16, 16), target="channels=0.5", overrides=overrides)
    assert result.report.output_form == "own class", result.report.output_reason
    assert [(d.channels, d.out_channels) for d in result.model.downs] == [(4, 8), (8, 24), (24, 8)]


class Translator(nn.Module):
    """`nn.Transformer` keeps its width itself, and checks it."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Linear(5, 16), nn.Linear(16, 3)
        self.body = nn.Transformer(16, 4, 1, 1, 32, batch_first=True)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(self.embed(x), self.embed(y)))


def test_the_width_of_a_transformer() -> None:
    result = comes_back(Translator(), torch.randn(2, 4, 5), torch.randn(2, 3, 5))
    assert result.model.body.d_model == 8


class Rearrange(nn.Module):
    """As layers of einops are: sizes by the letters of a pattern, in a dict and in pairs, copied by building anew."""

    def __init__(self, pattern: str, **sizes: int) -> None:
        super().__init__()
        self.pattern, self.sizes = pattern, sizes
        self._pairs = tuple(sizes.items())

    def __getstate__(self) -> dict[str, Any]:
        return {"pattern": self.pattern, "sizes": self.sizes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["pattern"], **state["sizes"])  # type: ignore[misc]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.pattern == "b n (h d) -> b h n d":
            return x.unflatten(-1, (dict(self._pairs)["h"], -1)).transpose(1, 2)
        return x.transpose(1, 2).flatten(2)


class Attention(nn.Module):
    """Attention whose number of heads only such a layer knows."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(16, 96, bias=False), nn.Linear(32, 16)
        self.split = Rearrange("b n (h d) -> b h n d", h=4)
        self.merge = Rearrange("b h n d -> b n (h d)")

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (self.split(t) for t in self.qkv(x).chunk(3, -1))
        return x + self.out(self.merge((q @ k.transpose(-1, -2) / 8**0.5).softmax(-1) @ v))


def test_heads_in_layers_of_einops() -> None:
    module = nn.Sequential(nn.Linear(5, 16), Attention(), Attention(), nn.Linear(16, 3)).eval()
    result = comes_back(module, torch.randn(2, 6, 5))
    assert [result.model[at].split._pairs for at in (1, 2)] == [(("h", 2),)] * 2
    assert not result.model[1].split.training or result.model.training


class Literal(nn.Module):
    """The number of heads stands in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out = nn.Linear(8, 48), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, 4, -1).permute(2, 0, 3, 1, 4)
        return self.out(nf.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Checks(nn.Module):
    """A number in a check."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.a(x))
        assert h.shape[1] == 16
        return self.b(h)


@pytest.mark.parametrize(
    ("module", "shape", "why"),
    [
        (Literal(), (2, 5, 8), r"Literal writes sizes into its code: `q, k, v = self.qkv.* gives \[2, 5, 3, 4, 2\], "),
        (Checks(), (4, 6), r"Checks stops at `assert h.shape\[1\] == 16` \(line \d+ of test_torch_own_class.py\): "),
        (nn.Sequential(Checks(), nn.Linear(3, 2)), (4, 6), r"does not do: Checks \(0\) stops at `assert"),
    ],
)
def test_the_cause_in_words(module: nn.Module, shape: tuple[int, ...], why: str) -> None:
    report = half(module, torch.randn(shape)).report
    assert report.output_form == "fx GraphModule"
    assert re.search(why, report.output_reason), report.output_reason
