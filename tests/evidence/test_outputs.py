"""Outputs of any form are compared: sequences, dictionaries, nothing, text, no numbers at all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper
from torch import nn

import graphprune as gp
from graphprune.cli.entry import run
from graphprune.verification.comparing import FAILED, PASSED, UNDECIDED, Limits, compare
from graphprune.verification.leaves import leaves, output_of
from tests.evidence.quiet import headed

node = helper.make_node
LIMITS = Limits(1e-3, 2e-6)


def in_a_sequence() -> onnx.ModelProto:
    """The channels, one tensor each, and all of them."""
    model = headed([node("SplitToSequence", ["z"], ["s"], axis=1)], {"z": (TensorProto.FLOAT, [1, 3, 6, 6])})
    kind = helper.make_sequence_type_proto(helper.make_tensor_type_proto(TensorProto.FLOAT, None))
    model.graph.output.append(helper.make_value_info("s", kind))
    return model


def test_a_sequence_is_compared_tensor_by_tensor(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = gp.prune(in_a_sequence(), target=gp.channels(0.5), align=1)
    assert result.report.proof is not None and result.report.proof.passed
    assert result.report.after.parameters < result.report.before.parameters
    onnx.save(in_a_sequence(), tmp_path / "m.onnx")
    line = f"prune {tmp_path}/m.onnx -o {tmp_path}/o.onnx --target channels=0.5"
    assert run(line.split()) == 0
    assert "Verification passed" in capsys.readouterr().out


def test_leaves() -> None:
    found = leaves([np.zeros(2), [np.ones(1), None], {"a": np.array(["x", "y"])}, np.array([1 + 2j])])
    assert list(found) == [
        "output 0", "output 1 (length)", "output 1[0]", "output 1[1] (nothing)", "output 2['a']", "output 3"
    ]  # fmt: skip
    assert [output_of(name) for name in found] == [0, 1, 1, 1, 2, 3]
    assert found["output 3"].tolist() == [[1.0, 2.0]]
    assert found["output 2['a']"].dtype == np.int64


RANDOM = np.random.default_rng(0)
RUNS = [RANDOM.standard_normal((4, 5)) for _ in range(3)]


@pytest.mark.parametrize(
    ("want", "have", "verdict"),
    [
        (lambda x: [x, {"a": x}], lambda x: [x, {"a": x}], PASSED),
        (lambda x: [x, {"a": x}], lambda x: [x, {"a": x * 1.01}], FAILED),
        (lambda x: [x, {"a": x}], lambda x: [x, {"b": x}], FAILED),
        (lambda x: [[x, x]], lambda x: [[x]], FAILED),
        (lambda x: [[x, None]], lambda x: [[x, x]], FAILED),
        (lambda x: [[x, None]], lambda x: [[x, None]], PASSED),
        (lambda x: [np.full(3, np.nan)], lambda x: [np.full(3, np.nan)], UNDECIDED),
        (lambda x: [x], lambda x: [np.where(x > 0, x, np.nan)], FAILED),
        (lambda x: [np.where(x > 0, x, np.nan)], lambda x: [x], FAILED),
        (lambda x: [np.where(x > 0, x, -np.inf)], lambda x: [np.where(x > 0, x, -np.inf)], PASSED),
        (lambda x: [np.array(["a", "b"])], lambda x: [np.array(["a", "b"])], UNDECIDED),
        (lambda x: [np.array([str(x[0, 0])])], lambda x: [np.array([str(x[0, 0])])], PASSED),
        (lambda x: [np.array([str(x[0, 0])])], lambda x: [np.array(["?"])], FAILED),
        (lambda x: [x + 1j * x], lambda x: [x + 1.01j * x], FAILED),
        (lambda x: [x[: int(x[0, 0] > 0) + 1]], lambda x: [x[: int(x[0, 0] > 0) + 1]], PASSED),
        (lambda x: [x[: int(x[0, 0] > 0) + 1]], lambda x: [x[:3]], FAILED),
        (lambda x: [np.zeros((0, 4))], lambda x: [np.zeros((0, 4))], UNDECIDED),
    ],
)
def test_whatever_a_model_returns(want: Any, have: Any, verdict: str) -> None:
    expected, found = [leaves(want(x)) for x in RUNS], [leaves(have(x)) for x in RUNS]
    verdicts = {f.verdict for f in compare(expected, found, LIMITS, [expected])}
    worst = FAILED if FAILED in verdicts else PASSED if PASSED in verdicts else UNDECIDED
    assert worst == verdict, verdicts


def test_boxes_do_not_hide_scores() -> None:
    """Scores a thousandth of a pixel: off by a tenth, they are off."""
    scale = np.array([640.0] * 4 + [1e-3] * 3)[:, None]
    runs = [leaves([np.abs(RANDOM.standard_normal((7, 50))) * scale]) for _ in range(3)]
    off = np.ones((7, 1))
    assert {f.verdict for f in compare(runs, runs, LIMITS)} == {PASSED}
    off[-1] = 1.1
    wrong = [leaves([run["output 0"] * off]) for run in runs]
    assert {f.verdict for f in compare(runs, wrong, LIMITS, [runs])} == {FAILED}


class Nowhere(nn.Module):
    """A logarithm of what is negative."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(6, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Not a number."""
        return torch.log(-torch.exp(self.b(torch.relu(self.a(x)))))


def test_no_numbers_prove_nothing() -> None:
    torch.manual_seed(0)
    result = gp.prune(Nowhere(), torch.zeros(2, 6), target=gp.channels(0.5))
    proof = result.report.proof
    assert proof is not None and proof.undecided, proof
    assert "nowhere a number" in proof.detail
