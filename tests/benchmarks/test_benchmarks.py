"""What the benchmark scripts compute themselves: resumed results, tables, fits, and the networks they write."""

from __future__ import annotations

import json
from pathlib import Path

import onnx
import pytest

from benchmarks import common, growth, long_graphs


def test_a_line_cut_short_is_run_again(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps({"case": "a", "x": 1}) + "\n" + '{"case": "b", "x"')
    assert common.load_results(path) == {"a": {"case": "a", "x": 1}}


def test_a_later_result_replaces_an_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    path.write_text('{"case": "a", "error": "stopped"}\n{"case": "a", "x": 2}\n')
    assert common.load_results(path)["a"] == {"case": "a", "x": 2}


def test_a_table_escapes_bars_and_marks_gaps() -> None:
    assert common.table(["m", "s"], [["a|b", None]]).splitlines()[-1] == "| a/b | - |"


def test_globs_choose_models() -> None:
    assert common.chosen(["resnet18", "resnet50", "vgg16"], "res*50,vgg*") == ["resnet50", "vgg16"]


def test_the_exponent_of_a_power_law() -> None:
    sizes = [10.0, 100.0, 1000.0]
    assert growth.exponent(sizes, [size**1.5 for size in sizes]) == pytest.approx(1.5)


@pytest.mark.parametrize("family", growth.FAMILIES)
def test_growth_networks_are_valid(family: str) -> None:
    model = growth.build(family, 20)
    onnx.checker.check_model(model, full_check=True)
    convolutions = sum(node.op_type == "Conv" for node in model.graph.node)
    assert 19 <= convolutions <= 24


@pytest.mark.parametrize("family", long_graphs.FAMILIES)
def test_long_networks_have_the_nodes_they_promise(family: str) -> None:
    model = long_graphs.FAMILIES[family](100)
    onnx.checker.check_model(model, full_check=True)
    assert 95 <= len(model.graph.node) <= 130
