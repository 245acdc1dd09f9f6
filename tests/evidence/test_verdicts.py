"""Three verdicts: a proof that decided nothing says so, and real samples decide."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from rich.console import Console
from torch import nn

import graphprune as gp
from graphprune.cli.entry import run
from graphprune.errors import InputError, VerificationError
from graphprune.report import PassesReport
from tests.evidence.quiet import Silent, samples, silent

HALF = {"target": gp.channels(0.5), "align": 1}


def spoiled(model: onnx.ModelProto) -> onnx.ModelProto:
    """A weight that is off."""
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    tensor = next(t for t in twin.graph.initializer if t.name == "b")
    tensor.CopyFrom(numpy_helper.from_array(np.roll(numpy_helper.to_array(tensor), 1, 1), "b"))
    return twin


def test_outputs_that_never_change_decide_nothing() -> None:
    result = gp.prune(silent(), **HALF)
    proof = result.report.proof
    assert proof is not None
    assert (proof.verdict, proof.passed, proof.failed, proof.undecided) == ("undecided", False, False, True)
    assert "NOT PROVEN: output 0 hardly depends on the input" in proof.sentence
    assert "--data" in proof.sentence
    told = result.report.to_json()["proof"]
    assert (told["verdict"], told["passed"]) == ("undecided", False)
    # It would not have noticed that a weight is off, which is why it must not say "passed".
    assert gp.verify(result.coupling, spoiled(result.model), result.plan).undecided


@pytest.mark.parametrize("batch", [1, 4, "N"])
def test_samples_decide(batch: int | str) -> None:
    data = {"x": samples()}
    result = gp.prune(silent(batch), data=data, **HALF)
    proof = result.report.proof
    assert proof is not None and proof.passed, proof
    assert proof.on == "samples"
    wrong = gp.verify(result.coupling, spoiled(result.model), result.plan, data=data)
    assert wrong.failed
    assert gp.verify(result.coupling, result.model, result.plan, data=data).passed


def test_samples_decide_for_a_module_and_keep_its_class() -> None:
    given = torch.zeros(2, 4, 6, 6)
    quiet = gp.prune(Silent(), given, **HALF)
    assert quiet.report.proof is not None and quiet.report.proof.undecided
    assert type(quiet.model) is Silent
    batches = iter([torch.from_numpy(samples(2)), torch.from_numpy(samples(4)[2:])])
    result = gp.prune(Silent(), given, data=batches, **HALF)
    assert result.report.proof is not None and result.report.proof.passed
    assert type(result.model) is Silent
    with torch.no_grad():
        result.model.b.weight.copy_(result.model.b.weight.roll(1, 1))
    data = {"x": samples()}
    assert gp.verify(result.coupling, result.model, result.plan, data=data).failed


def test_strict_asks_for_a_proof() -> None:
    with pytest.raises(VerificationError, match="'silent' is NOT PROVEN: output 0 hardly depends"):
        gp.prune(silent(), strict=True, **HALF)
    assert gp.prune(silent(), strict=True, data={"x": samples()}, **HALF).report.proof is not None


def test_sizes_that_nobody_gave_are_those_of_the_data() -> None:
    model = silent("N")
    for info in (*model.graph.input, *model.graph.output):
        info.type.tensor_type.shape.dim[2].dim_param = "H"
    data = {"x": np.repeat(samples(), 3, axis=2)}
    result = gp.prune(model, data=data, **HALF)
    assert result.graph.inputs[0].sizes[2] == 18
    assert result.report.proof is not None and result.report.proof.passed
    assert result.model.graph.input[0].type.tensor_type.shape.dim[2].dim_param == "H"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    onnx.save(silent(), "m.onnx")
    np.savez("d.npz", x=samples())
    return tmp_path


COMMANDS = [
    "prune m.onnx -o o.onnx --target channels=0.5 --align 1 --plan-out p.json",
    "sparsify m.onnx -o o.onnx --pattern row:0.5",
    "opt m.onnx -o o.onnx --passes remove-channels{channels=0.5} --verify-each",
    "apply m.onnx --plan plan.json -o o.onnx",
    "verify m.onnx pruned.onnx --plan plan.json",
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda c: c.split()[0])
def test_every_command_that_proves_says_what_it_did_not(
    files: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("prune m.onnx -o pruned.onnx --target channels=0.5 --align 1 --plan-out plan.json".split()) == 0
    capsys.readouterr()
    assert run(command.split()) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert "NOT PROVEN: output 0 hardly depends on the input" in out
    assert "passed" not in out
    assert Path("o.onnx").exists() or command.startswith("verify")
    assert run([*command.split(), "--strict"]) == 1
    assert "NOT PROVEN" in capsys.readouterr().err
    assert run([*command.split(), "--strict", "--data", "d.npz"]) == 0
    assert "NOT PROVEN" not in capsys.readouterr().out


def test_the_report_and_json_say_it(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*COMMANDS[0].split(), "--report", "r.json", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["proof"]["verdict"] == json.loads(Path("r.json").read_text())["proof"]["verdict"] == "undecided"


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        ({"z": samples()}, "lacks the input 'x'"),
        ({"x": samples()[:, :3]}, "have the shape \\[6, 3, 6, 6\\]; the input takes"),
        ("nowhere.npz", "there is no file 'nowhere.npz'"),
    ],
)
def test_data_that_do_not_fit(data: Any, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        gp.prune(silent(), data=data, **HALF)


def test_data_without_a_proof_serve_nothing() -> None:
    with pytest.raises(InputError, match="data serve the proof"):
        gp.prune(silent(), data={"x": samples()}, verify=False, **HALF)


def test_the_sentence_is_bold() -> None:
    console = Console(force_terminal=True, width=200, color_system="standard")
    with console.capture() as shown:
        gp.prune(silent(), **HALF).report.render(console)
    assert "\x1b[1mNOT PROVEN" in shown.get()
    with console.capture() as shown:
        _, rows = gp.optimize(gp.load(silent()), "remove-channels{channels=0.5}", verify_each=True)
        PassesReport("m", rows).render(console)
    assert "\x1b[1mremove-channels: NOT PROVEN" in shown.get()


class Vanished(nn.Module):
    """What is left of the signal is less than the rounding of float64."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = nn.Linear(6, 64), nn.Linear(64, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """A constant, and sums that cancel."""
        h = torch.tanh(self.a(x))
        return 0.15 + self.b(h * 40.1) - 40.1 * self.b(h) + 39.1 * self.b.bias


def test_a_signal_that_is_gone_in_the_wider_type_as_well_is_no_failure() -> None:
    for seed in range(6):
        proof = gp.prune(Vanished(), torch.zeros(4, 6), seed=seed, **HALF).report.proof
        assert proof is not None and proof.undecided, proof
