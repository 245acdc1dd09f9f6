"""onnx's own reference evaluator, and the proof that falls back to it where onnxruntime refuses the original file."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from graphprune import frontends, runtimes
from graphprune.coupling import couple
from graphprune.errors import BackendError, UnsupportedError
from graphprune.ir.graph import Graph
from graphprune.passes.remove_channels import remove_channels
from graphprune.pruning.budgets import targets
from graphprune.verification import proof
from tests.helpers import graph_of, random_plan
from tests.ops.examples_onnx import node, normal

from .models import linear


def rotary(op: str = "RotaryEmbedding", domain: str = "") -> onnx.ModelProto:
    """As torch 2.13 exports it at opset 23: one table of angles for a batch of two, which onnxruntime refuses."""
    nodes = [
        node("MatMul", "x a", "h"), node("Reshape", "h apart", "i"), node("Transpose", "i", "j", perm=[0, 2, 1, 3]),
        node(op, "j cos sin", "k", domain=domain), node("Transpose", "k", "l", perm=[0, 2, 1, 3]),
        node("Reshape", "l together", "m"), node("MatMul", "m b", "y"),
    ]  # fmt: skip
    weights = {"a": normal(3, 32), "cos": normal(1, 5, 4), "sin": normal(1, 5, 4, seed=1), "b": normal(32, 2)}
    made = {n: onnx.numpy_helper.from_array(w, n) for n, w in weights.items()}
    for name, sizes in (("apart", [2, 5, 4, 8]), ("together", [2, 5, 32])):
        made[name] = onnx.numpy_helper.from_array(np.array(sizes), name)
    value = onnx.helper.make_tensor_value_info
    ends = [value(n, onnx.TensorProto.FLOAT, [2, 5, size]) for n, size in (("x", 3), ("y", 2))]
    graph = onnx.helper.make_graph(nodes, "rotary", ends[:1], ends[1:], list(made.values()))
    opsets = [onnx.helper.make_opsetid("", 23), *([onnx.helper.make_opsetid(domain, 1)] if domain else [])]
    return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=11)


def _pruned(graph: Graph, seed: int = 0) -> tuple[Any, Any, Any]:
    coupling = couple(graph)
    keep = random_plan(coupling, targets.channels(0.5), seed).kept(coupling)
    return coupling, keep, frontends.emit(remove_channels(coupling, keep))


def test_it_runs_what_onnxruntime_runs() -> None:
    x = np.random.default_rng(0).standard_normal((3, 8)).astype(np.float32)
    found, expected = (runtimes.get(n).compile(linear()).run([x]) for n in ("reference", "onnxruntime"))
    np.testing.assert_allclose(found[0], expected[0], rtol=1e-5)


def test_where_the_original_is_refused_both_run_on_the_reference_evaluator() -> None:
    graph = graph_of(rotary())
    with pytest.raises(UnsupportedError, match="RotaryEmbedding"):
        runtimes.get("onnxruntime").compile(rotary()).run([np.zeros((2, 5, 3), np.float32)])
    coupling, keep, model = _pruned(graph)
    reference = proof.Reference(coupling, keep)
    good = reference.compare(model)
    assert good.passed and good.exact_groups == 1
    assert "RotaryEmbedding" in good.detail and "the original file, before anything was removed" in good.detail
    seed = next(s for s in range(1, 9) if (_pruned(graph, s)[1] != keep).any())
    bad = reference.compare(_pruned(graph, seed)[2])
    assert not bad.passed and "results differ by" in bad.detail


def test_a_refusal_of_the_pruned_model_alone_is_no_reason_to_fall_back() -> None:
    """The original runs on onnxruntime: so must the result."""
    made = linear()
    made.graph.node.append(onnx.helper.make_node("MatMul", ["y", "last"], ["z"]))
    made.graph.initializer.append(onnx.numpy_helper.from_array(normal(4, 2), "last"))
    made.graph.output[0].name, made.graph.output[0].type.tensor_type.shape.dim[1].dim_value = "z", 2
    coupling, keep, _ = _pruned(graph_of(made))
    strange = onnx.ModelProto()
    strange.CopyFrom(made)
    del strange.graph.node[1].input[1]
    with pytest.raises(BackendError, match="onnxruntime cannot load"):
        proof.Reference(coupling, keep).compare(strange)


def test_what_neither_runs_is_said_to_be_the_original() -> None:
    """An operator of a domain that nobody knows."""
    graph = frontends.frontend("onnx").from_model(rotary("Mystery", "elsewhere"))
    coupling = couple(graph)
    with pytest.raises(BackendError, match="Mystery"):
        proof.Reference(coupling, np.ones(coupling.count, bool))
