"""`keep_class`: less is pruned where sizes stand in the code of the caller's class."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as nf
from torch import nn

import graphprune as gp


class Literal(nn.Module):
    """The number of heads stands in the code, their width does not."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out, self.scale = nn.Linear(8, 48), nn.Linear(16, 3), 0.5

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, 4, -1).permute(2, 0, 3, 1, 4)
        return self.out(((q @ k.mT * self.scale).softmax(-1) @ v).transpose(1, 2).flatten(2))


class LiteralHeads(Literal):
    """The same with queries, keys and values split one by one."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = (t.unflatten(-1, (4, -1)).transpose(1, 2) for t in self.qkv(x).chunk(3, -1))
        return self.out(((q @ k.mT * self.scale).softmax(-1) @ v).transpose(1, 2).flatten(2))


class LiteralDefault(Literal):
    """The scale follows the width of a head, as is the default: queries make up for it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, 4, -1).permute(2, 0, 3, 1, 4)
        return self.out(nf.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class LiteralDivided(Literal):
    """The same by a division."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(x).view(*x.shape[:2], 3, 4, -1).permute(2, 0, 3, 1, 4)
        return self.out(((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v).transpose(1, 2).flatten(2))


def kept(module: nn.Module, x: torch.Tensor, **options: Any) -> Any:
    torch.manual_seed(0)
    result = gp.prune(module, x, target="channels=0.5", keep_class=True, **options)
    assert type(result.model) is type(module), result.report.output_reason
    assert result.model(x).shape == module(x).shape
    return result


@pytest.mark.parametrize("make", [Literal, LiteralHeads, LiteralDefault, LiteralDivided])
def test_heads_lose_width_where_their_number_is_written(make: Any, tmp_path: Path) -> None:
    module, x = make().eval(), torch.randn(2, 5, 8)
    result = kept(module, x)
    assert result.model.qkv.out_features == 24 and result.model.out.in_features == 8
    assert any(
        note.startswith("to keep the class, heads lose width instead of going whole") for note in result.report.notes
    )
    result.plan.save(tmp_path / "plan.json")
    again = gp.apply(gp.capture(module, x), gp.Plan.load(tmp_path / "plan.json"))
    assert gp.verify(gp.capture(module, x), again, gp.Plan.load(tmp_path / "plan.json")).passed
    torch.testing.assert_close(gp.emit(again)(x), result.model(x))


def test_whole_heads_go_where_nobody_asks() -> None:
    result = gp.prune(Literal().eval(), torch.randn(2, 5, 8), target="channels=0.5")
    assert result.report.output_form == "fx GraphModule" and result.plan.inner == ()


class Decoder(nn.Module):
    """Both factors of a reshape stand in the code."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(6, 16 * 4)
        self.body = nn.Sequential(nn.Conv2d(16, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU())
        self.last = nn.Conv2d(8, 3, 1)

    def forward(self, z: torch.Tensor) -> torch.Tensor:
        return self.last(self.body(self.first(z).view(-1, 16, 2, 2)))


def test_what_is_written_stays_and_the_rest_goes() -> None:
    result = kept(Decoder().eval(), torch.randn(5, 6))
    assert [m.out_channels for m in result.model.body if isinstance(m, nn.Conv2d)] == [4, 4]
    assert result.model.first.out_features == 64
    assert "to keep the class, first.weight[0] stay whole, whose sizes stand in the code" in result.report.notes


class Checked(nn.Module):
    """A class that cannot hold anything."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 16), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = torch.relu(self.a(x)).view(x.shape[0], 16)
        return self.b(h)


def test_nothing_is_held_where_that_leaves_nothing() -> None:
    result = gp.prune(Checked(), torch.randn(4, 6), target="channels=0.5", keep_class=True)
    assert result.report.output_form == "fx GraphModule" and result.model(torch.randn(4, 6)).shape == (4, 3)
    with pytest.raises(gp.errors.OwnClassError, match=r"cannot keep its own class: .*view\(x.shape\[0\], 16\)"):
        gp.prune(Checked(), torch.randn(4, 6), target="channels=0.5", keep_class=True, own_class="require")
