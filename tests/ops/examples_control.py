"""Worked examples: bodies of If, Loop and Scan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from .examples_onnx import model, node, normal
from .registry import example

FLOAT, INT, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def info(name: str, *sizes: int, kind: int = FLOAT) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, sizes)


def body(
    nodes: Sequence[onnx.NodeProto],
    outputs: Sequence[onnx.ValueInfoProto],
    inputs: Sequence[onnx.ValueInfoProto] = (),
    weights: Mapping[str, np.ndarray] | None = None,
) -> onnx.GraphProto:
    tensors = [numpy_helper.from_array(w, name) for name, w in (weights or {}).items()]
    return helper.make_graph(list(nodes), "body", list(inputs), list(outputs), tensors)


def round_inputs(*states: onnx.ValueInfoProto) -> list[onnx.ValueInfoProto]:
    """What enters a Loop's body."""
    return [info("i", kind=INT), info("go", kind=BOOL), *states]


def positive_sum() -> list[onnx.NodeProto]:
    """`q`: whether the inputs add up to more than zero."""
    return [node("ReduceSum", "x", "total", keepdims=0), node("Greater", "total zero", "q")]


ZERO = np.zeros((), np.float32)
TRUE = np.array(True)


@example(
    """
    6 exact: a[1] ab[0] b[0]
    8 exact: c[1] d[0]
    """
)
def weights_that_only_branches_read() -> Any:
    """Both branches call their values the same, as the specification allows."""
    then = body(
        [node("MatMul", "x a", "h"), node("Add", "h ab", "i"), node("Relu", "i", "r"), node("MatMul", "r b", "o")],
        [info("o", 4, 2)],
        weights={"a": normal(3, 6), "ab": normal(6), "b": normal(6, 2)},
    )
    other = body(
        [node("MatMul", "x c", "h"), node("Tanh", "h", "r"), node("MatMul", "r d", "o")],
        [info("o", 4, 2)],
        weights={"c": normal(3, 8), "d": normal(8, 2)},
    )
    nodes = [*positive_sum(), node("If", "q", "y", then_branch=then, else_branch=other)]
    return model(nodes, {"zero": ZERO}, [4, 3], [4, 2])


@example(
    """
    6 exact: w[1] a[0] b[0]
    8 exact: a[1] ab[0] b[1] v[0]
    """
)
def values_that_cross_into_branches_and_out() -> Any:
    """What both branches read is one value; what they make is one value, too."""
    then = body([node("MatMul", "h a", "s"), node("Add", "s ab", "o")], [info("o", 4, 8)], weights={"ab": normal(8)})
    other = body([node("MatMul", "h b", "o2")], [info("o2", 4, 8)], weights={"b": normal(6, 8)})
    nodes = [
        *positive_sum(),
        node("MatMul", "x w", "g"),
        node("Relu", "g", "h"),
        node("If", "q", "j", then_branch=then, else_branch=other),
        node("Relu", "j", "k"),
        node("MatMul", "k v", "y"),
    ]
    return model(nodes, {"zero": ZERO, "w": normal(3, 6), "a": normal(6, 8), "v": normal(8, 2)}, [4, 3], [4, 2])


@example(
    """
    6 exact: w[1] v[0]
    """
)
def branch_that_hands_on_what_it_reads() -> Any:
    """One branch returns an outer value as it is, the other a changed one."""
    then = body([node("Neg", "h", "o")], [info("o", 4, 6)])
    other = body([node("Identity", "h", "p")], [info("p", 4, 6)])
    nodes = [
        *positive_sum(),
        node("MatMul", "x w", "h"),
        node("If", "q", "j", then_branch=then, else_branch=other),
        node("MatMul", "j v", "y"),
    ]
    return model(nodes, {"zero": ZERO, "w": normal(3, 6), "v": normal(6, 2)}, [4, 3], [4, 2])


@example(
    """
    8 exact: w[1] b[0] u[0] u[1] start[1] v[0] t[0]
    """
)
def loop_that_carries_a_state() -> Any:
    """A recurrent layer by hand: the state, all its values over time, and what is read from outside."""
    inner = body(
        [
            node("Identity", "go", "on"),
            node("MatMul", "h u", "m"),
            node("Add", "m g", "n"),
            node("Tanh", "n", "s"),
            node("Identity", "s", "kept"),
        ],
        [info("on", kind=BOOL), info("s", 4, 8), info("kept", 4, 8)],
        round_inputs(info("h", 4, 8)),
        {"u": normal(8, 8)},
    )
    nodes = [
        node("MatMul", "x w", "f"),
        node("Add", "f b", "g"),
        node("Loop", "three yes start", "last all", body=inner),
        node("MatMul", "last v", "p"),
        node("MatMul", "all t", "q"),
        node("ReduceSum", "q axis", "r", keepdims=0),
        node("Add", "p r", "y"),
    ]
    weights = {"w": normal(3, 8), "b": normal(8), "v": normal(8, 2), "t": normal(8, 2)}
    more = {"three": np.array(3), "yes": TRUE, "start": np.zeros((4, 8), np.float32), "axis": [0]}
    return model(nodes, {**weights, **more}, [4, 3], [4, 2])


@example(
    """
    6 exact: start[0] v[0] a[1] b[0]
    """
)
def loop_with_a_learned_start_and_a_condition() -> Any:
    """It stops when the state is large; what goes on in a round is pruned with the state."""
    inner = body(
        [
            node("MatMul", "h v", "m"),
            node("ReduceMax", "m", "top", keepdims=0),
            node("Less", "top ten", "on"),
            node("MatMul", "x a", "n"),
            node("Add", "h n", "s"),
        ],
        [info("on", kind=BOOL), info("s", 4, 6)],
        round_inputs(info("h", 4, 6)),
    )
    nodes = [
        node("Expand", "start wide", "first"),
        node("Loop", "five - first", "last", body=inner),
        node("MatMul", "last b", "y"),
    ]
    weights = {"start": normal(6), "a": normal(3, 6), "v": normal(6, 1), "b": normal(6, 2)}
    more = {"five": np.array(5), "ten": np.array(2, np.float32), "wide": [4, 6]}
    return model(nodes, {**weights, **more}, [4, 3], [4, 2])


@example(
    """
    6 exact: u[1] v[0]
    """
)
def loop_whose_state_grows() -> Any:
    """A state of another shape in each round is left alone; the rest of the body is pruned."""
    inner = body(
        [
            node("Identity", "go", "on"),
            node("MatMul", "x u", "m"),
            node("Relu", "m", "n"),
            node("MatMul", "n v", "o"),
            node("Concat", "h o", "s", axis=1),
        ],
        [info("on", kind=BOOL), onnx.ValueInfoProto(name="s", type=helper.make_tensor_type_proto(FLOAT, [4, None]))],
        [
            info("i", kind=INT),
            info("go", kind=BOOL),
            onnx.ValueInfoProto(name="h", type=helper.make_tensor_type_proto(FLOAT, [4, None])),
        ],
        {"u": normal(3, 6), "v": normal(6, 2)},
    )
    nodes = [node("MatMul", "x w", "g"), node("Loop", "three yes g", "y", body=inner)]
    weights = {"w": normal(3, 4), "three": np.array(3), "yes": TRUE}
    return model(nodes, weights, [4, 3], [4, 10])


@example(
    """
    8 exact: w[1] b[0] u[0] u[1] start[1] v[0] t[0]
    """
)
def scan_over_time() -> Any:
    """A scan over the second axis: steps lose it, collected states gain it."""
    inner = body(
        [
            node("MatMul", "h u", "m"),
            node("Add", "m f", "n"),
            node("Tanh", "n", "s"),
            node("Identity", "s", "kept"),
        ],
        [info("s", 2, 8), info("kept", 2, 8)],
        [info("h", 2, 8), info("f", 2, 8)],
    )
    nodes = [
        node("MatMul", "x w", "e"),
        node("Add", "e b", "g"),
        node(
            "Scan",
            "start g",
            "last all",
            body=inner,
            num_scan_inputs=1,
            scan_input_axes=[1],
            scan_output_axes=[-2],
        ),
        node("Unsqueeze", "last axis", "last3"),
        node("MatMul", "last3 v", "p"),
        node("MatMul", "all t", "q"),
        node("Add", "p q", "y"),
    ]
    weights = {"w": normal(3, 8), "b": normal(8), "u": normal(8, 8), "v": normal(8, 2), "t": normal(8, 2)}
    more = {"start": np.zeros((2, 8), np.float32), "axis": [1]}
    return model(nodes, {**weights, **more}, [2, 5, 3], [2, 5, 2])


@example(
    """
    8 exact: w[1] b[1] u[0] u[1] v[0]
    6 exact: a[1] b[0]
    """
)
def branch_inside_a_loop() -> Any:
    """Bodies within bodies: the inner one reads values of both outer graphs."""
    then = body(
        [
            node("MatMul", "x a", "k"),
            node("Relu", "k", "l"),
            node("MatMul", "l b", "z"),
            node("MatMul", "h u", "o"),
            node("Add", "o z", "o2"),
        ],
        [info("o2", 4, 8)],
        weights={"a": normal(3, 6), "b": normal(6, 8), "u": normal(8, 8)},
    )
    other = body([node("Identity", "h", "p")], [info("p", 4, 8)])
    inner = body(
        [
            node("Identity", "go", "on"),
            node("If", "q", "j", then_branch=then, else_branch=other),
            node("Tanh", "j", "s"),
        ],
        [info("on", kind=BOOL), info("s", 4, 8)],
        round_inputs(info("h", 4, 8)),
    )
    nodes = [
        *positive_sum(),
        node("MatMul", "x w", "g"),
        node("Loop", "two yes g", "last", body=inner),
        node("MatMul", "last v", "y"),
    ]
    weights = {"zero": ZERO, "w": normal(3, 8), "v": normal(8, 2), "two": np.array(2), "yes": TRUE}
    return model(nodes, weights, [4, 3], [4, 2])
