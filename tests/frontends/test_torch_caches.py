"""Key-value caches of a module: their heads go with those of the attention."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import nn

import graphprune as gp
from graphprune.errors import InputError

PAST, HEADS, WIDTH = 4, 2, 8
Pair = tuple[torch.Tensor, torch.Tensor]


class Cached(nn.Module):
    """Four query heads on two key heads; what was is put before what is new."""

    def __init__(self) -> None:
        super().__init__()
        self.q, self.k, self.v = nn.Linear(5, 4 * WIDTH), nn.Linear(5, HEADS * WIDTH), nn.Linear(5, HEADS * WIDTH)
        self.out = nn.Linear(4 * WIDTH, 3)

    def forward(self, x: torch.Tensor, past: Pair) -> tuple[torch.Tensor, Pair]:
        q, k, v = (m(x).unflatten(-1, (-1, WIDTH)).transpose(1, 2) for m in (self.q, self.k, self.v))
        k, v = torch.cat([past[0], k], 2), torch.cat([past[1], v], 2)
        y = F.scaled_dot_product_attention(q, k, v, enable_gqa=True)
        return self.out(y.transpose(1, 2).flatten(2)), (k, v)


def pruned() -> tuple[nn.Module, Any, gp.Result]:
    torch.manual_seed(0)
    module = Cached().eval()
    inputs = (torch.randn(1, 3, 5), (torch.randn(1, HEADS, PAST, WIDTH), torch.randn(1, HEADS, PAST, WIDTH)))
    return module, inputs, gp.prune(copy.deepcopy(module), inputs, target="channels=0.5", align=1)


def test_the_heads_of_a_cache_follow() -> None:
    """Against the plain original with one key head, and the query heads on it, set to zero."""
    module, (x, past), result = pruned()
    assert any("has 1 instead of 2 indices on axis 1" in note for note in result.report.notes)
    rows = result.model.k.weight
    stays = next(h for h in range(HEADS) if torch.equal(module.k.weight[h * WIDTH : (h + 1) * WIDTH], rows))
    with torch.no_grad():
        module.out.weight.unflatten(1, (HEADS, -1))[:, 1 - stays] = 0
        expected, cache = module(x, past)
        found, new = result.model(x, tuple(t[:, [stays]] for t in past))
    torch.testing.assert_close(found, expected)
    for a, b in zip(new, cache, strict=True):
        torch.testing.assert_close(a, b[:, [stays]])


@pytest.mark.parametrize("suffix", ["onnx", "pt2"])
def test_files_have_the_small_cache(suffix: str, tmp_path: Path) -> None:
    result = pruned()[2]
    result.save(tmp_path / f"small.{suffix}")
    shapes = [v.sizes[1:] for v in gp.load(tmp_path / f"small.{suffix}").inputs]
    assert shapes == [(3, 5), (1, PAST, WIDTH), (1, PAST, WIDTH)]


class Recurrent(nn.Module):
    """Makes its first state by itself, and hands out the last for the next run."""

    def __init__(self) -> None:
        super().__init__()
        self.read, self.write = nn.Linear(5, 16), nn.Linear(16, 3)

    def forward(self, x: torch.Tensor, state: list[torch.Tensor] | None = None) -> dict[str, Any]:
        h = self.read(x) if state is None else self.read(x) + state[0]
        return {"y": self.write(h.relu()), "state": [h], "seen": [h[:, :1]]}


def test_a_state_that_the_model_makes_itself_follows() -> None:
    """One that is given is the caller's, and so is what comes out under another name than an argument's."""
    x = torch.randn(2, 5)
    module = Recurrent().eval()
    model = gp.prune(module, {"x": x}, target="channels=0.5", align=1, own_class="require").model
    first = model(x)
    kept = model.read.weight.shape[0]
    assert kept in (8, 9) and first["state"][0].shape == (2, kept) and first["seen"][0].shape == (2, 1)
    assert model(x, first["state"])["y"].shape == (2, 3)
    with pytest.raises(InputError, match="it meets axis 1 of the model's input"):
        gp.prune(module, {"x": x, "state": [torch.zeros(2, 16)]}, target="channels=0.5", align=1)
