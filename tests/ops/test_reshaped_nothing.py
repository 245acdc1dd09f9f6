"""Tensors without rows, as a mask selects that nothing in the example meets: reshaping them hides no channels."""

from __future__ import annotations

import torch
from torch import nn

import graphprune as gp


class ByDegree(nn.Module):
    """A layer of its own for rows of each kind, as graph networks have one for each degree."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(8, 32), nn.Linear(32, 4)
        self.kinds = nn.ModuleList(nn.Linear(32, 32) for _ in range(3))

    def forward(self, x: torch.Tensor, kind: torch.Tensor) -> torch.Tensor:
        h = self.first(x).relu()
        out = torch.zeros_like(h)
        for number, layer in enumerate(self.kinds):
            rows = (kind == number).nonzero().view(-1)
            out.index_copy_(0, rows, layer(h.index_select(0, rows)))
        y: torch.Tensor = self.last(out.relu())
        return y


def test_rows_that_no_mask_selects_leave_channels_prunable() -> None:
    torch.manual_seed(0)
    example = {"x": torch.randn(12, 8), "kind": torch.arange(12) % 2}  # no row is of kind 2
    result = gp.prune(ByDegree(), example, target=gp.channels(0.5))
    report = result.report
    assert report.after.parameters < 0.4 * report.before.parameters
    assert not any("sizes are not known" in row.reason for row in report.frozen)
    assert result.model(torch.randn(12, 8), torch.full((12,), 2)).shape == (12, 4)
