"""Of each operator one of the onnx package's node tests, with weights around it: the result is right or left alone.

`python -m benchmarks.node_tests` goes through all of them.
"""

from __future__ import annotations

import pytest

from benchmarks.node_cases import built, first_of_each, node_cases
from benchmarks.node_tests import BAD, outcome

PARTS = 8


@pytest.mark.parametrize("form", ["last", "channels"])
@pytest.mark.parametrize("part", range(PARTS))
def test_operators_between_weights(form: str, part: int) -> None:
    cases = list(first_of_each(form))[part::PARTS]
    bad = [(name, *found) for name, model in cases if (found := outcome(model))[0] in BAD]
    assert not bad


def test_attention_with_a_cache_keeps_its_scale() -> None:
    """Heads lose width: the scale that their original width implied is written out."""
    model = built(node_cases()["test_attention_4d_with_past_and_present"], "last")
    assert model is not None
    assert outcome(model)[0] == "pruned"
