"""What the tests of the passes share: small models of both kinds, and executed equality of two graphs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from graphprune import frontends
from graphprune.coupling import couple
from graphprune.frontends import onnx as onnx_frontend
from graphprune.frontends import torch as torch_frontend
from graphprune.ir.graph import Graph
from graphprune.passes.base import Pass
from graphprune.verification.proof import verify


def rand(*shape: int, seed: int = 0) -> np.ndarray:
    """Random numbers between a half and one and a half: good for variances, too."""
    return (np.random.default_rng(seed + sum(shape)).random(shape) + 0.5).astype(np.float32)


def onnx_graph(
    nodes: Sequence[onnx.NodeProto],
    x: Sequence[int | str],
    y: Sequence[int | str],
    weights: Mapping[str, Any] | None = None,
    opset: int = 17,
) -> Graph:
    """The graph of an ONNX model from "x" to "y"."""
    graph = helper.make_graph(
        list(nodes),
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, list(x))],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, list(y))],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in (weights or {}).items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    onnx.checker.check_model(model, full_check=True)
    return onnx_frontend.from_model(model)


def torch_graph(module: Any, *inputs: Any) -> Graph:
    """The graph of a module in eval mode."""
    return torch_frontend.capture(module.eval(), inputs)


def norm_weights(size: int, prefix: str = "bn") -> dict[str, np.ndarray]:
    """Parameters and statistics of a batch norm."""
    return {f"{prefix}.{name}": rand(size, seed=i) for i, name in enumerate(("scale", "bias", "mean", "var"))}


def norm(x: str, y: str, prefix: str = "bn") -> onnx.NodeProto:
    """A batch norm over `norm_weights`."""
    names = [f"{prefix}.{name}" for name in ("scale", "bias", "mean", "var")]
    return helper.make_node("BatchNormalization", [x, *names], [y], epsilon=1e-2)


def dump(graph: Graph) -> list[tuple[Any, ...]]:
    """All that a pass could change, for comparison."""
    rows: list[tuple[Any, ...]] = [tuple(v.name for v in graph.inputs), tuple(v.name for v in graph.outputs)]
    for node in graph.nodes:
        wires = [None if v is None else (v.name, v.shape, v.weight) for v in (*node.inputs, *node.outputs)]
        rows.append((node.kind, node.name, wires, repr(node.attrs), node.changed))
    return rows


def foreign(graph: Graph) -> Any:
    """The model of a graph; checked where it is ONNX."""
    emitted = frontends.emit(graph)
    if graph.frontend == "onnx":
        onnx.checker.check_model(emitted, full_check=True)
    return getattr(emitted, "module", emitted)


def assert_same(before: Graph, after: Graph, limit: float = 1e-4) -> None:
    """Executed equality on random inputs."""
    coupling = couple(before)
    proof = verify(coupling, np.ones(coupling.count, bool), foreign(after))
    assert proof.passed and proof.max_error <= limit, proof


def apply(step: Pass, graph: Graph) -> Graph:
    """Run a pass that must change something and keep what the model computes; checks its whole contract."""
    was = dump(graph)
    after = step.run(graph)
    assert dump(graph) == was, "the pass altered the graph it was given"
    assert after is not graph, "the pass changed nothing"
    after.check()
    assert step.run(after) is after, "a second run changes something"
    assert_same(graph, after)
    return after


def kinds(graph: Graph) -> list[str]:
    """The kinds of all nodes, functions of elementwise ones instead."""
    return [node.attrs["fn"] if node.kind == "elementwise" else node.kind for node in graph.nodes]
