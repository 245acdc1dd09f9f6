"""NVIDIA's polygraphy, which knows what TensorRT takes for 2:4, says of every weight what we say of it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import graphprune as gp

DIGITS = Path(__file__).parents[2] / "models" / "digits_resnet.onnx"
_MAIN = "import sys; from polygraphy.tools import main; sys.exit(main())"
_SAID = re.compile(r"Found (non-)?sparse tensor: (\S+)")


def inspected(path: Path) -> dict[str, bool]:
    """What `polygraphy inspect sparsity` says of each weight it looks at: those of Conv, Gemm and MatMul in fours."""
    pytest.importorskip("polygraphy", reason="polygraphy is not installed (pip install polygraphy)")
    command = [sys.executable, "-c", _MAIN, "inspect", "sparsity", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: not dense for dense, name in _SAID.findall(done.stdout + done.stderr)}


@pytest.mark.parametrize("exclude", [(), ("blocks.1*", "blocks.5.conv2*", "classifier*")])
def test_it_agrees_on_the_digits_model(tmp_path: Path, exclude: tuple[str, ...]) -> None:
    result = gp.sparsify(DIGITS, pattern="2:4", exclude=exclude)
    result.save(tmp_path / "sparse.onnx")
    said = inspected(tmp_path / "sparse.onnx")
    assert len(said) == 15
    assert {name for name, sparse in said.items() if sparse} == set(result.masks)


def products(dtype: int) -> onnx.ModelProto:
    """MatMul, and Gemm with the weight either way up; the last is too short to be in fours."""
    kind = helper.tensor_dtype_to_np_dtype(dtype)
    rng = np.random.default_rng(0)
    sizes = {"a": (16, 24), "b": (24, 12), "c": (20, 12), "d": (20, 6), "e": (6, 5)}
    weights = [numpy_helper.from_array(rng.standard_normal(shape).astype(kind), n) for n, shape in sizes.items()]
    nodes = [
        helper.make_node("MatMul", ["x", "a"], ["1"]),
        helper.make_node("Gemm", ["1", "b"], ["2"]),
        helper.make_node("Gemm", ["2", "c"], ["3"], transB=1),
        helper.make_node("MatMul", ["3", "d"], ["4"]),
        helper.make_node("MatMul", ["4", "e"], ["y"]),
    ]
    ends = [helper.make_tensor_value_info(name, dtype, [2, size]) for name, size in (("x", 16), ("y", 5))]
    graph = helper.make_graph(nodes, "products", ends[:1], ends[1:], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


@pytest.mark.parametrize("dtype", [TensorProto.FLOAT, TensorProto.FLOAT16])
def test_it_agrees_on_products_of_either_kind(tmp_path: Path, dtype: int) -> None:
    result = gp.sparsify(products(dtype), pattern="2:4", exclude=["b"])
    result.save(tmp_path / "sparse.onnx")
    assert inspected(tmp_path / "sparse.onnx") == {"a": True, "b": False, "c": True, "d": True}
    assert set(result.masks) == {"a", "c", "d"}
