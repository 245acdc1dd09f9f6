"""The command line against a stand-in for the API: what it hands on, prints and returns."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from typer.testing import CliRunner

from graphprune import report as reports
from graphprune.cli import app, run
from graphprune.cli import commands as cli_commands
from graphprune.errors import InputError, PassError, VerificationError
from graphprune.runtimes import Comparison, Environment, Timing
from graphprune.verification.proof import Proof
from tests.test_report import INSPECTION, PROOF, REPORT

BENCH = Comparison((Timing("m.onnx", 0.01, 0.02, 0.03),), Environment("onnxruntime", "1", 1, "cpu", 2, 10, {"x": (1,)}))


class StandIn:
    """Has the API's functions, records what they are called with and returns fixed results."""

    def __init__(self) -> None:
        self.calls: dict[str, Any] = {}
        self.proof = PROOF
        self.failure: BaseException | None = None
        self.Plan = SimpleNamespace(load=lambda path: f"plan {path}")
        for key in ("channels", "params", "macs"):
            setattr(self, key, lambda ratio, key=key: (key, ratio))

    def prune(self, model: str, **options: Any) -> Any:
        print("the factory prints this")
        if self.failure is not None:
            raise self.failure
        self.calls["prune"] = (model, options)
        plan = SimpleNamespace(save=lambda path: Path(path).write_text("plan"))
        return SimpleNamespace(report=REPORT, plan=plan, save=lambda path: Path(path).write_text("model"))

    def load(self, model: str, shapes: Any, data: Path | None = None, submodule: str = "") -> str:
        self.calls["load"] = (model, shapes)
        return f"graph {model}"

    def inspect(self, graph: str, **options: Any) -> reports.InspectReport:
        self.calls["inspect"] = options
        return INSPECTION

    def apply(self, graph: str, plan: str) -> str:
        return f"{graph} by {plan}"

    def save(self, graph: str, path: Path, plan: Any = None) -> None:
        path.write_text(graph)

    def optimize(
        self, graph: str, pipeline: str, verify_each: bool, data: Path | None, strict: bool
    ) -> tuple[str, list[reports.PassRow]]:
        self.calls["optimize"] = (pipeline, verify_each)
        return graph, [reports.PassRow(pipeline, 0.1, True)]

    def verify(self, *arguments: Any, **options: Any) -> Proof:
        self.calls["verify"] = (arguments, options)
        return self.proof

    def verify_files(self, *arguments: Any) -> Proof:
        self.calls["verify"] = arguments
        return self.proof

    def benchmark(self, models: list[str], **options: Any) -> Comparison:
        del options["progress"]
        self.calls["benchmark"] = (models, options)
        return BENCH


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> StandIn:
    stand_in = StandIn()
    monkeypatch.setattr(cli_commands, "_api", lambda: stand_in)
    return stand_in


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.chdir(tmp_path)
    Path("m.onnx").write_bytes(b"model")
    Path("plan.json").write_text("{}")
    return "m.onnx"


def error_line(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr; nothing must be on stdout."""
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("graphprune: error: ")
    assert err.count("\n") == 1, err
    return err


def test_prune_hands_every_option_on(api: StandIn, model: str) -> None:
    line = (
        "prune m.onnx -o o.onnx --target macs=0.5 --criterion lamp --include conv* --include fc* --exclude head"
        " --align 4 --floor 0.1 --override layer1.*=0.75 --override a=b=1 --reduction mean --normalization max"
        " --uniform --grouped whole --input-shape x=1,3,8,8 --seed 7 --plan-out p.json --report r.json --no-verify"
        " --own-class require --keep-class"
    )
    assert run(line.split()) == 0
    name, options = api.calls["prune"]
    assert name == "m.onnx"
    progress = options.pop("progress")
    assert callable(progress)
    assert options == {
        "target": ["macs=0.5"],
        "criterion": "lamp",
        "include": ("conv*", "fc*"),
        "exclude": ("head",),
        "align": 4,
        "floor": 0.1,
        "uniform": True,
        "overrides": {"layer1.*": 0.75, "a=b": 1.0},
        "reduction": "mean",
        "normalization": "max",
        "grouped": "whole",
        "input_shapes": {"x": (1, 3, 8, 8)},
        "seed": 7,
        "verify": False,
        "own_class": "require",
        "keep_class": True,
    }
    assert Path("o.onnx").read_text() == "model"
    assert Path("p.json").read_text() == "plan"
    assert json.loads(Path("r.json").read_text())["target"] == "macs=0.5"


def test_prune_leaves_the_defaults_to_the_api(api: StandIn, model: str) -> None:
    assert run(["prune", "m.onnx", "-o", "o.onnx", "--target", "channels=1"]) == 0
    assert set(api.calls["prune"][1]) == {
        *("target", "criterion", "include", "exclude", "overrides", "grouped", "seed", "verify", "progress"),
    }


@pytest.mark.parametrize(
    ("line", "key", "value"),
    [
        ("prune m.onnx -o o.onnx --target params=.5 --json", "format", "graphprune-report/1"),
        ("inspect m.onnx --json", "format", "graphprune-inspect/1"),
        ("verify m.onnx plan.json --plan plan.json --json", "passed", True),
        ("bench m.onnx --json", "rows", [reports.jsonable(BENCH.rows[0])]),
    ],
)
def test_json_is_all_there_is_on_stdout(api: StandIn, model: str, line: str, key: str, value: object) -> None:
    result = CliRunner().invoke(app, line.split())
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)[key] == value


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("prune m.onnx -o o.onnx --target params=.5", "pruned to macs=0.5"),
        ("inspect m.onnx", "Coupled groups of m.onnx"),
        ("inspect m.onnx --all", "Coupled groups of m.onnx"),
        ("verify m.onnx plan.json --plan plan.json", "Verification passed"),
        ("bench m.onnx", "Latency, measured in turns"),
        ("opt m.onnx -o o.onnx --passes cleanup,fold-batchnorm --verify-each", "cleanup,fold-batchnorm"),
        ("apply m.onnx --plan plan.json -o o.onnx", "wrote o.onnx"),
        ("--version", "graphprune 0."),
        ("prune --help", "--target"),
    ],
)
def test_what_a_person_sees(
    api: StandIn, model: str, line: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(line.split()) == 0
    assert shown in capsys.readouterr().out


def test_apply_and_opt_write_what_the_api_made(api: StandIn, model: str) -> None:
    assert run(["apply", "m.onnx", "--plan", "plan.json", "-o", "a.onnx", "--input-shape", "1,8"]) == 0
    assert Path("a.onnx").read_text() == "graph m.onnx by plan plan.json"
    assert api.calls["load"] == ("m.onnx", [(1, 8)])
    assert run(["opt", "m.onnx", "-o", "b.onnx", "--passes", "p", "--verify-each"]) == 0
    assert Path("b.onnx").read_text() == "graph m.onnx"
    assert api.calls["optimize"] == ("p", True)


def test_bench_hands_on_runtime_threads_and_shapes(api: StandIn, model: str) -> None:
    assert run(["bench", "m.onnx", "m.onnx", "--runtime", "pytorch", "--threads", "2", "--input-shape", "1,8"]) == 0
    expected = {"runtime": "pytorch", "threads": 2, "input_shapes": [(1, 8)], "layers": False}
    assert api.calls["benchmark"] == (["m.onnx", "m.onnx"], expected)


def test_failed_verification_is_exit_code_1(api: StandIn, model: str, capsys: pytest.CaptureFixture[str]) -> None:
    api.proof = replace(PROOF, verdict="FAILED", max_error=0.3)
    assert run(["verify", "m.onnx", "plan.json", "--plan", "plan.json"]) == 1
    out, err = capsys.readouterr()
    assert "Verification FAILED" in out
    assert "differs from the masked 'm.onnx' by up to 0.3" in err


@pytest.mark.parametrize(
    ("failure", "code", "sentence"),
    [
        (VerificationError("it\n  differs"), 1, "error: it differs"),
        (InputError("no good"), 2, "error: no good"),
        (OSError(28, "No space left on device", "o.onnx"), 2, "No space left on device ('o.onnx')"),
        (ZeroDivisionError("x"), 3, "ZeroDivisionError: x; this is a bug, GRAPHPRUNE_DEBUG=1 shows where"),
        (
            PassError("cannot rewrite node 'n'"),
            3,
            "cannot rewrite node 'n'; this is a bug, GRAPHPRUNE_DEBUG=1 shows where",
        ),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_every_failure_has_its_code_and_leaves_no_output(
    api: StandIn, model: str, capsys: pytest.CaptureFixture[str], failure: BaseException, code: int, sentence: str
) -> None:
    api.failure = failure
    assert run(["prune", "m.onnx", "-o", "o.onnx", "--target", "macs=0.5"]) == code
    assert sentence in capsys.readouterr().err.splitlines()[-1]
    assert not Path("o.onnx").exists()


def test_debug_shows_the_traceback(
    api: StandIn, model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRAPHPRUNE_DEBUG", "1")
    api.failure = ZeroDivisionError("x")
    assert run(["prune", "m.onnx", "-o", "o.onnx", "--target", "macs=0.5"]) == 3
    assert "Traceback" in capsys.readouterr().err


PRUNE = "prune m.onnx -o o.onnx --target macs=0.5 "


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        (
            "prune m.onnx -o o.onnx --target speed=0.5",
            "unknown target 'speed'; known are channels, params, macs (written channels=0.5)",
        ),
        ("prune m.onnx -o o.onnx --target 0.5", "unknown target '0.5'"),
        ("prune m.onnx -o o.onnx --target mac=0.5", "unknown target 'mac', did you mean 'macs'?; known are"),
        ("prune m.onnx -o o.onnx --target macs=0.5 --target macs=0.4", "--target macs is given 2 times"),
        ("prune m.onnx -o o.onnx --target macs", "has no value"),
        ("prune m.onnx -o o.onnx --target macs=half", "'half' is not a number"),
        ("prune m.onnx -o o.onnx --target macs=nan", "above 0 and at most 1, not nan"),
        ("prune m.onnx -o o.onnx --target macs=0", "above 0 and at most 1, not 0"),
        ("prune m.onnx -o o.onnx --target macs=1.01", "above 0 and at most 1, not 1.01"),
        ("prune m.onnx -o o.onnx --target latency=0.6x", "latency=... comes with a later version"),
        ("prune nope.onnx -o o.onnx --target macs=1", "there is no file 'nope.onnx'"),
        ("prune . -o o.onnx --target macs=1", "'.' is a folder without config.json"),
        ("prune m.onnx -o m.onnx --target macs=1", "--output 'm.onnx' is an input as well"),
        ("prune m.onnx -o alias.onnx --target macs=1", "--output 'alias.onnx' is an input as well"),
        ("prune m.onnx -o o.pt2 --target macs=1", "--output 'o.pt2' must end in .onnx"),
        ("prune a.b:c -o o.bin --target macs=1", "must end in .pt2 or .safetensors or .onnx"),
        ("prune m.onnx -o nowhere/o.onnx --target macs=1", "there is no folder 'nowhere'"),
        ("prune m.onnx -o dir.onnx --target macs=1", "is a folder"),
        ("prune m.onnx -o /proc/o.onnx --target macs=1", "--output '/proc/o.onnx' cannot be written"),
        (PRUNE + "--plan-out p.onnx", "--plan-out 'p.onnx' must end in .json"),
        (PRUNE + "--plan-out r.json --report r.json", "--report 'r.json' is --plan-out as well"),
        (PRUNE + "--floor 2", "Invalid value for '--floor'"),
        (PRUNE + "--floor many", "Invalid value for '--floor'"),
        (PRUNE + "--align 0", "Invalid value for '--align'"),
        (PRUNE + "--align x", "Invalid value for '--align'"),
        (PRUNE + "--grouped both", "Invalid value for '--grouped'"),
        (PRUNE + "--override conv1", "write GLOB=RATIO"),
        (PRUNE + "--override conv1=2", "above 0 and at most 1"),
        (PRUNE + "--input-shape 1,x", "sizes are whole numbers"),
        (PRUNE + "--input-shape 1,0", "sizes are whole numbers"),
        (PRUNE + "--input-shape x=1 --input-shape 2", "a name with every shape or with none"),
        (PRUNE + "--input-shape x=1 --input-shape x=2", "given twice"),
        (PRUNE + "--data d.npz", "there is no file 'd.npz'"),
        (PRUNE + "--frobnicate", "No such option"),
        ("prune m.onnx --target macs=0.5", "Missing option '--output'"),
        ("sparsify m.onnx -o o.onnx --data nope.npz", "there is no file 'nope.npz'"),
        ("sparsify m.onnx -o o.bin --pattern 2:4", "--output 'o.bin' must end in .onnx"),
        ("apply m.onnx --plan nope.json -o o.onnx", "there is no file 'nope.json'"),
        ("apply m.onnx --plan plan.json -o plan.json", "is an input as well"),
        ("verify m.onnx nope.onnx --plan plan.json", "there is no file 'nope.onnx'"),
        ("bench", "Missing argument"),
        ("bench m.onnx --threads 0", "Invalid value for '--threads'"),
        ("frob", "No such command 'frob'"),
    ],
)
def test_bad_usage_is_one_line_and_exit_code_2(
    api: StandIn, model: str, capsys: pytest.CaptureFixture[str], line: str, sentence: str
) -> None:
    Path("alias.onnx").symlink_to("m.onnx")
    Path("dir.onnx").mkdir()
    before = sorted(Path().iterdir())
    assert run(line.split()) == 2
    assert sentence in error_line(capsys)
    assert sorted(Path().iterdir()) == before
    assert not api.calls


def test_inspect_takes_whole_groups(api: StandIn, model: str) -> None:
    assert run(["inspect", "m.onnx", "--grouped", "whole"]) == 0
    assert api.calls["inspect"] == {"grouped": "whole"}
