"""Packed sequences: recurrent layers on sequences of several lengths are captured, pruned, and give what they gave."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import graphprune as gp
from graphprune.errors import InputError
from graphprune.frontends.torch.capture.packing import padded_packing

IDS = torch.randint(0, 20, (3, 7), generator=torch.Generator().manual_seed(0))
LENGTHS = torch.tensor([3, 7, 5])


class Tagger(nn.Module):
    """A tag for each word, and something of the whole sentence."""

    def __init__(self, layer: Any, sorted_before: bool = False) -> None:
        super().__init__()
        self.table, self.layer, self.sorted_before = nn.Embedding(20, 8), layer, sorted_before
        width = layer.proj_size or layer.hidden_size
        self.tags = nn.Linear(width * (2 if layer.bidirectional else 1), 4)
        self.whole = nn.Linear(width, 2)
        self.cell = nn.Linear(layer.hidden_size, 2)

    def forward(self, ids: Tensor, lengths: Tensor) -> Any:
        x = self.table(ids)
        if not self.layer.batch_first:
            x = x.transpose(0, 1)
        options: dict[str, Any] = {"batch_first": self.layer.batch_first, "enforce_sorted": self.sorted_before}
        packed, last = self.layer(pack_padded_sequence(x, lengths, **options))
        found, _ = pad_packed_sequence(packed, batch_first=True, padding_value=0.25, total_length=9)
        state, cell = last if isinstance(last, tuple) else (last, None)
        return self.tags(found), self.whole(state[-1]), None if cell is None else self.cell(cell[0])


LAYERS: dict[str, Any] = {
    "lstm both ways, two layers": lambda: nn.LSTM(8, 16, 2, batch_first=True, bidirectional=True),
    "gru": lambda: nn.GRU(8, 16, batch_first=True),
    "gru both ways": lambda: nn.GRU(8, 16, bidirectional=True),
    "rnn of two layers": lambda: nn.RNN(8, 16, 2, nonlinearity="relu"),
    "lstm without biases": lambda: nn.LSTM(8, 16, bias=False),
    "projected lstm": lambda: nn.LSTM(8, 16, proj_size=6, batch_first=True),
}


@pytest.mark.parametrize("name", LAYERS)
def test_padded_packing_is_packing(name: str) -> None:
    torch.manual_seed(0)
    module = Tagger(LAYERS[name]()).eval()
    with torch.no_grad():
        expected = module(IDS, LENGTHS)
        with padded_packing() as used:
            found = module(IDS, LENGTHS)
        assert used == ["pack_padded_sequence"]
        torch.testing.assert_close(found, expected)
        torch.testing.assert_close(module(IDS, LENGTHS), expected)


@pytest.mark.parametrize("name", LAYERS)
def test_recurrent_layers_on_packed_sequences_are_pruned(name: str) -> None:
    torch.manual_seed(0)
    result = gp.prune(Tagger(LAYERS[name]()).eval(), (IDS, LENGTHS), target=gp.channels(0.5))
    assert result.emitted.form == "module" and result.report.proof is not None and result.report.proof.passed
    assert result.model.layer.hidden_size == 8
    assert result.report.after.parameters <= 0.5 * result.report.before.parameters


def test_sequences_that_have_to_be_in_order_stay_in_order() -> None:
    torch.manual_seed(0)
    module = Tagger(nn.LSTM(8, 16, batch_first=True), sorted_before=True).eval()
    result = gp.prune(module, (IDS, LENGTHS.sort(descending=True).values), target=gp.channels(0.5))
    assert result.emitted.form == "module" and result.model.layer.hidden_size == 8


def test_data_longer_than_every_sequence_are_refused_with_the_reason() -> None:
    class Short(Tagger):
        def forward(self, ids: Tensor, lengths: Tensor) -> Any:
            packed, _ = self.layer(pack_padded_sequence(self.table(ids), lengths, True, enforce_sorted=False))
            return self.tags(pad_packed_sequence(packed, batch_first=True)[0])

    with pytest.raises(InputError, match="the longest sequence of the example must be as long as its data"):
        gp.capture(Short(nn.GRU(8, 16, batch_first=True)).eval(), (IDS, LENGTHS - 1))
