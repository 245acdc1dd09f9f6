"""What sparse kernels can run: each rule on a small model, shares, limits against torch's own, measurements, report."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from rich.console import Console
from torch import nn

import graphprune as gp
from graphprune.cli.entry import run
from graphprune.errors import InputError
from graphprune.frontends import onnx as onnx_frontend
from graphprune.ir.graph import Graph
from graphprune.passes.cast_precision import CastPrecision
from graphprune.passes.sparsify import Sparsify
from graphprune.sparsity import find_layers
from graphprune.sparsity.eligibility import Verdict, judge, patterns_met, shares
from graphprune.sparsity.measured import Measured, Product, read_measured
from graphprune.sparsity.rules import RULES, SEMI_STRUCTURED, semi_structured

DIGITS = Path(__file__).parents[2] / "models" / "digits_resnet.onnx"
node = helper.make_node


def some(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32)


def graph_of(nodes: list[onnx.NodeProto], x: list[int], y: list[int], weights: dict[str, np.ndarray]) -> Graph:
    infos = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in (("x", x), ("y", y))]
    tensors = [numpy_helper.from_array(a, n) for n, a in weights.items()]
    made = helper.make_model(
        helper.make_graph(nodes, "g", infos[:1], infos[1:], tensors), opset_imports=[helper.make_opsetid("", 17)]
    )
    onnx.checker.check_model(made, full_check=True)
    return onnx_frontend.from_model(made)


def linear(rows: int = 4, length: int = 256, outputs: int = 256) -> Graph:
    nodes = [node("MatMul", ["x", "w"], ["y"], name="product")]
    return graph_of(nodes, [rows, length], [rows, outputs], {"w": some(length, outputs)})


def found(verdict: Verdict) -> dict[str, str]:
    return {finding.rule: finding.text for finding in verdict.findings}


def only(graph: Graph, measured: Measured | None = None) -> Verdict:
    (verdict,) = judge(graph, measured)
    return verdict


def test_a_dense_float32_product_becomes_eligible_step_by_step() -> None:
    verdict = only(linear())
    assert found(verdict) == {"pattern": "its weights are not 2:4", "precision": "it computes in float32"}
    assert (verdict.can, verdict.now, verdict.met, verdict.rows) == (True, False, (), 4)
    sparse = only(Sparsify().run(linear()))
    assert (found(sparse), sparse.met) == ({"precision": "it computes in float32"}, ("2:4",))
    assert sparse.zeros == 0.5
    half = only(CastPrecision().run(Sparsify().run(linear())))
    assert (found(half), half.now, half.dtype, half.torch) == ({}, True, "float16", "")


@pytest.mark.parametrize(
    ("pattern", "met"),
    [
        ("2:4", ("2:4",)),
        ("1:4", ("1:4",)),
        ("4:8", ("4:8",)),
        ("2:8", ("2:8",)),
        ("3:4", ("3:4",)),
        ("5:16", ("5:16",)),
    ],
)
def test_patterns_are_counted_along_the_contracted_axis(pattern: str, met: tuple[str, ...]) -> None:
    graph = Sparsify(pattern).run(linear(2, 64, 48))
    (layer,), _ = find_layers(graph)
    array = layer.value.weight.array()  # type: ignore[union-attr]
    counted = patterns_met(layer, array)
    assert counted[-1:] == met
    for text in counted:
        n, m = map(int, text.split(":"))
        groups = [column[i : i + m] for column in array.T for i in range(0, 64, m)]
        assert max(int((group != 0).sum()) for group in groups) == n


@pytest.mark.parametrize(
    ("op", "shape", "x", "y", "rule", "text"),
    [
        ("Conv", (256, 64, 1, 1), [1, 256, 4, 4], [1, 256, 4, 4], "groups", "it is a convolution in 4 groups"),
        ("Conv", (256, 3, 3, 3), [1, 3, 6, 6], [1, 256, 4, 4], "length", "sums of 3 products do not divide"),
        ("ConvTranspose", (256, 256, 1, 1), [1, 256, 4, 4], [1, 256, 4, 4], "operator", "it is a transposed convolut"),
        ("Einsum", (256, 256), [4, 256], [4, 256], "operator", "it is a einsum, no convolution"),
        ("Conv", (128, 64, 1, 1), [1, 64, 4, 4], [1, 128, 4, 4], "channels", "64 inputs and 128 outputs are few"),
        ("Conv", (256, 20, 5, 5), [1, 20, 6, 6], [1, 256, 2, 2], "alignment", "20 inputs and 256 outputs are not"),
    ],
)
def test_each_rule_on_one_operator(
    op: str, shape: tuple[int, ...], x: list[int], y: list[int], rule: str, text: str
) -> None:
    options: dict[str, Any] = {"equation": "ab,bc->ac"} if op == "Einsum" else {}
    if rule == "groups":
        options = {"group": 4}
    verdict = only(graph_of([node(op, ["x", "w"], ["y"], **options)], x, y, {"w": some(*shape)}))
    assert found(verdict)[rule].startswith(text)
    assert verdict.can == (RULES[rule].level != "never")


def test_three_by_three_kernels_count_nine_times() -> None:
    graph = graph_of([node("Conv", ["x", "w"], ["y"])], [1, 32, 6, 6], [1, 256, 4, 4], {"w": some(256, 32, 3, 3)})
    assert "channels" not in found(only(graph))
    assert only(graph).rows == 16


@pytest.mark.parametrize("after", ["quantised", "relu", "float"])
def test_int8_needs_a_quantised_output(after: str) -> None:
    nodes = [
        node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
        node("DequantizeLinear", ["wq", "s", "z"], ["wd"]),
        node("MatMul", ["xd", "wd"], ["h"]),
    ]
    nodes += [node("Relu", ["h"], ["r"])] if after == "relu" else []
    last = "r" if after == "relu" else "h"
    if after == "float":
        nodes.append(node("Exp", [last], ["y"]))
    else:
        nodes += [node("QuantizeLinear", [last, "s", "z"], ["q"]), node("DequantizeLinear", ["q", "s", "z"], ["y"])]
    weights = {"s": np.array(0.1, np.float32), "z": np.array(0, np.int8)}
    weights["wq"] = np.tile(np.array([[3], [0], [0], [-2]], np.int8), (64, 256))
    verdict = only(graph_of(nodes, [4, 256], [4, 256], weights))
    assert verdict.dtype == "int8"
    assert verdict.met == ("2:4",)
    assert verdict.now == (after != "float")
    assert found(verdict).get("quantised output", "") == ("its output is not quantised" if after == "float" else "")
    assert "quantised" in found(verdict)


def test_shares_are_of_all_multiply_accumulates() -> None:
    nodes = [node("MatMul", ["x", "w"], ["h"]), node("MatMul", ["h", "v"], ["y"])]
    graph = graph_of(nodes, [2, 256], [2, 6], {"w": some(256, 250), "v": some(250, 6)})
    verdicts = judge(graph)
    assert [v.can for v in verdicts] == [True, False]
    total = 2 * (256 * 250 + 250 * 6)
    expected = {"can": 2 * 256 * 250 / total, "now": 0.0, "likely": 0.0}
    assert shares(verdicts, total) == pytest.approx(expected)


def test_torch_limits_are_those_of_the_installed_torch() -> None:
    from torch.sparse import SparseSemiStructuredTensorCUSPARSELT, SparseSemiStructuredTensorCUTLASS

    classes = {"cusparselt": SparseSemiStructuredTensorCUSPARSELT, "cutlass": SparseSemiStructuredTensorCUTLASS}
    for backend, cls in classes.items():
        known = cls._DTYPE_SHAPE_CONSTRAINTS
        theirs = {str(t).removeprefix("torch."): (c.sparse_min_rows, c.sparse_min_cols) for t, c in known.items()}
        assert SEMI_STRUCTURED[backend] == theirs
    assert semi_structured("float16", 32, 48) == ""
    assert "is not a multiple of 16x16" in semi_structured("float16", 8, 48)
    assert "not float32" in semi_structured("float32", 64, 64)


def test_measurements_speak_for_shapes_near_them(tmp_path: Path) -> None:
    products = (Product(256, 256, "float16", 64, 1.2), Product(1024, 1024, "float16", None, 1.04))
    measured = Measured(products)
    few = only(linear(4), measured)  # float32 is compared with float16
    assert found(few)["rows"] == (
        "4 rows of data; sparse is faster from 64 rows, at most 1.20 times (measured: 256 to 256 in float16)"
    )
    assert "rows" not in found(only(linear(64), measured))
    assert "sparse is not reliably faster" in found(only(linear(64, 1024, 1024), measured))["rows"]
    assert only(linear(64, 16, 16), measured).measured == "not measured"
    path = tmp_path / "gpu.json"
    with pytest.raises(InputError, match="there is no file"):
        read_measured(path)
    rows: list[dict[str, Any]] = [
        {"k": 256, "n": 256, "dtype": "float16", "wins_from_rows": 64, "speedup": {"1": 0.7, "64": 1.2}},
        {"k": 1024, "n": 1024, "dtype": "float16", "wins_from_rows": None, "speedup": {"1": 1.04}},
        {"k": 64, "n": 64, "dtype": "float16", "wins_from_rows": None, "speedup": {}},
    ]
    path.write_text(json.dumps(rows))
    assert read_measured(path) == measured
    for text in ('{"device": "H100"}', '[{"k": 1}]', "no JSON"):
        path.write_text(text)
        with pytest.raises(InputError, match="holds no measurements of sparse products"):
            read_measured(path)


def test_every_rule_has_a_level_and_what_can_be_cited_is() -> None:
    assert {rule.level for rule in RULES.values()} == {"never", "missing", "doubt"}
    assert [name for name, rule in RULES.items() if not rule.sources] == ["batch", "left"]


def test_the_command_line_shows_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["inspect", str(DIGITS), "--sparsity", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (len(data["rows"]), round(data["can"], 3), data["now"]) == (16, 0.997, 0.0)
    assert run(["inspect", str(DIGITS), "--sparsity", "--all"]) == 0
    assert "What sparse kernels can run of" in capsys.readouterr().out
    assert run(["inspect", str(DIGITS), "--sparsity", "--blocks"]) == 2
    assert "--blocks and --sparsity show different things" in capsys.readouterr().err


def test_the_report_of_a_module_as_json_and_as_text() -> None:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(256, 512), nn.ReLU(), nn.Linear(512, 10)).eval()
    report = gp.inspect_sparsity(gp.capture(module, torch.zeros(3, 256)))
    data = json.loads(json.dumps(report.to_json()))
    assert data["format"] == "graphprune-eligibility/1"
    assert [row["name"] for row in data["rows"]] == ["0.weight", "2.weight"]
    assert data["rows"][0]["torch"] == "cusparselt takes float8_e4m3fn, int8, float16, bfloat16, not float32"
    assert data["can"] == 1.0
    console = Console(width=160, record=True, file=io.StringIO())
    report.render(console)
    text = console.export_text()
    assert "512 inputs and 10 outputs are few" in text
    assert "100.0% can run on sparse kernels, 0.0% can as the model is" in text
    assert "eligible is not picked" in text and "#3849" in text
