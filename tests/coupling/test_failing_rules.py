"""A rule that raises: the node is treated as an unknown operator and named; the rest is pruned, and right."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from graphprune.coupling import couple
from graphprune.errors import InputError
from graphprune.ir.graph import Node
from graphprune.ops import Labeller, base, kinds, lookup
from graphprune.pruning.budgets import targets
from graphprune.report.causes import unknown_lines
from graphprune.report.data import UnknownRow
from tests.helpers import graph_of, lines, prune_coupling
from tests.ops.examples_all import EXAMPLES, Example
from tests.ops.examples_onnx import model, node, normal
from tests.robustness.attempts import command


class MistakeError(Exception):
    """What no rule means to raise."""


def _half_done(rule: Callable[[Node, Labeller], None]) -> Callable[[Node, Labeller], None]:
    """The rule, and a count constraint that nothing could meet, before it fails."""

    def failing(node: Node, labeller: Labeller) -> None:
        rule(node, labeller)
        for value in node.inputs:
            for block in labeller.blocks(value) if value is not None else ():
                labeller.statistic(block.labels)
                labeller.balance(np.stack([block.labels.reshape(-1), labeller.fresh(block.labels.size)]))
        raise MistakeError("of ours")

    return failing


def _shown(kind: str) -> Example:
    """A worked example with this kind: an ONNX model where there is one, since those are quick."""
    found = [e for e in EXAMPLES if any(n.kind == kind for n in e.graph().flat_nodes)]
    return min(found, key=lambda e: (e.graph().frontend != "onnx", len(e.graph().nodes)))


@pytest.mark.parametrize("kind", [k for k in kinds() if k != "unknown"])
def test_a_rule_that_fails_half_done_freezes_what_the_node_touches(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    graph = _shown(kind).graph()
    monkeypatch.setitem(base._TABLE, kind, replace(lookup(kind), couple=_half_done(lookup(kind).couple)))
    coupling = couple(graph)
    own = [n for n in graph.all_nodes if n.kind == kind]
    assert set(own) <= coupling.failed.keys()
    row = next(u for u in coupling.unknown() if u.first == own[0].name)
    assert row.why.startswith("MistakeError at test_failing_rules.py:") and row.why.endswith(": of ours")
    if coupling.groups:
        pruned = prune_coupling(coupling, targets.channels(0.5))
        assert pruned.proof.passed, pruned.proof


def test_what_the_failing_rule_stated_counts_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Channels before and after the node that has no count constraint with them go as with an unknown operator."""
    nodes = [
        node("Conv", "x a", "h"), node("Conv", "h b", "i"), node("Sigmoid", "i", "s"), node("Conv", "s c", "j"),
        node("Conv", "j d", "y"),
    ]  # fmt: skip
    shapes = {"a": (6, 3, 1, 1), "b": (8, 6, 1, 1), "c": (6, 8, 1, 1), "d": (2, 6, 1, 1)}
    graph = graph_of(model(nodes, {n: normal(*s) for n, s in shapes.items()}, [1, 3, 4, 4], [1, 2, 4, 4]))
    assert len(lines(graph).splitlines()) == 3
    rule = lookup("elementwise")
    monkeypatch.setitem(base._TABLE, "elementwise", replace(rule, couple=_half_done(rule.couple)))
    assert lines(graph) == "6 exact: a[0] b[1]\n6 exact: c[0] d[1]"


@pytest.mark.parametrize("part", ["cost", "statistic"])
def test_a_cost_or_statistic_that_fails_makes_its_operator_unknown(part: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Node) -> Any:
        raise MistakeError

    kind = {"cost": "conv", "statistic": "softmax"}[part]
    graph = _shown(kind).graph()
    changed: Any = {part: fail}
    monkeypatch.setitem(base._TABLE, kind, replace(lookup(kind), **changed))
    coupling = couple(graph)
    assert {n for n in graph.all_nodes if n.kind == kind} <= coupling.failed.keys()
    if coupling.groups:
        assert prune_coupling(coupling, targets.macs(0.9)).proof.passed


def test_labels_of_a_wrong_length_are_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(node: Node, labeller: Labeller) -> None:
        labeller.put(node.outputs[0], {1: labeller.fresh(5)})

    graph = _shown("softmax").graph()
    monkeypatch.setitem(base._TABLE, "softmax", replace(lookup("softmax"), couple=wrong))
    failed = couple(graph).failed
    assert failed and all("(5,) labels for axes (1,)" in why for why in failed.values())


def test_what_a_rule_refuses_on_purpose_is_still_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(node: Node, labeller: Labeller) -> None:
        raise InputError("an axis too long")

    graph = _shown("softmax").graph()
    monkeypatch.setitem(base._TABLE, "softmax", replace(lookup("softmax"), couple=refuse))
    with pytest.raises(InputError, match="too long"):
        couple(graph)


def test_the_report_asks_for_it_to_be_reported() -> None:
    rows = [UnknownRow("Conv", 2, "first", "KeyError at conv.py:1: 'groups'"), UnknownRow("Det", 1, "det")]
    unknown, failing = unknown_lines(rows)
    assert unknown.endswith("Det x1 (first: det).")
    assert failing.startswith("Operators whose rule fails here") and "please report it" in failing
    assert failing.endswith("Conv x2 (first: first): KeyError at conv.py:1: 'groups'.")


def test_operands_that_do_not_fit_are_named(tmp_path: Path) -> None:
    nodes = [node("Conv", "x a", "h"), node("Conv", "h b", "y"), node("Add", "h odd", "z")]
    weights = {"a": normal(6, 3, 1, 1), "b": normal(2, 6, 1, 1), "odd": normal(5, 1, 1)}
    made = model(nodes, weights, [1, 3, 4, 4], [1, 2, 4, 4])
    made.graph.output.append(helper.make_tensor_value_info("z", TensorProto.FLOAT, [1, 6, 4, 4]))
    onnx.save(made, tmp_path / "in.onnx")
    line = ["prune", str(tmp_path / "in.onnx"), "-o", str(tmp_path / "out.onnx"), "--target", "channels=0.5"]
    code, errors = command(line)
    assert code == 2 and errors.count("\n") == 1
    assert "the rule of Add fails here: ValueError" in errors, errors


def test_a_rewriting_rule_that_fails_is_a_bug_that_names_the_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The model is a valid one, and nothing is written."""

    def fails(node: Node, survivors: Any) -> None:
        raise IndexError("list index out of range")

    monkeypatch.setitem(base._TABLE, "conv", replace(lookup("conv"), rewrite=fails))
    layers = [node("Conv", "x a", "h"), node("Relu", "h", "r"), node("Conv", "r b", "y")]
    weights = {"a": normal(8, 3, 1, 1), "b": normal(4, 8, 1, 1)}
    onnx.save(model(layers, weights, [1, 3, 5, 5], [1, 4, 5, 5]), tmp_path / "in.onnx")
    line = ["prune", str(tmp_path / "in.onnx"), "-o", str(tmp_path / "out.onnx"), "--target", "channels=0.5"]
    code, said = command(line)
    assert code == 3
    assert "cannot rewrite node 'h' (Conv): IndexError: list index out of range; this is a bug" in said
    assert [path.name for path in tmp_path.iterdir()] == ["in.onnx"]
