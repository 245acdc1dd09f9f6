"""Every kind of operator has a worked example: the coupling as text, and executed equality under random plans."""

from __future__ import annotations

import pytest

from graphprune.coupling import couple
from graphprune.ops import kinds
from tests.helpers import assert_equality
from tests.ops.examples_all import EXAMPLES, Example


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda e: e.name)
def test_coupling_is_as_written_and_pruning_is_proven(example: Example) -> None:
    graph = example.graph()
    assert str(couple(graph, grouped=example.grouped)) == example.couples
    assert_equality(graph, example.ratio, grouped=example.grouped)


def test_every_kind_has_a_worked_example() -> None:
    shown = {node.kind for example in EXAMPLES for node in example.graph().nodes}
    missing = sorted(set(kinds()) - shown)
    assert not missing, f"no worked example for {', '.join(missing)}"


def test_names_are_unique() -> None:
    names = [example.name for example in EXAMPLES]
    assert len(set(names)) == len(names)
