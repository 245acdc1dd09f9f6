"""The weight of a grouped convolution that another operator reads as well: the same columns go in all groups."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn.functional import conv2d

from graphprune.coupling import couple
from tests.helpers import assert_equality, graph_of
from tests.ops.registry import Net, conv, image, parameter


def _before(m: Any, x: torch.Tensor) -> Any:
    other = m.e(x)[:, :, 0, 0] @ m.w.sum((2, 3))
    return m.d(conv2d(m.a(x), m.w, groups=3)), other @ m.f


def _after(m: Any, x: torch.Tensor) -> Any:
    made = m.d(conv2d(m.a(x), m.w, groups=3))
    return made, m.e(x)[:, :, 0, 0] @ m.w.sum((2, 3)) @ m.f


def _shared(call: Any) -> Any:
    parts = {"a": conv(3, 12), "w": parameter(12, 4, 1, 1), "d": conv(12, 2), "e": conv(3, 12), "f": parameter(4, 2)}
    return graph_of(Net(call, **parts), image())


@pytest.mark.parametrize("call", [_before, _after], ids=["before", "after"])
def test_columns_are_the_same_in_all_groups(call: Any) -> None:
    graph = _shared(call)
    groups = str(couple(graph)).splitlines()
    columns = next(line for line in groups if "a.weight[0]" in line)
    assert columns.startswith("4 of 3 exact") and "w[1]" in columns and "f[0]" in columns
    assert_equality(graph)


def test_a_weight_of_two_grouped_convolutions_keeps_columns_by_group() -> None:
    def call(m: Any, x: torch.Tensor) -> Any:
        return m.d(conv2d(m.a(x), m.w, groups=3)), m.d(conv2d(m.e(x), m.w, groups=3))

    graph = graph_of(Net(call, a=conv(3, 12), w=parameter(12, 4, 1, 1), d=conv(12, 2), e=conv(3, 12)), image())
    assert "3x4 exact: a.weight[0]" in str(couple(graph))
    assert_equality(graph)


def test_columns_of_a_weight_that_is_an_output_stay() -> None:
    graph = graph_of(
        Net(lambda m, x: (m.d(conv2d(m.a(x), m.w, groups=3)), m.w), a=conv(3, 12), w=parameter(12, 4, 1, 1),
            d=conv(12, 2)),
        image(),
    )  # fmt: skip
    assert str(couple(graph)) == ""
