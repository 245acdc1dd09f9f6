"""Whatever is made wrong on purpose, the proof must notice: a weight, a slice, a label, a rule, a size."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from graphprune import frontends
from graphprune.coupling import Coupling, couple
from graphprune.ir.graph import Graph, Node, Weight
from graphprune.ops import Block, Labeller, base, lookup
from graphprune.ops.base import Array
from graphprune.passes.remove_channels import remove_channels
from graphprune.pruning.budgets import targets
from graphprune.verification import proof
from tests.helpers import graph_of, random_plan
from tests.ops import examples_attention, examples_conv, examples_index, examples_linear, examples_norm, examples_shape
from tests.ops.registry import Net, conv, image, stirred


def medium() -> Graph:
    """No layer's weights are undone by another's (such as a bias before a norm)."""
    torch.manual_seed(0)

    def call(m: Any, x: torch.Tensor) -> torch.Tensor:
        y = torch.relu(m.a(x))
        y = torch.cat([m.b(y), m.c(torch.tanh(y))], 1)
        return m.out(torch.tanh(m.d(y.flip(1))) + m.e(y)).flatten(1)

    net = Net(
        call,
        a=conv(3, 8), b=conv(8, 6, 3), c=conv(8, 12, groups=4), d=conv(18, 9, groups=3), e=conv(18, 9), out=conv(9, 2),
    )  # fmt: skip
    return graph_of(stirred(net), image())


def prove(coupling: Coupling, keep: Array, pruned: Graph) -> bool:
    """Whether the proof passes; a model that cannot be written or run fails it too."""
    try:
        emitted = frontends.emit(pruned)
        return proof.verify(coupling, keep, getattr(emitted, "module", emitted)).passed
    except Exception:
        return False


def planned(graph: Graph) -> tuple[Coupling, Array]:
    coupling = couple(graph)
    return coupling, random_plan(coupling, targets.channels(0.5)).kept(coupling)


def test_a_corrupted_weight_is_noticed() -> None:
    coupling, keep = planned(medium())
    names = list(remove_channels(coupling, keep).weights())
    assert prove(coupling, keep, remove_channels(coupling, keep))
    for name in names:
        pruned = remove_channels(coupling, keep)
        value = pruned.weights()[name]
        assert value.weight is not None
        array = np.roll(value.weight.array(), 1, axis=0)
        value.weight = Weight.of(array, tied=value.weight.tied)
        assert not prove(coupling, keep, pruned), name


def test_a_wrong_label_is_noticed() -> None:
    """One use of one weight believes that two channels are exchanged: it is sliced wrongly."""
    coupling, keep = planned(medium())
    for use in coupling.uses:
        for i, block in enumerate(use.blocks):
            alive = keep[coupling.component[block.labels]]
            if alive.all() or not alive.any():
                continue
            labels = block.labels.copy()
            one, other = int(np.argmax(alive)), int(np.argmin(alive))
            labels[[one, other]] = labels[[other, one]]
            right = use.blocks
            use.blocks = (*right[:i], replace(block, labels=labels), *right[i + 1 :])
            pruned = remove_channels(coupling, keep)
            use.blocks = right
            assert not prove(coupling, keep, pruned), f"{use.value.name} {block.axes}"


def passing(node: Node, labeller: Labeller) -> None:
    """A wrong rule: the labels pass as they are."""
    x = node.inputs[0]
    assert x is not None
    labeller.put_blocks(node.outputs[0], labeller.blocks(x))


def first_alone(node: Node, labeller: Labeller) -> None:
    """A wrong rule: the labels of the first operand, the others untied."""
    for output in node.outputs:
        x = node.inputs[0]
        assert x is not None
        labeller.put_blocks(output, [Block(b.axes, b.labels) for b in labeller.blocks(x)])


def other_mode(node: Node, labeller: Labeller) -> None:
    """A wrong rule: the other order of a pixel shuffle."""
    x, square = node.inputs[0], node.attrs["block"] ** 2
    assert x is not None
    labels = labeller.axis(x, 1)
    assert labels is not None
    parts = labels.reshape(square, -1).T
    labeller.equal(parts, parts[:, :1])
    labeller.put(node.outputs[0], {1: np.ascontiguousarray(parts[:, 0])})


WRONG: list[tuple[str, Callable[[], Any], Callable[[Node, Labeller], None]]] = [
    ("flip", examples_index.flipped, passing),
    ("roll", examples_index.rolled, passing),
    ("elementwise", examples_index.residual, first_alone),
    ("elementwise", examples_norm.squeeze_excite, first_alone),
    ("batch_norm", examples_norm.batch_norms, first_alone),
    ("prelu", examples_norm.prelu, first_alone),
    ("depth_to_space", examples_conv.pixel_shuffle, other_mode),
]


@pytest.mark.parametrize(("kind", "build", "rule"), WRONG, ids=lambda p: getattr(p, "__name__", p))
def test_a_wrong_rule_is_noticed(
    kind: str, build: Callable[[], Any], rule: Callable[[Node, Labeller], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.manual_seed(0)
    module, inputs = build()
    graph = graph_of(stirred(module), inputs)
    coupling, keep = planned(graph)
    assert prove(coupling, keep, remove_channels(coupling, keep))
    monkeypatch.setitem(base._TABLE, kind, replace(lookup(kind), couple=rule))
    coupling, keep = planned(graph)
    try:
        pruned = remove_channels(coupling, keep)
    except Exception:
        return
    assert not prove(coupling, keep, pruned)


@pytest.mark.parametrize(
    "build",
    [
        examples_shape.channel_shuffle,
        examples_attention.three_projections,
        examples_linear.lstm,
        examples_norm.group_norm,
    ],
    ids=lambda b: b.__name__,
)
def test_another_plan_is_noticed(build: Callable[[], Any]) -> None:
    """A model pruned by one plan does not pass for another of the same sizes."""
    torch.manual_seed(0)
    module, inputs = build()
    coupling = couple(graph_of(stirred(module), inputs))
    plans = [random_plan(coupling, targets.channels(0.5), seed=s).kept(coupling) for s in (0, 1)]
    assert (plans[0] != plans[1]).any()
    assert prove(coupling, plans[0], remove_channels(coupling, plans[0]))
    assert not prove(coupling, plans[0], remove_channels(coupling, plans[1]))


def test_a_model_that_ignores_its_input_is_called_out() -> None:
    """An output that does not vary proves little, and the proof says so."""
    module = Net(lambda m, x: m.out(torch.relu(m.a(x)) * 0), a=conv(3, 6), out=conv(6, 2))
    coupling, keep = planned(graph_of(module, image()))
    emitted = frontends.emit(remove_channels(coupling, keep))
    assert "proves little" in proof.verify(coupling, keep, emitted.module).detail
    assert isinstance(emitted.module, nn.Module)
