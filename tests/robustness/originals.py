"""Small valid ONNX models of many operators, to be broken: name -> files of a folder, `in.onnx` among them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from tests.properties.cases import Case

Files = dict[str, bytes]
_PROGRAMS: dict[str, Sequence[str]] = {
    "convolutions": ("conv", "grouped_conv", "depthwise", "transposed_conv", "batch_norm"),
    "norms": ("group_norm", "layer_norm", "instance_norm", "squeeze_excite", "residual"),
    "shapes": ("shuffle", "pixels", "pad", "gather", "slices", "split"),
    "attention": ("grouped_attention", "gated_mlp", "rotary_attention"),
    "tokens": ("embedded", "recurrent", "experts", "linear_attention"),
    "selection": ("copies", "dense", "reorder", "selective", "unbound", "resizes"),
}


def _model(
    nodes: Sequence[NodeProto],
    weights: dict[str, np.ndarray],
    inside: Sequence[Any],
    outside: Sequence[Any],
    **how: Any,
) -> ModelProto:
    tensors = [numpy_helper.from_array(array, name) for name, array in weights.items()]
    x = helper.make_tensor_value_info("x", TensorProto.FLOAT, list(inside))
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, list(outside))
    graph = helper.make_graph(list(nodes), "g", [x], [y], tensors)
    how.setdefault("opset_imports", [helper.make_opsetid("", 18)])
    return helper.make_model(graph, ir_version=9, **how)


def _weights(**shapes: tuple[int, ...]) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {name: generator.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def _layers(middle: Sequence[NodeProto], last: str, weights: dict[str, np.ndarray], **how: Any) -> ModelProto:
    """x -> w0 -> tanh -> w1 -> relu r -> middle -> w2 -> y; what lies before w1 can always be pruned."""
    nodes = [helper.make_node("MatMul", ["x", "w0"], ["first"]), helper.make_node("Tanh", ["first"], ["second"])]
    nodes += [helper.make_node("MatMul", ["second", "w1"], ["a"]), helper.make_node("Relu", ["a"], ["r"])]
    nodes += [*middle, helper.make_node("MatMul", [last, "w2"], ["y"])]
    return _model(nodes, {**_weights(w0=(6, 10), w1=(10, 8), w2=(8, 4)), **weights}, ["N", 6], ["N", 4], **how)


def _info(name: str, *shape: Any) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape) if shape else None)


def branches() -> ModelProto:
    """If, with weights of its own in each branch."""
    sides = {
        side: helper.make_graph([helper.make_node(op, ["r"], ["t"])], side, [], [_info("t")])
        for side, op in (("then_branch", "Tanh"), ("else_branch", "Sigmoid"))
    }
    middle = [
        helper.make_node("ReduceSum", ["r"], ["total"], keepdims=0),
        helper.make_node("Greater", ["total", "zero"], ["condition"]),
        helper.make_node("If", ["condition"], ["q"], **sides),
    ]
    return _layers(middle, "q", {"zero": np.zeros((), np.float32)})


def loops() -> ModelProto:
    """Loop and Scan."""
    body = helper.make_graph(
        [helper.make_node("Identity", ["go"], ["on"]), helper.make_node("Tanh", ["s"], ["t"])],
        "body",
        [
            helper.make_tensor_value_info("i", TensorProto.INT64, []),
            helper.make_tensor_value_info("go", TensorProto.BOOL, []),
            _info("s"),
        ],
        [helper.make_tensor_value_info("on", TensorProto.BOOL, []), _info("t")],
    )
    step = helper.make_graph(
        [helper.make_node("Add", ["h", "e"], ["k"]), helper.make_node("Identity", ["k"], ["o"])],
        "step", [_info("h", 8), _info("e", 8)], [_info("k", 8), _info("o", 8)],
    )  # fmt: skip
    middle = [
        helper.make_node("Loop", ["times", "yes", "r"], ["q"], body=body),
        helper.make_node("Scan", ["start", "q"], ["end", "p"], body=step, num_scan_inputs=1),
    ]
    weights = {"times": np.array(2), "yes": np.array(True), "start": np.zeros(8, np.float32)}
    return _layers(middle, "p", weights)


def functions() -> ModelProto:
    """Local functions, one calling the other."""
    opset = [helper.make_opsetid("", 18), helper.make_opsetid("own", 1)]
    inner = helper.make_function("own", "Inner", ["p"], ["q"], [helper.make_node("Tanh", ["p"], ["q"])], opset)
    call = helper.make_node("Inner", ["p"], ["t"], domain="own")
    outer = helper.make_function(
        "own", "Outer", ["p", "w"], ["q"], [call, helper.make_node("MatMul", ["t", "w"], ["q"])], opset
    )
    middle = [helper.make_node("Outer", ["r", "w3"], ["q"], domain="own")]
    return _layers(middle, "q", _weights(w3=(8, 8)), opset_imports=opset, functions=[inner, outer])


def element_types() -> ModelProto:
    """Weights of every element type, cast to float and added."""
    kinds = "DOUBLE FLOAT16 BFLOAT16 INT8 UINT8 INT16 UINT16 INT32 UINT32 INT64 UINT64 BOOL FLOAT8E4M3FN".split()
    middle, last = [], "r"
    model = _layers([], "r", {})
    for kind in kinds:
        tensor = helper.make_tensor(f"t{kind}", getattr(TensorProto, kind), [8], [1, 0, 1, 1, 0, 1, 0, 1])
        model.graph.initializer.append(tensor)
        middle.append(helper.make_node("Cast", [f"t{kind}"], [f"c{kind}"], to=TensorProto.FLOAT))
        middle.append(helper.make_node("Add", [last, f"c{kind}"], [f"s{kind}"]))
        last = f"s{kind}"
    nodes = [*model.graph.node[:4], *middle, helper.make_node("MatMul", [last, "w2"], ["y"])]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.opset_import[0].version = 19
    return model


def quantized() -> ModelProto:
    """Weights and activations through QuantizeLinear and DequantizeLinear."""
    middle = [
        helper.make_node("QuantizeLinear", ["r", "scale", "zero"], ["rq"]),
        helper.make_node("DequantizeLinear", ["rq", "scale", "zero"], ["rd"]),
        helper.make_node("DequantizeLinear", ["w3", "scales", "zeros"], ["wd"], axis=1),
        helper.make_node("MatMul", ["rd", "wd"], ["q"]),
    ]
    generator = np.random.default_rng(0)
    weights = {
        "scale": np.float32(0.05), "zero": np.uint8(3), "w3": generator.integers(-9, 9, (8, 8)).astype(np.int8),
        "scales": np.full(8, 0.1, np.float32), "zeros": np.zeros(8, np.int8),
    }  # fmt: skip
    return _layers(middle, "q", {name: np.asarray(array) for name, array in weights.items()})


def computed_shapes() -> ModelProto:
    """A reshape whose target is computed; constants as nodes; a generator."""
    middle = [
        helper.make_node("Shape", ["r"], ["s"]),
        helper.make_node("Constant", [], ["at"], value_ints=[0]),
        helper.make_node("Gather", ["s", "at"], ["n"]),
        helper.make_node("Concat", ["n", "rest"], ["target"], axis=0),
        helper.make_node("Reshape", ["r", "target"], ["parts"]),
        helper.make_node("Transpose", ["parts"], ["turned"], perm=[0, 2, 1]),
        helper.make_node("Reshape", ["turned", "flat"], ["q"]),
        helper.make_node("ConstantOfShape", ["eight"], ["ones"], value=numpy_helper.from_array(np.float32([1]))),
        helper.make_node("Add", ["q", "ones"], ["z"]),
    ]
    weights = {"rest": np.array([2, 4]), "flat": np.array([0, 8]), "eight": np.array([8])}
    return _layers(middle, "z", weights)


def large() -> ModelProto:
    """A weight of a megabyte."""
    middle = [helper.make_node("MatMul", ["r", "up"], ["u"]), helper.make_node("MatMul", ["u", "down"], ["q"])]
    return _layers(middle, "q", _weights(up=(8, 16_000), down=(16_000, 8)))


BUILDERS: list[Callable[[], ModelProto]] = [
    branches, loops, functions, element_types, quantized, computed_shapes, large,
]  # fmt: skip


def _program(blocks: Sequence[str]) -> ModelProto:
    names = ["pyramid" if name == "resizes" else name for name in blocks]
    return Case("onnx", tuple((name, 1, 1) for name in names)).program().onnx(opset=21, dynamic=True, computed=True)


def _external(model: ModelProto) -> Files:
    """As files, with the weights beside the model."""
    with TemporaryDirectory() as folder:
        for number, tensor in enumerate(model.graph.initializer):
            onnx.external_data_helper.set_external_data(tensor, location=f"part{number % 2}.bin")
        onnx.save_model(model, Path(folder) / "in.onnx")
        return {path.name: path.read_bytes() for path in sorted(Path(folder).iterdir())}


@cache
def originals() -> dict[str, Files]:
    """All of them; each is valid."""
    found: dict[str, Files] = {}
    for name, blocks in _PROGRAMS.items():
        found[name] = {"in.onnx": _program(blocks).SerializeToString()}
    for builder in BUILDERS:
        found[builder.__name__] = {"in.onnx": builder().SerializeToString()}
    found["external"] = _external(_program(("conv", "residual", "attention")))
    return found
