"""The coverage harness: what it says of a result, and the random weights that let a proof see something."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

import graphprune as gp
from benchmarks import common, coverage, coverage_page, random_weights, suites

GOOD = {"case": "zoo/torch/a", "commit": "x", "valid": True, "verified": True, "ratio": 0.4, "parameters": 10_000_000}
LARGE = GOOD | {"case": "zoo/torch/b", "ratio": 0.7, "stops": ["aten.sort `sort`: mixes (60%)"]}
WRONG = GOOD | {"case": "zoo/onnx/a", "verified": False, "note": "differs by 3"}
BROKEN = {"case": "zoo/onnx/b", "commit": "x", "error": "stopped after 600 s", "step": "planning"}
PEERS = {"a": {"valid": True}, "b": {"error": "KeyError: no rule"}}
REFUSED = {"case": "zoo/export/c", "commit": "x", "error": "RuntimeError: no"}


def test_what_falls_short() -> None:
    assert [coverage_page.fell_short(r) for r in (GOOD, LARGE, WRONG, BROKEN)] == [False, True, True, True]


def test_the_page_counts_results_and_says_what_stopped_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coverage_page, "FOLDER", tmp_path)
    found = {item["case"]: item for item in (GOOD, LARGE, WRONG, BROKEN, REFUSED)}
    coverage_page.record("zoo", found, ["a", "b", "c"])
    coverage_page.publish(tmp_path / "coverage.md")
    page = (tmp_path / "coverage.md").read_text()
    assert "| zoo | PyTorch | 2 of 3 | 2 | 2 | - | 1 | 0 | - |" in page
    assert "| zoo | ONNX | 2 of 3 | 1 | 0 | - | 0 | - | 1 |" in page
    assert "| b | PyTorch | 0.700 | aten.sort `sort`: mixes (60%) |" in page
    assert "| a | ONNX | 0.400 | not verified: differs by 3 |" in page
    assert "planning: stopped after 600 s" in page
    assert "| RuntimeError: no | ONNX | c |" in page


def test_the_default_configuration_has_a_row_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage_page, "FOLDER", tmp_path)
    coverage_page.record("zoo", {i["case"]: i for i in (GOOD, GOOD | {"case": "zoo/default/a"})}, ["a", "b"])
    coverage_page.publish(tmp_path / "coverage.md")
    page = (tmp_path / "coverage.md").read_text()
    assert "| zoo | default configuration | 1 of 2 | 1 | 1 | - | 1 | 0 | - | 0.0 |" in page
    assert "any exporter" not in page


def test_a_default_configuration_is_what_a_user_has() -> None:
    module, inputs = suites.defaults("transformers").build_default("llava")
    assert type(module).__name__ == "LlavaForConditionalGeneration"
    assert module.config.text_config.use_cache is True
    made = suites.defaults("transformers").main_result(module(**inputs))
    assert made.shape == (2, 24, 128)


def test_the_page_has_a_table_of_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage_page, "FOLDER", tmp_path)
    before = {"zoo": {"passed": 7, "little": ["zoo/torch/a", "zoo/torch/b"], "failed": ["zoo/onnx/a"]}}
    (tmp_path / "before").mkdir()
    (tmp_path / coverage_page.THEN).write_text(json.dumps(before))
    now = [GOOD | {"verdict": "passed"}, LARGE | {"verdict": "undecided", "verified": False, "note": "too little"}]
    coverage_page.record("zoo", {item["case"]: item for item in (*now, WRONG | {"verdict": "FAILED"})}, ["a", "b"])
    coverage_page.record("new", {"new/torch/a": GOOD | {"case": "new/torch/a", "verdict": "passed"}}, ["a"])
    coverage_page.publish(tmp_path / "coverage.md")
    page = (tmp_path / "coverage.md").read_text()
    assert "| zoo | 9 | 2 | 1 | 3 | 1 | 1 | 1 |" in page
    assert "| new | - | - | - | 1 | 1 | 0 | 0 |" in page
    assert "| b | PyTorch | 0.700 | undecided: too little |" in page


def test_the_best_file_of_a_model_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage_page, "FOLDER", tmp_path)
    others = [GOOD | {"case": "zoo/torchscript-17/a"}, LARGE | {"case": "zoo/torchscript-17/b"}]
    coverage_page.record("zoo", {item["case"]: item for item in (WRONG, BROKEN, REFUSED, *others)}, ["a", "b", "c"])
    coverage_page.publish(tmp_path / "coverage.md")
    assert "| zoo | ONNX by any exporter | 2 of 3 | 2 | 2 | - | 1 | - | 1 |" in (tmp_path / "coverage.md").read_text()


def test_libraries_have_a_page_with_verdicts_the_peer_and_an_earlier_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def at(case: str, **facts: object) -> dict[str, object]:
        return {**GOOD, "case": case, "form": "own class", **facts}

    earlier = [at("monai/torch/a", ratio=0.6), BROKEN | {"case": "monai/torch/b"}]
    monkeypatch.setattr(coverage_page, "FOLDER", tmp_path / "before")
    coverage_page.record("monai", {str(item["case"]): item for item in earlier}, ["a", "b"])
    monkeypatch.setattr(coverage_page, "FOLDER", tmp_path)
    undecided = at("monai/torch/b", verified=False, verdict="undecided", note="the outputs hardly vary")
    peer = {"build_s": 0.1, "prune_s": 0.2, "params_ratio": 0.3}
    others = [{"commit": "x", "case": f"monai/torch-pruning/{name}"} | facts for name, facts in PEERS.items()]
    found = [at("monai/torch/a"), undecided, others[0] | peer, others[1]]
    coverage_page.record("monai", {str(item["case"]): item for item in found}, ["a", "b"])
    coverage_page.publish(tmp_path / "coverage.md")
    assert not (tmp_path / "coverage.md").exists()
    page = (tmp_path / "coverage-libraries.md").read_text()
    assert "| monai | PyTorch | 2 of 2 | 2 | 1 | 1 | 1 | 2 | - |" in page
    assert "| monai | Torch-Pruning | 2 of 2 | 1 | - | - | 1 | 1 | - | 0.3 |" in page
    assert "| monai | PyTorch at x | 2 of 2 | 1 | 1 | - | 0 | 1 | - |" in page
    assert "| b | PyTorch | 0.400 | undecided: the outputs hardly vary |" in page
    assert [row.split("|")[-2].strip() for row in page.splitlines() if row.startswith(("| a | 10", "| b | 10"))] == [
        "0.300",
        "KeyError",
    ]


def test_paths_in_errors_begin_where_packages_lie() -> None:
    text = "no (at /home/me/venv/lib/python3.11/site-packages/timm/layers.py:5: 'x')"
    assert common.portable(text) == "no (at site-packages/timm/layers.py:5: 'x')"
    assert common.portable(f"'{common.ROOT}/.cache/onnx/a.onnx'") == "'.cache/onnx/a.onnx'"


def test_a_case_that_was_not_run_keeps_its_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coverage_page, "FOLDER", tmp_path)
    names = ["a", "b"]
    coverage_page.record("zoo", {GOOD["case"]: GOOD, LARGE["case"]: LARGE}, names)
    coverage_page.record("zoo", {LARGE["case"]: LARGE | {"ratio": 0.5}}, names)
    found = json.loads((tmp_path / "coverage-zoo.json").read_text())["records"]
    assert [item["ratio"] for item in found] == [0.4, 0.5]


def test_what_froze_most_parameters_comes_first() -> None:
    class Sorted(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.last = nn.Linear(8, 64), nn.Linear(64, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            made: torch.Tensor = self.last(self.first(x).sort(-1).values)
            return made

    graph = gp.capture(Sorted(), torch.randn(3, 8))
    first = coverage.stops(graph, gp.inspect(graph).frozen)[0]
    assert "sort" in first and "mixes this axis" in first


def test_constant_vectors_get_entries_that_differ() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    model.register_parameter("gamma", nn.Parameter(torch.full((4,), 1e-6)))
    model[0].bias.data.zero_()
    random_weights.vary(model)
    for tensor in (*model.parameters(), model[1].running_mean, model[1].running_var):
        assert tensor.std() > 0
    assert model.gamma.min() >= 0.5


def test_a_zero_head_is_awakened() -> None:
    model = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2))
    nn.init.zeros_(model[1].weight)
    random_weights.awaken(model, torch.randn(2, 4), torch.randn(2, 4))
    assert model[1].weight.any()


def test_a_signal_that_fades_in_a_volume_is_awakened() -> None:
    layers = [part for _ in range(6) for part in (nn.Conv3d(2, 2, 3, padding=1, bias=False), nn.ReLU())]
    model = nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 2))
    with torch.no_grad():
        for layer in layers[::2]:
            layer.weight.mul_(1e-3)
    one, two = torch.randn(1, 2, 4, 4, 4), torch.randn(1, 2, 4, 4, 4)
    random_weights.awaken(model, one, two)
    assert (model(one) - model(two)).std() > 1e-3


def test_tensors_of_nested_outputs() -> None:
    one, two = torch.zeros(1), torch.zeros(2)
    found = random_weights.tensors({"a": one, "b": [two, (one, None, 3)]})
    assert [tuple(t.shape) for t in found] == [(1,), (2,), (1,)]


@pytest.mark.parametrize("name", suites.suites())
def test_a_suite_names_each_model_once(name: str) -> None:
    names = suites.suite(name).names()
    assert len(names) == len(set(names)) > 0
