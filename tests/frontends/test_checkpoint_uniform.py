"""`--uniform` where one number of a configuration rules several groups: they keep the same part."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import graphprune as gp
from benchmarks.suites import transformers_models
from graphprune import frontends
from graphprune.coupling.couple import Group
from graphprune.pruning.budgets.uniform import families


def group(index: int, name: str, size: int) -> Group:
    return Group(index, name, np.arange(size)[None], 1, exact=True)


def test_groups_go_together_by_name_and_by_what_rules_them() -> None:
    """Layers by name; `width` rules two lists of layers and a stream in 8 parts; 9 have no part in common with 8."""
    groups = [
        group(0, "encoder.0.up[0]", 8),
        group(1, "encoder.1.up[0]", 8),
        group(2, "decoder.0.grow[0]", 8),
        group(3, "stream[0]", 64),
        group(4, "odd[0]", 9),
        group(5, "alone[0]", 8),
        group(6, "decoder.1.grow[0]", 8),
    ]
    ruler = dict.fromkeys(["encoder.0.up[0]", "decoder.0.grow[0]", "stream[0]", "odd[0]"], "width")
    found = families(groups, ["open"] * 6 + ["shut"], lambda: ruler)
    assert sorted(sorted(g.index for g in family) for family in found) == [[0, 1, 2, 3], [4], [5], [6]]


@pytest.mark.parametrize("target", ["params=0.5", "macs=0.6"])
def test_heads_are_as_wide_as_the_stream_in_encoder_and_decoder(target: str, tmp_path: Path) -> None:
    """Whisper has no head width of its own: `d_model` rules the residual streams and the heads of three attentions."""
    transformers_models.save("whisper", tmp_path / "whole")
    graph = gp.load(tmp_path / "whole")
    small = gp.apply(graph, gp.plan(graph, target, "l2", uniform=True))
    shapes = {v.shape for n, v in small.weights().items() if n.endswith(("q_proj.weight", "k_proj.weight"))}
    assert len(shapes) == 1 and len(set(next(iter(shapes)) or ())) == 1
    assert small.parameter_count() < graph.parameter_count()


def test_a_global_budget_leaves_a_configuration(tmp_path: Path) -> None:
    """BERT's heads and hidden width: one number, two groups of different sizes."""
    transformers_models.save("bert", tmp_path / "whole")
    graph = gp.load(tmp_path / "whole")
    small = gp.apply(graph, gp.plan(graph, "params=0.5", "l2", uniform=True))
    emitted = frontends.emit(small)
    assert emitted.form == "checkpoint", emitted.reason
    assert "hidden_size: 64 -> 32" in emitted.reason and "num_attention_heads: 4 -> 2" in emitted.reason
