"""Small ONNX models for the tests of the frontend, and how to run and compare them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from graphprune.frontends import onnx as frontend
from graphprune.ir.graph import Graph, Node

Dims = Sequence[int | str | None]
IR = {9: 4, 10: 5, 11: 6, 12: 7, 13: 7, 14: 7, 15: 8, 16: 8, 17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10, 23: 11}


def weight(*shape: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    """Random numbers."""
    return np.random.default_rng(seed + sum(shape)).standard_normal(shape).astype(dtype)


def ints(*values: int) -> np.ndarray:
    """A 1-d int64 tensor."""
    return np.array(values, np.int64)


def model(
    nodes: Sequence[NodeProto],
    inputs: Mapping[str, Dims],
    outputs: Sequence[str] = ("y",),
    weights: Mapping[str, Any] | None = None,
    opset: int = 17,
    types: Mapping[str, int] | None = None,
    **extra: Any,
) -> ModelProto:
    """A model whose outputs' types are inferred."""
    types = types or {}
    graph = helper.make_graph(
        list(nodes),
        "test",
        [helper.make_tensor_value_info(n, types.get(n, TensorProto.FLOAT), d) for n, d in inputs.items()],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(np.asarray(a), n) for n, a in (weights or {}).items()],
    )
    extra.setdefault("ir_version", IR[opset])
    if extra["ir_version"] < 4:
        graph.input.extend(helper.make_tensor_value_info(i.name, i.data_type, i.dims) for i in graph.initializer)
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], **extra)
    inferred = onnx.shape_inference.infer_shapes(made, strict_mode=True, data_prop=True)
    del inferred.graph.value_info[:]
    for output in inferred.graph.output:
        if not output.type.tensor_type.elem_type:
            kind = types.get(output.name, TensorProto.FLOAT)
            shape = None if output.name in types else next(iter(inputs.values()))
            output.CopyFrom(helper.make_tensor_value_info(output.name, kind, shape))
    return inferred


def node(op: str, inputs: str, outputs: str = "y", **attrs: Any) -> NodeProto:
    """A node with its operands as space-separated names ('_' for an absent one)."""
    names = ["" if name == "_" else name for name in inputs.split()]
    return helper.make_node(
        op, names, ["" if o == "_" else o for o in outputs.split()], name=f"{op}_{outputs}", **attrs
    )


def linear(opset: int = 17, **extra: Any) -> ModelProto:
    """`relu(x @ w + b)`, `w` of 2 KiB."""
    nodes = [node("MatMul", "x w", "h"), node("Add", "h b", "a"), node("Relu", "a")]
    return model(nodes, {"x": ("batch", 16)}, weights={"w": weight(16, 32), "b": weight(32)}, opset=opset, **extra)


def feeds(graph: Graph, sizes: Mapping[str, tuple[int, ...]] | None = None, seed: int = 0) -> dict[str, np.ndarray]:
    """Random inputs of the bound sizes, or of other ones."""
    random, found = np.random.default_rng(seed), {}
    for value in graph.inputs:
        shape = (sizes or {}).get(value.name, value.shape)
        if value.dtype.kind in "iu":
            found[value.name] = random.integers(0, 2, shape).astype(value.dtype)
        elif value.dtype.kind == "b":
            found[value.name] = np.asarray(random.random(shape) < 0.5)
        else:
            found[value.name] = random.standard_normal(shape).astype(value.dtype)
    return found


def run(made: ModelProto | str, inputs: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    """The outputs in onnxruntime, with its own optimisations off."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = made if isinstance(made, str) else made.SerializeToString()
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    return session.run(None, dict(inputs))


def checked(graph: Graph) -> ModelProto:
    """Write a graph and hold the result to the checker with full shape inference."""
    graph.check()
    made = frontend.emit(graph)
    if not any(n.op == "GroupNormalization" for n in graph.nodes):  # the checker rejects opset 18's form of it
        onnx.checker.check_model(made, full_check=True)
    return made


def assert_round_trip(made: ModelProto, sizes: Mapping[str, tuple[int, ...]] | None = None) -> Graph:
    """Load, write, run both: the outputs are the same, also at other sizes of the dynamic axes."""
    graph = frontend.from_model(made)
    again = checked(graph)
    for bound in (None, sizes):
        inputs = feeds(graph, bound)
        for a, b in zip(run(made, inputs), run(again, inputs), strict=True):
            np.testing.assert_array_equal(a, b)
    return graph


def only(graph: Graph, kind: str) -> Node:
    """The one node of a kind."""
    (found,) = [n for n in graph.nodes if n.kind == kind]
    return found
