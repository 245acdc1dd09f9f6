"""Inputs made up after an example keep what the model may rely on."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import graphprune as gp
from graphprune.frontends.torch.run.examples import fresh_like


@pytest.mark.parametrize(
    "example", [[0, 3, 5, 9], [0, 0, 4, 4, 8], [0, 1, 2, 3], [0, 7], [0, 0, 0]], ids=lambda e: "-".join(map(str, e))
)
def test_offsets_stay_offsets(example: list[int]) -> None:
    given = torch.tensor(example, dtype=torch.int32)
    found = [fresh_like(given, seed) for seed in range(8)]
    for offsets in found:
        assert offsets.dtype == given.dtype and len(offsets) == len(given)
        assert offsets[0] == 0 and offsets[-1] == given[-1]
        assert (offsets.diff() >= 0).all()
        assert (offsets.diff() > 0).all() or not (given.diff() > 0).all()
    room = len(example) > 2 and example[-1] >= len(example)
    assert (len({tuple(offsets.tolist()) for offsets in found}) > 1) == room


def test_other_integers_change_their_order() -> None:
    for given in (torch.tensor([4, 1, 3, 7, 9]), torch.arange(8)[None], torch.tensor([2, 3, 4, 5, 6])):
        found = [fresh_like(given, seed) for seed in range(8)]
        assert all(sorted(f.flatten().tolist()) == sorted(given.flatten().tolist()) for f in found)
        assert len({tuple(f.flatten().tolist()) for f in found}) > 1


class Bags(nn.Module):
    """Sums of rows, from one offset to the next."""

    def __init__(self, mode: str, last: bool) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.bag = nn.EmbeddingBag(40, 12, mode=mode, include_last_offset=last)
        self.out = nn.Linear(12, 3)

    def forward(self, ids: torch.Tensor, offsets: torch.Tensor) -> torch.Tensor:
        """A linear layer on the sums."""
        found: torch.Tensor = self.out(torch.tanh(self.bag(ids, offsets)))
        return found


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("mode", ["sum", "mean"])
def test_bags_are_pruned_in_their_own_class(mode: str, last: bool) -> None:
    ids = torch.randint(0, 40, (20,), generator=torch.Generator().manual_seed(0))
    offsets = torch.tensor([0, 4, 9, 15, 20] if last else [0, 4, 9, 15])
    result = gp.prune(Bags(mode, last), (ids, offsets), target=gp.channels(0.5), align=1)
    assert type(result.model) is Bags, result.report.output_reason
    assert result.report.proof is not None and result.report.proof.passed
    assert result.model.bag.weight.shape == (40, 6)
