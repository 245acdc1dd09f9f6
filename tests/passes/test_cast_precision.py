"""Graphs in float16 and bfloat16: numbers against float32, islands and their reasons, edges, what is refused."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from torch import nn

import graphprune as gp
from graphprune import frontends
from graphprune.errors import InputError
from graphprune.frontends import onnx as onnx_frontend
from graphprune.ir.graph import Graph
from graphprune.passes.cast_precision import CastPrecision
from graphprune.passes.pipeline import parse_pipeline, run_pipeline
from graphprune.passes.support.ranges import Ranges
from graphprune.runtimes import get
from tests.passes.small import dump, foreign, norm, norm_weights, onnx_graph, torch_graph

DIGITS = Path(__file__).parents[2] / "models" / "digits_resnet.onnx"
HALF = CastPrecision()
node = helper.make_node


def some(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).standard_normal(shape).astype(np.float32) / 4


def graph_of(
    nodes: Sequence[onnx.NodeProto],
    inputs: Mapping[str, tuple[int, Sequence[int | str]]],
    outputs: Mapping[str, tuple[int, Sequence[int | str]]],
    weights: Mapping[str, Any],
    opset: int = 17,
) -> Graph:
    infos = [
        [helper.make_tensor_value_info(name, kind, list(shape)) for name, (kind, shape) in given.items()]
        for given in (inputs, outputs)
    ]
    tensors = [numpy_helper.from_array(np.asarray(a), n) for n, a in weights.items()]
    made = helper.make_model(
        helper.make_graph(list(nodes), "g", *infos, tensors),
        opset_imports=[helper.make_opsetid("", opset)],
        ir_version=8,
    )
    onnx.checker.check_model(made, full_check=True)
    return onnx_frontend.from_model(made)


def run(graph: Graph, feed: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    return list(get("onnxruntime").compile(foreign(graph)).run(dict(feed)))


def reasons(graph: Graph, step: CastPrecision = HALF) -> dict[str, str]:
    return {found.name: why for found, why in step.islands(graph).items()}


def assert_close(
    graph: Graph, feed: Mapping[str, np.ndarray], step: CastPrecision = HALF, limit: float = 4e-3
) -> Graph:
    was = dump(graph)
    after = step.run(graph)
    assert dump(graph) == was, "the pass altered the graph it was given"
    assert after is not graph
    after.check()
    assert step.run(after) is after, "a second run changes something"
    for want, have in zip(run(graph, feed), run(after, feed), strict=True):
        assert np.isfinite(have.astype(np.float32)).all()
        assert np.abs(want - have.astype(np.float32)).max() <= limit * max(1.0, float(np.abs(want).max()))
    return after


def written(graph: Graph) -> dict[str, str]:
    """The element type of each initializer in the file."""
    return {t.name: TensorProto.DataType.Name(t.data_type) for t in foreign(graph).graph.initializer}


CONV = [node("Conv", ["x", "w", "b"], ["h"], name="conv"), norm("h", "i"), node("Relu", ["i"], ["y"])]


def conv_graph(opset: int = 17) -> Graph:
    weights = {"w": some(8, 4, 3, 3), "b": some(8), **norm_weights(8)}
    return onnx_graph(CONV, ["n", 4, 8, 8], ["n", 8, 6, 6], weights, opset)


def test_a_convolution_is_cast_whole_with_casts_at_the_edges() -> None:
    after = assert_close(conv_graph(), {"x": some(2, 4, 8, 8)})
    assert [n.op for n in after.nodes] == ["Cast", "Conv", "BatchNormalization", "Relu", "Cast"]
    assert set(written(after).values()) == {"FLOAT16"}
    assert list(written(after)) == list(written(conv_graph()))  # constants keep their names
    model = foreign(after)
    assert [model.graph.input[0].name, model.graph.output[0].name] == ["x", "y"]
    assert {v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)} == {TensorProto.FLOAT}


def test_without_keep_io_the_caller_gives_and_gets_halves() -> None:
    step = CastPrecision(keep_io=False)
    after = step.run(conv_graph())
    assert [n.op for n in after.nodes] == ["Conv", "BatchNormalization", "Relu"]
    x = some(2, 4, 8, 8)
    (have,), (want,) = run(after, {"x": x.astype(np.float16)}), run(conv_graph(), {"x": x})
    assert have.dtype == np.float16
    assert np.abs(want - have.astype(np.float32)).max() < 2e-2
    assert step.run(after) is after


def test_a_decomposed_layer_norm_keeps_its_variance_in_float32() -> None:
    nodes = [
        node("ReduceMean", ["x"], ["mean"], axes=[-1], name="mean"),
        node("Sub", ["x", "mean"], ["d"], name="sub"),
        node("Pow", ["d", "two"], ["p"], name="pow"),
        node("ReduceMean", ["p"], ["v"], axes=[-1], name="variance"),
        node("Add", ["v", "eps"], ["e"], name="add"),
        node("Sqrt", ["e"], ["s"], name="sqrt"),
        node("Div", ["d", "s"], ["n"], name="div"),
        node("MatMul", ["n", "w"], ["y"], name="product"),
    ]
    weights = {"two": np.float32(2), "eps": np.float32(1e-12), "w": some(16, 8)}
    graph = onnx_graph(nodes, ["b", 3, 16], ["b", 3, 8], weights)
    large = some(2, 3, 16) * 2000  # its squares are beyond float16
    after = assert_close(graph, {"x": large})
    assert set(reasons(graph)) == {"mean", "pow", "variance", "add", "sqrt"}
    assert reasons(graph)["add"] == "the constant 'eps' is as small as 1e-12"
    casts = [n for n in after.nodes if n.op == "Cast"]
    assert len(casts) == 5  # x, mean, d back up, s, y: none between the islands
    assert written(after) == {"two": "FLOAT", "eps": "FLOAT", "w": "FLOAT16"}


def test_what_only_moves_between_islands_stays_with_them() -> None:
    nodes = [
        node("Exp", ["x"], ["e"], name="exp"),
        node("Transpose", ["e"], ["t"], perm=[1, 0], name="move"),
        node("Reshape", ["t", "shape"], ["r"], name="again"),
        node("Log", ["r"], ["l"], name="log"),
        node("MatMul", ["l", "w"], ["y"], name="product"),
    ]
    weights = {"shape": np.array([2, 8], np.int64), "w": some(8, 4)}
    graph = onnx_graph(nodes, [4, 4], [2, 4], weights)
    assert set(reasons(graph)) == {"exp", "move", "again", "log"}
    assert_close(graph, {"x": np.linspace(-15, 15, 16, dtype=np.float32).reshape(4, 4)})


def test_masks_of_the_largest_number_and_positions() -> None:
    """A rotary table from positions beyond what float16 counts, and a mask filled with the lowest float32."""
    nodes = [
        node("Cast", ["positions"], ["p"], to=TensorProto.FLOAT, name="to_float"),
        node("MatMul", ["p", "speed"], ["angles"], name="angles"),
        node("Cos", ["angles"], ["c"], name="cos"),
        node("Mul", ["x", "c"], ["h"], name="turn"),
        node("MatMul", ["h", "w"], ["scores"], name="scores"),
        node("Cast", ["mask"], ["m"], to=TensorProto.FLOAT, name="mask_float"),
        node("Sub", ["one", "m"], ["inverted"], name="invert"),
        node("Mul", ["inverted", "lowest"], ["bias"], name="fill"),
        node("Add", ["scores", "bias"], ["masked"], name="masked"),
        node("Softmax", ["masked"], ["y"], axis=-1, name="softmax"),
    ]
    lowest = np.float32(np.finfo(np.float32).min)
    weights = {"speed": np.array([[1.0, 0.3, 0.1, 0.01]], np.float32), "w": some(4, 6)}
    weights |= {"one": np.float32(1), "lowest": lowest}
    inputs = {
        "x": (TensorProto.FLOAT, [5, 4]),
        "positions": (TensorProto.INT64, [5, 1]),
        "mask": (TensorProto.INT64, [1, 6]),
    }
    graph = graph_of(nodes, inputs, {"y": (TensorProto.FLOAT, [5, 6])}, weights)
    feed = {"x": some(5, 4) * 4, "positions": np.array([[0], [7], [4099], [30001], [70003]])}
    feed["mask"] = np.array([[1, 1, 0, 1, 1, 0]])
    after = assert_close(graph, feed)
    found = reasons(graph)
    assert found["angles"] == found["invert"] == found["fill"] == "it computes with positions or counts"
    assert not {"turn", "scores", "masked", "softmax"} & found.keys()
    assert (run(after, feed)[0][:, [2, 5]] == 0).all()


@pytest.mark.parametrize("to", ["float16", "bfloat16"])
@pytest.mark.parametrize("fill", ["Mul", "Where"])
def test_a_row_that_is_masked_whole_stays_finite(fill: str, to: str) -> None:
    """What float32 fills a computed mask with is infinite in fewer bits, and a row of infinities has no softmax."""
    nodes = [
        node("MatMul", ["x", "w"], ["scores"], name="scores"),
        node("Cast", ["mask"], ["m"], to=TensorProto.FLOAT, name="mask_float"),
        node("Sub", ["one", "m"], ["inverted"], name="invert"),
        node("Mul", ["inverted", "lowest"], ["bias"], name="fill"),
        node("Add", ["scores", "bias"], ["masked"], name="masked"),
        node("Softmax", ["masked"], ["y"], axis=-1, name="softmax"),
    ]
    if fill == "Where":  # as torch's masked_fill is exported
        nodes[3:4] = [
            node("Cast", ["inverted"], ["no"], to=TensorProto.BOOL, name="no"),
            node("Where", ["no", "lowest", "inverted"], ["bias"], name="fill"),
        ]
    weights = {"w": some(4, 6), "one": np.float32(1), "lowest": np.float32(np.finfo(np.float32).min)}
    inputs = {"x": (TensorProto.FLOAT, [3, 4]), "mask": (TensorProto.INT64, [3, 6])}
    graph = graph_of(nodes, inputs, {"y": (TensorProto.FLOAT, [3, 6])}, weights)
    feed = {"x": np.abs(some(3, 4)), "mask": np.array([[1, 1, 0, 1, 1, 0], [0] * 6, [1] * 6])}
    step = CastPrecision(to=to)
    assert reasons(graph, step)["fill"] == "it computes with positions or counts"
    after = step.run(graph)
    found = dict(zip(written(after), foreign(after).graph.initializer, strict=True))
    assert max(float(np.abs(numpy_helper.to_array(t).astype(np.float32)).max()) for t in found.values()) < 3.4e38
    if to == "float16":  # bfloat16 has no kernels in onnxruntime on a CPU
        (want,), (have,) = run(graph, feed), run(after, feed)
        assert np.abs(want - have)[[0, 2]].max() <= 4e-3
        assert have[1].sum() == pytest.approx(1, abs=4e-3)  # any weights: nothing there is looked at


def test_computed_sizes_cost_no_casts() -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["h"], name="product"),
        node("Shape", ["h"], ["sizes"], name="shape"),
        node("Gather", ["sizes", "zero"], ["first"], name="first"),
        node("Concat", ["first", "rest"], ["target"], axis=0, name="target"),
        node("Reshape", ["h", "target"], ["y"], name="reshape"),
    ]
    weights = {"w": some(4, 6), "zero": np.array([0], np.int64), "rest": np.array([2, 3], np.int64)}
    after = assert_close(onnx_graph(nodes, ["n", 4], ["n", 2, 3], weights), {"x": some(5, 4)})
    assert reasons(onnx_graph(nodes, ["n", 4], ["n", 2, 3], weights)) == {}
    assert [n.op_type for n in foreign(after).graph.node].count("Cast") == 2


def test_a_matrix_out_of_range_is_an_island_and_a_mask_of_infinities_is_not() -> None:
    nodes = [node("MatMul", ["x", "w"], ["h"], name="large"), node("MatMul", ["h", "v"], ["y"], name="small")]
    weights = {"w": some(4, 4), "v": some(4, 4) * 1e-4}
    weights["w"][0, 0] = 1e5
    graph = onnx_graph(nodes, [2, 4], [2, 4], weights)
    assert reasons(graph) == {"large": "the constant 'w' reaches 1e+05"}
    mask = np.where(np.eye(4) > 0, 0, -1e30).astype(np.float32)
    nodes = [
        node("MatMul", ["x", "v"], ["h"], name="scores"),
        node("Add", ["h", "mask"], ["m"], name="mask"),
        node("Softmax", ["m"], ["y"], name="softmax"),
    ]
    graph = onnx_graph(nodes, [4, 4], [4, 4], {"v": weights["v"], "mask": mask})
    assert reasons(graph) == {}
    assert_close(graph, {"x": some(4, 4)})


def test_blocked_names_and_peaks_on_data_stay() -> None:
    nodes = [node("MatMul", ["x", "w"], ["h"], name="first"), node("MatMul", ["h", "v"], ["y"], name="second")]
    graph = onnx_graph(nodes, [2, 4], [2, 4], {"w": some(4, 4), "v": some(4, 4)})
    assert reasons(graph, CastPrecision(block=("sec*",))) == {"second": "the user left it out"}
    assert reasons(graph, CastPrecision(block=("w",))) == {"first": "the user left it out"}
    found = {n.name: why for n, why in HALF.islands(graph, Ranges({"y": 1e6})).items()}
    assert found == {"second": "'y' reaches 1e+06 on the data"}
    after = HALF.cast(graph, Ranges({"y": 1e6}))
    assert written(after) == {"w": "FLOAT16", "v": "FLOAT"}


def test_a_constant_read_in_both_types_is_written_in_both() -> None:
    nodes = [
        node("MatMul", ["x", "w"], ["h"], name="first"),
        node("Exp", ["h"], ["e"], name="exp"),
        node("Pow", ["e", "b"], ["p"], name="pow"),
        node("Add", ["p", "b"], ["y"], name="add"),
    ]
    graph = onnx_graph(nodes, [2, 4], [2, 4], {"w": some(4, 4), "b": np.abs(some(4)) + 0.5})
    after = assert_close(graph, {"x": some(2, 4)})
    assert written(after) == {"w": "FLOAT16", "b": "FLOAT", "b::float16": "FLOAT16"}


def test_quantised_products_control_flow_and_computed_sizes_stay_valid() -> None:
    body = helper.make_graph(
        [node("MatMul", ["h", "w"], ["inside"])],
        "then",
        [],
        [helper.make_tensor_value_info("inside", TensorProto.FLOAT, [2, 4])],
    )
    other = helper.make_graph(
        [node("Identity", ["h"], ["outside"])],
        "else",
        [],
        [helper.make_tensor_value_info("outside", TensorProto.FLOAT, [2, 4])],
    )
    nodes = [
        node("MatMul", ["x", "w"], ["h"], name="first"),
        node("If", ["flag"], ["i"], then_branch=body, else_branch=other, name="choice"),
        node("QuantizeLinear", ["i", "scale", "zero"], ["q"], name="q"),
        node("DequantizeLinear", ["q", "scale", "zero"], ["d"], name="dq"),
        node("Gemm", ["d", "w"], ["y"], name="last"),
    ]
    weights = {"w": some(4, 4), "scale": np.float32(0.01), "zero": np.int8(0)}
    inputs = {"x": (TensorProto.FLOAT, [2, 4]), "flag": (TensorProto.BOOL, [])}
    graph = graph_of(nodes, inputs, {"y": (TensorProto.FLOAT, [2, 4])}, weights)
    found = reasons(graph)
    assert found["choice"] == "its bodies stay as they are"
    assert found["q"] == found["last"] == "it is quantised"
    assert "first" not in found
    for flag in (True, False):
        assert_close(graph, {"x": some(2, 4), "flag": np.array(flag)}, limit=1.5e-2)


def test_bfloat16_where_the_operators_have_it() -> None:
    nodes = [node("MatMul", ["x", "w"], ["h"], name="product"), node("Relu", ["h"], ["y"], name="relu")]
    graph = onnx_graph(nodes, [2, 4], [2, 4], {"w": some(4, 4)})
    after = CastPrecision(to="bfloat16").run(graph)
    assert written(after) == {"w": "BFLOAT16"}
    foreign(after)
    with pytest.raises(InputError, match="no product of 'small' can be cast to bfloat16; the first, 'conv'"):
        CastPrecision(to="bfloat16").run(conv_graph(17))
    assert "FLOAT" not in written(CastPrecision(to="bfloat16").run(conv_graph(22))).values()


def test_products_in_bodies_alone_are_not_left_in_silence() -> None:
    """Bodies stay as they are: a graph all of whose products lie there would be float32 as before."""
    value = helper.make_tensor_value_info("z", TensorProto.FLOAT, [2, 4])
    branches = {name: helper.make_graph([node("MatMul", ["x", "w"], ["z"])], name, [], [value]) for name in ("a", "b")}
    nodes = [
        node("ReduceSum", ["x"], ["s"], keepdims=0),
        node("Cast", ["s"], ["flag"], to=TensorProto.BOOL),
        node("If", ["flag"], ["y"], name="choice", then_branch=branches["a"], else_branch=branches["b"]),
    ]
    with pytest.raises(
        InputError, match="no product of 'small' can be cast to float16; the first, 'choice': its bodies"
    ):
        CastPrecision().run(onnx_graph(nodes, [2, 4], [2, 4], {"w": some(4, 4)}))


def test_the_trained_model_keeps_its_answers(tmp_path: Path) -> None:
    graph = frontends.load(DIGITS)
    after, _ = run_pipeline(graph, parse_pipeline("fold-batchnorm,cast-precision"))
    frontends.save(after, tmp_path / "half.onnx")
    assert (tmp_path / "half.onnx").stat().st_size < 0.6 * DIGITS.stat().st_size
    x = {v.name: some(*v.sizes) for v in graph.inputs}
    (want,), (have,) = run(graph, x), run(frontends.load(tmp_path / "half.onnx"), x)
    assert have.dtype == np.float32
    assert np.abs(want - have).max() < 5e-3 * np.abs(want).max()


@pytest.mark.parametrize("keep", ["true", "false"])
def test_verify_each_allows_what_halves_round(keep: str) -> None:
    graph, _ = gp.optimize(frontends.load(DIGITS), f"cast-precision{{keep-io={keep}}}", verify_each=True)
    assert {v.dtype.name for v in graph.inputs} == {"float32" if keep == "true" else "float16"}


def test_what_is_refused() -> None:
    with pytest.raises(InputError, match="'to' must be float16 or bfloat16, not 'int8'"):
        parse_pipeline("cast-precision{to=int8}")
    with pytest.raises(InputError, match=r"pass 'cast-precision': it casts ONNX graphs; capture module.to\(torch"):
        run_pipeline(torch_graph(nn.Linear(4, 4), _torch(2, 4)), [HALF])
    assert parse_pipeline("cast-precision{to=bfloat16 keep-io=false block=a*,b}") == [
        CastPrecision("bfloat16", False, ("a*", "b"))
    ]
    with pytest.raises(InputError, match="'margin' must be at least 1, not 0.5"):
        parse_pipeline("cast-precision{margin=0.5}")


def _torch(*shape: int) -> Any:
    import torch

    return torch.zeros(shape)
