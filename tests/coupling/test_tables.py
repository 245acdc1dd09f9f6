"""Vocabularies: rows of a table go on request, and ids are counted anew."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import graphprune as gp
from graphprune.coupling import couple
from graphprune.errors import InputError
from tests.helpers import graph_of

WORDS, WIDTH = 24, 8


class Language(nn.Module):
    """Embedding, a hidden layer, logits over the same words, tied or not."""

    def __init__(self, *, tied: bool) -> None:
        super().__init__()
        self.words, self.hidden = nn.Embedding(WORDS, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, WORDS, bias=not tied)
        if tied:
            self.head.weight = self.words.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.head(torch.tanh(self.hidden(self.words(ids))))


class Classifier(Language):
    """Looks the ids up, and looks at them."""

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.hidden(self.words(ids) * (ids > 3)[..., None])


def ids(seed: int = 0) -> torch.Tensor:
    return torch.randint(0, WORDS, (2, 12), generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("tied", [True, False])
def test_rows_go_with_logits_and_ids_are_renumbered(tied: bool) -> None:
    torch.manual_seed(0)
    model = Language(tied=tied).eval()
    result = gp.prune(model, ids(), target="channels=0.5", include=["words.weight[0]"])
    assert result.report.proof is not None and result.report.proof.passed
    kept = result.graph.kept_rows["ids"]
    assert len(kept) == WORDS // 2 and result.plan.rows == ("words.weight",)
    new = ids(1) % len(kept)
    with torch.no_grad():
        expected = model(torch.from_numpy(kept)[new])[..., torch.from_numpy(kept)]
        torch.testing.assert_close(result.model(new), expected)


def test_rows_stay_unless_asked_for() -> None:
    graph = graph_of(Language(tied=True), ids())
    assert not any(g.name == "words.weight[0]" for g in couple(graph))
    assert {g.name: g.size for g in couple(graph, rows=["words.weight"])}["words.weight[0]"] == WORDS


def test_special_tokens_stay() -> None:
    graph = graph_of(Language(tied=True), ids())
    graph.pinned = frozenset({0, 5})
    (group,) = [g for g in couple(graph, rows=["words.weight"]) if g.name == "words.weight[0]"]
    assert group.size == WORDS - 2


def test_ids_that_are_read_as_numbers_keep_the_table() -> None:
    coupling = couple(graph_of(Classifier(tied=True), ids()), rows=["words.weight"])
    assert not any(g.name == "words.weight[0]" for g in coupling)
    (row,) = [f for f in coupling.frozen_axes() if (f.weight, f.axis) == ("words.weight", 0)]
    assert "as numbers" in row.reason


@pytest.mark.parametrize(("name", "message"), [("nothing", "is no weight"), ("hidden.weight", "no input of")])
def test_what_is_no_table(name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        couple(graph_of(Language(tied=True), ids()), rows=[name])


def test_a_plan_remembers_the_rows(tmp_path: Any) -> None:
    graph = graph_of(Language(tied=False), ids())
    plan = gp.plan(graph, "channels=0.5", include=["words.weight[0]"])
    plan.save(tmp_path / "plan.json")
    fresh = graph_of(Language(tied=False), ids())
    again = gp.apply(fresh, gp.Plan.load(tmp_path / "plan.json"))
    np.testing.assert_array_equal(again.kept_rows["ids"], gp.apply(graph, plan).kept_rows["ids"])
    assert gp.verify(fresh, again, plan).passed
