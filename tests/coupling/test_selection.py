"""Globs: what a report shows may be given to --include as it is shown."""

from __future__ import annotations

import pytest

from graphprune.errors import InputError
from graphprune.pruning.selection import matches


@pytest.mark.parametrize(
    ("glob", "name", "found"),
    [
        ("layer1.*", "layer1.0.weight", True),
        ("layer1.*", "layer11.weight", False),
        ("w[0]", "w[0]", True),
        ("w[0]", "w[1]", False),
        ("*.mlp.weight[0]", "a.mlp.weight[0]", True),
        ("*.mlp.weight[0]", "a.mlp.weight[1]", False),
        ("l.{0-11}.w[0]", "l.11.w[0]", True),
        ("l.{0-11}.w[0]", "l.12.w[0]", False),
        ("l.{0-1,5}.w", "l.5.w", True),
        ("l.{0-1,5}.w", "l.3.w", False),
        ("l.{0-1,5}.w", "l.01.w", False),
        ("f.{0,1}/linear_*.w[1]", "f.1/linear_17.w[1]", True),
        ("onnx::MatMul_1[0]", "onnx::MatMul_1[0]", True),
        ("{a}", "{a}", True),
    ],
)
def test_globs_with_numbers_in_braces(glob: str, name: str, found: bool) -> None:
    assert matches({name}, [glob]) == found


@pytest.mark.parametrize("glob", ["l.{5-1}", "l.{0-99999999999}"])
def test_braces_that_make_no_sense(glob: str) -> None:
    with pytest.raises(InputError, match="in a glob: the numbers must ascend, and be fewer than 10,000"):
        matches({"l.1"}, [glob])
