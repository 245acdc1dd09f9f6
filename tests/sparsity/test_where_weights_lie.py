"""Weights in every place where ONNX models keep them: found along the right axis, made 2:4, counted in the result."""

from __future__ import annotations

from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper, parser

import graphprune as gp
from graphprune import sparsity
from graphprune.errors import InputError
from graphprune.runtimes import get
from tests.helpers import graph_of, zero_in_fours

HEAD = '<ir_version: 9, opset_import: ["": 18, "com.microsoft": 1]>'
#: The model, the sizes of its weights, and the axis along which each weight is contracted.
CASES: dict[str, tuple[str, dict[str, tuple[int, ...]], dict[str, int]]] = {
    "gemm": ("(float[2,8] x) => (float[2,5] y) { y = Gemm(x, w) }", {"w": (8, 5)}, {"w": 0}),
    "gemm, transB": ("(float[2,8] x) => (float[2,5] y) { y = Gemm<transB=1>(x, w) }", {"w": (5, 8)}, {"w": 1}),
    "gemm, weight first": ("(float[8,2] x) => (float[5,2] y) { y = Gemm(w, x) }", {"w": (5, 8)}, {"w": 1}),
    "gemm, weight first, transA": (
        "(float[8,2] x) => (float[5,2] y) { y = Gemm<transA=1>(w, x) }",
        {"w": (8, 5)},
        {"w": 0},
    ),
    "matmul": ("(float[3,2,8] x) => (float[3,2,5] y) { y = MatMul(x, w) }", {"w": (8, 5)}, {"w": 0}),
    "matmul, weight first": ("(float[3,8,2] x) => (float[3,5,2] y) { y = MatMul(w, x) }", {"w": (5, 8)}, {"w": 1}),
    "matmul, batch": ("(float[3,2,8] x) => (float[3,2,5] y) { y = MatMul(x, w) }", {"w": (3, 8, 5)}, {"w": 1}),
    "einsum": ('(float[2,8] x) => (float[2,5] y) { y = Einsum<equation="bi,oi->bo">(x, w) }', {"w": (5, 8)}, {"w": 1}),
    "conv, groups": (
        "(float[1,8,5,5] x) => (float[1,6,3,3] y) { y = Conv<group=2>(x, w) }",
        {"w": (6, 4, 3, 3)},
        {"w": 1},
    ),
    "transposed conv, groups": (
        "(float[1,8,3,3] x) => (float[1,6,5,5] y) { y = ConvTranspose<group=2>(x, w) }",
        {"w": (8, 3, 3, 3)},
        {"w": 0},
    ),
    "behind a transpose": (
        "(float[2,8] x) => (float[2,5] y) { t = Transpose<perm=[1,0]>(w) y = MatMul(x, t) }",
        {"w": (5, 8)},
        {"w": 1},
    ),
    "behind an identity": (
        "(float[2,8] x) => (float[2,5] y) { t = Identity(w) y = MatMul(x, t) }",
        {"w": (8, 5)},
        {"w": 0},
    ),
    "behind a reshape that puts rows together": (
        "(float[2,8] x) => (float[2,6] y) <int64[2] to = {8, 6}> { t = Reshape(w, to) y = MatMul(x, t) }",
        {"w": (8, 2, 3)},
        {"w": 0},
    ),
    "behind a reshape that puts what is summed together": (
        "(float[2,8] x) => (float[2,5] y) <int64[2] to = {8, 5}> { t = Reshape(w, to) y = MatMul(x, t) }",
        {"w": (2, 4, 5)},
        {"w": 1},
    ),
    "split into pieces of its rows": (
        "(float[2,8] x) => (float[2,2] y) <int64[2] sizes = {4, 2}> { a, b = Split<axis=0>(w, sizes)"
        " p = Gemm<transB=1>(x, a) q = Gemm<transB=1>(x, b) r = ReduceSum<keepdims=1>(p) y = Add(q, r) }",
        {"w": (6, 8)},
        {"w": 1},
    ),
    "behind an axis of size 1": (
        "(float[1,2,8] x) => (float[1,2,5] y) <int64[1] at = {0}> { t = Unsqueeze(w, at) y = MatMul(x, t) }",
        {"w": (8, 5)},
        {"w": 0},
    ),
    "einsum over two axes": (
        '(float[2,3,8] x) => (float[2,5] y) { y = Einsum<equation="bhd,hdo->bo">(x, w) }',
        {"w": (3, 8, 5)},
        {"w": 1},
    ),
    "lstm": (
        "(float[4,1,8] x) => (float[4,1,1,4] y) { y = LSTM<hidden_size=4>(x, w, r) }",
        {"w": (1, 16, 8), "r": (1, 16, 4)},
        {"w": 2, "r": 2},
    ),
    "fused matmul": (
        "(float[2,8] x) => (float[2,5] y) { y = com.microsoft.FusedMatMul<transB=1, alpha=0.5>(x, w) }",
        {"w": (5, 8)},
        {"w": 1},
    ),
    "attention": (
        "(float[1,3,8] x) => (float[1,3,8] y) { y = com.microsoft.Attention<num_heads=2>(x, w, b) }",
        {"w": (8, 24), "b": (24,)},
        {"w": 0},
    ),
    "branches": (
        "(float[2,8] x, bool c) => (float[2,5] y) {"
        " y = If(c) <then_branch = one () => (a) { a = MatMul(x, w) },"
        " else_branch = other () => (b) { b = MatMul(x, v) }> }",
        {"w": (8, 5), "v": (8, 5)},
        {"w": 0, "v": 0},
    ),
    "loop": (
        "(float[2,8] x) => (float[2,8] y) {"
        " n = Constant<value_int=3>() t = Constant<value = bool {1}>()"
        " y = Loop(n, t, x) <body = one (int64 i, bool c, float[2,8] h) => (bool d, float[2,8] o)"
        " { d = Identity(c) m = MatMul(h, w) o = Relu(m) }> }",
        {"w": (8, 8)},
        {"w": 0},
    ),
    "scan": (
        "(float[2,8] z, float[3,2,8] x) => (float[3,2,8] y) {"
        " e, y = Scan<num_scan_inputs=1, body = one (float[2,8] h, float[2,8] q) => (float[2,8] o, float[2,8] p)"
        " { m = MatMul(q, w) k = MatMul(h, v) a = Add(m, k) o = Tanh(a) p = Identity(o) }>(z, x) }",
        {"w": (8, 8), "v": (8, 8)},
        {"w": 0, "v": 0},
    ),
    "read twice": (
        "(float[2,8] x) => (float[2,8] y) { t = MatMul(x, w) y = MatMul(t, w) }",
        {"w": (8, 8)},
        {"w": 0},
    ),
}


def made(text: str, shapes: dict[str, tuple[int, ...]], dtype: Any = np.float32) -> onnx.ModelProto:
    """The model with random weights."""
    random = np.random.default_rng(0)
    model = parser.parse_model(f"{HEAD} g {text}")
    arrays = {name: random.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    return model


def initializers(model: onnx.ModelProto) -> dict[str, np.ndarray]:
    return {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}


@pytest.mark.parametrize("name", CASES)
def test_weights_are_sparse_along_what_is_summed(name: str) -> None:
    text, shapes, axes = CASES[name]
    model = made(text, shapes)
    result = gp.sparsify(model)
    assert result.report.proof.passed
    assert "reference evaluator" not in result.report.proof.detail  # where a flag is no array, onnxruntime refuses it
    before, after = initializers(model), initializers(result.model)
    assert {layer.value.name: layer.how.axis for layer in sparsity.find_layers(result.graph)[0]} == axes
    assert set(result.masks) == set(axes)
    for weight, axis in axes.items():
        assert zero_in_fours(after[weight], axis) == {2}
        assert np.array_equal(after[weight][result.masks[weight]], before[weight][result.masks[weight]])
    for weight in set(shapes) - set(axes):
        assert np.array_equal(before[weight], after[weight])


@pytest.mark.parametrize(("dtype", "type_name"), [(np.float16, "float16"), (ml_dtypes.bfloat16, "bfloat16")])
def test_narrow_floats_behind_casts_stay_narrow(dtype: Any, type_name: str) -> None:
    text = "(float[2,8] x) => (float[2,5] y) { t = Cast<to=1>(w) y = MatMul(x, t) }"
    model = made(text, {"w": (8, 5)}, dtype)
    result = gp.sparsify(model)
    found = initializers(result.model)["w"]
    assert found.dtype.name == type_name
    assert zero_in_fours(found.astype(np.float32), 0) == {2}


def test_a_weight_that_a_body_hands_on_is_left_alone() -> None:
    """Whoever reads what the branches give may sum along another axis."""
    text = (
        "(float[2,8] x) => (float[2,8] y) { m = ReduceMax<keepdims=0>(x) c = Cast<to=9>(m)"
        " t = If(c) <then_branch = a () => (float[8,8] o) { o = Identity(w) },"
        " else_branch = b () => (float[8,8] p) { p = Transpose(v) }>"
        " h = MatMul(x, t) k = MatMul(h, w) y = MatMul(k, u) }"
    )
    graph = graph_of(made(text, {"w": (8, 8), "v": (8, 8), "u": (8, 8)}))
    layers, left = sparsity.find_layers(graph)
    assert [layer.name for layer in layers] == ["u"]
    assert {row.value.name: row.reason for row in left} == {"w": "If reads it", "v": "If reads it"}


def test_equal_entries_and_zeros_still_give_exactly_two() -> None:
    model = made("(float[2,8] x) => (float[2,5] y) { y = MatMul(x, w) }", {"w": (8, 5)})
    for fill in (0.0, -0.0, 1.0, np.nan):
        weight = np.full((8, 5), fill, np.float16)
        layer = sparsity.find_layers(gp.sparsify(model, verify=False).graph)[0][0]
        mask = sparsity.parse("2:4").keep(np.abs(weight.astype(np.float32)), layer)
        assert zero_in_fours(mask, 0) == {2}


def test_integers_behind_scales_are_sparse_as_stored() -> None:
    text = "(float[2,8] x) => (float[2,5] y) { t = DequantizeLinear<axis=1>(w, s, z) y = MatMul(x, t) }"
    model = parser.parse_model(f"{HEAD} g {text}")
    random = np.random.default_rng(0)
    arrays = {
        "w": random.integers(-90, 90, (8, 5)).astype(np.int8),
        "s": (random.random(5) + 0.5).astype(np.float32),
        "z": np.array([0, 3, -5, 100, 0], np.int8),
    }
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in arrays.items())
    result = gp.sparsify(model)
    assert result.report.proof.passed
    stored = initializers(result.model)["w"]
    assert zero_in_fours(stored != arrays["z"], 0) == {2}
    with pytest.raises(InputError, match="quantised"):
        gp.save_compact(result, "never.safetensors")


def test_weights_that_a_body_owns() -> None:
    numbers = ", ".join(f"{number:.3f}" for number in np.random.default_rng(1).standard_normal(64))
    text = (
        "(float[2,8] x, bool c) => (float[2,8] y) { y = If(c) <"
        f" then_branch = one () => (a) <float[8,8] own = {{{numbers}}}> {{ a = MatMul(x, own) }},"
        " else_branch = other () => (b) { b = MatMul(x, v) }> }"
    )
    result = gp.sparsify(made(text, {"v": (8, 8)}))
    assert set(result.masks) == {"own", "v"}
    assert result.report.proof is not None and result.report.proof.passed
    for name in result.masks:
        assert zero_in_fours(result.graph.weights()[name].weight.array(), 0) == {2}
    for flag, name in ((True, "own"), (False, "v")):
        x = np.eye(8, dtype=np.float32)[:2]
        (found,) = get("onnxruntime").compile(result.model).run({"x": x, "c": np.array(flag)})
        assert np.array_equal(found, result.graph.weights()[name].weight.array()[:2])


@pytest.mark.parametrize("zero_points", [False, True])
def test_integers_of_few_bits_are_left_and_named(zero_points: bool) -> None:
    """Several of them share a byte, in blocks with a scale: no mask can be laid there, and the rest is made sparse."""
    random = np.random.default_rng(0)
    operands = "h, q, s, z" if zero_points else "h, q, s"
    text = (
        "(float[2,8] x) => (float[2,8] y) { h = MatMul(x, w)"
        f" y = com.microsoft.MatMulNBits<K=32, N=8, bits=4, block_size=16>({operands}) }}"
    )
    model = made(text, {"w": (8, 32)})
    parts = {"q": random.integers(0, 256, (8, 2, 8), np.uint8), "s": random.uniform(0.1, 1, 16).astype(np.float32)}
    parts |= {"z": random.integers(0, 256, 8, np.uint8)} if zero_points else {}
    model.graph.initializer.extend(numpy_helper.from_array(array, name) for name, array in parts.items())
    result = gp.sparsify(model)
    assert set(result.masks) == {"w"}
    assert result.report.proof is not None and result.report.proof.passed
    assert {row.name: row.reason for row in result.report.rows if row.reason} == {
        "q": "its integers are packed, several in a byte"
    }
    after = initializers(result.model)
    assert all(np.array_equal(after[name], array) for name, array in parts.items())
    with pytest.raises(InputError, match="can take the pattern 2:4: 'q': its integers are packed"):
        gp.sparsify(model, include=["q"])


@pytest.mark.parametrize(("layers", "width"), [(1, 0), (2, 0), (1, 8)])
@pytest.mark.parametrize("given", ["nothing", "permute", "data"])
def test_lstm_of_torch(layers: int, width: int, given: str) -> None:
    """All four gates of each layer and direction, and its projection; the caller's class keeps its own parameters."""
    torch.manual_seed(0)

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = torch.nn.LSTM(8, 16, layers, batch_first=True, bidirectional=layers > 1, proj_size=width)
            self.head = torch.nn.Linear((width or 16) * min(layers, 2), 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.rnn(x)[0])

    net, x = Net().eval(), torch.randn(2, 5, 8)
    data = {"x": np.random.default_rng(0).standard_normal((10, 5, 8), np.float32)} if given == "data" else None
    result = gp.sparsify(net, x, data=data, permute=given == "permute", seconds=0.2)
    assert result.report.proof is not None and result.report.proof.passed
    assert result.report.output_form == "own class"
    matrices = {name: p for name, p in result.model.named_parameters() if p.dim() > 1}
    assert set(result.masks) == set(matrices)
    for name, parameter in matrices.items():
        assert zero_in_fours(result.masks[name], 1) == {2}
        assert min(zero_in_fours(parameter.detach().numpy(), 1)) >= 2, name
    seen = {row.name: row.note for row in result.report.rows if "weight_h" in row.name}
    assert all(("by magnitude" in note) == (given == "data") for note in seen.values())


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
def test_what_is_summed_as_one_axis_meets_its_data(method: str) -> None:
    """A weight behind a reshape is judged as the same weight that lies as the product reads it."""
    random = np.random.default_rng(0)
    array = random.standard_normal((2, 8, 6)).astype(np.float32)
    data = {"x": random.standard_normal((64, 16)).astype(np.float32) * np.logspace(-1, 1, 16, dtype=np.float32)}
    made = []
    for line, shape in (
        ("t = Reshape(w, to) y = MatMul(x, t)", (2, 8, 6)),
        ("t = Identity(to) y = MatMul(x, w)", (16, 6)),
    ):
        model = parser.parse_model(f"{HEAD} m (float[n,16] x) => (float[n,6] y) <int64[2] to = {{16, 6}}> {{ {line} }}")
        model.graph.initializer.append(numpy_helper.from_array(array.reshape(shape), "w"))
        result = gp.sparsify(model, method=method, data=data)
        assert [row.note for row in result.report.rows] == [""]
        made.append(result.graph.weights()["w"].weight.array().reshape(16, 6))
    assert np.array_equal(*made)


def test_a_split_of_what_is_summed_stays_dense() -> None:
    text = (
        "(float[2,4] x) => (float[2,5] y) { a, b = Split<axis=0, num_outputs=2>(w)"
        " p = MatMul(x, a) q = MatMul(x, b) y = Add(p, q) }"
    )
    with pytest.raises(InputError, match="'w': Split reads it|'w': MatMul reads it"):
        gp.sparsify(made(text, {"w": (8, 5)}))


@pytest.mark.parametrize("method", ["", "wanda", "sparsegpt"])
def test_the_projections_of_cross_attention_are_sparse(method: str) -> None:
    """`nn.MultiheadAttention` takes its packed weight apart where keys are other data than queries."""
    torch.manual_seed(0)
    layer = torch.nn.TransformerDecoderLayer(16, 4, 32, dropout=0.0, batch_first=True).eval()
    x, memory = torch.randn(2, 5, 16), torch.randn(2, 6, 16)
    data = {"tgt": x.numpy(), "memory": memory.numpy()} if method else None
    result = gp.sparsify(layer, (x, memory), method=method, data=data)
    found = result.model.multihead_attn.in_proj_weight.detach().numpy()
    assert result.report.proof.passed
    assert zero_in_fours(found, 1) == {2}
