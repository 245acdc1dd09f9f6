"""Compact weights: every bit comes back, files are as small as they should be, broken ones are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import onnx
import pytest
import torch
from torch import nn

import graphprune as gp
from graphprune.cli import run
from graphprune.errors import InputError
from graphprune.sparsity.packing import pack, unpack

DIGITS = Path(__file__).parents[2] / "models" / "digits_resnet.onnx"
TYPES = [np.float32, np.float16, ml_dtypes.bfloat16, np.float64]


def bits(array: np.ndarray) -> bytes:
    """The elements as they lie in memory."""
    return np.ascontiguousarray(array).tobytes()


def sparse(shape: tuple[int, ...], axis: int, n: int, m: int, dtype: Any, seed: int = 0) -> np.ndarray:
    """Random numbers, of which at most `n` of `m` along the axis stay: often fewer, sometimes NaN or infinite."""
    random = np.random.default_rng(seed)
    array = np.moveaxis(random.standard_normal(shape).astype(dtype), axis, -1).copy()
    for line in array.reshape(-1, array.shape[-1]):
        for start in range(0, line.size, m):
            line[start + random.permutation(m)[random.integers(0, n + 1) :]] = 0
    array.reshape(-1)[np.flatnonzero(array)[:3]] = [np.nan, np.inf, -np.inf]
    return np.ascontiguousarray(np.moveaxis(array, -1, axis))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (4, 8), (1, 2), (2, 3), (3, 5), (7, 32)])
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_every_bit_comes_back(n: int, m: int, axis: int, dtype: Any) -> None:
    shape = tuple(2 * m if a == axis else a + 3 for a in range(3))
    array = sparse(shape, axis, n, m, dtype)
    packed = pack(array, axis, n, m)
    assert packed is not None
    assert packed.negative is None
    assert packed.values.size == array.size // m * n
    assert packed.indices.size == -(-packed.values.size * (m - 1).bit_length() // 8)
    assert bits(unpack(packed, shape, axis, n, m)) == bits(array)


@pytest.mark.parametrize("dtype", TYPES)
def test_negative_zeros_come_back_wherever_they_lie(dtype: Any) -> None:
    """Weights times a mask are full of them."""
    random = np.random.default_rng(0)
    mask = np.tile([0.0, 1.0, 1.0, 0.0], (6, 4))
    array = (random.standard_normal((6, 16)) * mask).astype(dtype)
    array[0, 1] = array[1, :4] = -0.0
    packed = pack(array, 1, 2, 4)
    assert packed is not None
    assert packed.negative is not None
    assert bits(unpack(packed, array.shape, 1, 2, 4)) == bits(array)


def test_what_has_not_the_pattern_is_not_packed() -> None:
    assert pack(np.ones((4, 8), np.float32), 1, 2, 4) is None
    assert pack(np.zeros((4, 6), np.float32), 1, 2, 4) is None


class Net(nn.Module):
    """A convolution and two layers, of which one may be tied to the other, and a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3)
        self.norm = nn.BatchNorm2d(8)
        self.first, self.second = nn.Linear(8, 8), nn.Linear(8, 8)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(self.norm(self.conv(x)).mean((2, 3))).relu())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_module_gets_its_weights_back(dtype: torch.dtype, tmp_path: Path) -> None:
    torch.manual_seed(0)
    net, image = Net().eval().to(dtype), torch.randn(2, 4, 6, 6, dtype=dtype)
    result = gp.sparsify(net, image)
    gp.save_compact(result, tmp_path / "small.safetensors")
    other = gp.restore_compact(Net().eval().to(dtype), tmp_path / "small.safetensors")
    for name, tensor in result.model.state_dict().items():
        assert torch.equal(tensor, other.state_dict()[name]), name
    stored = gp.load_compact(tmp_path / "small.safetensors")
    assert stored.sparse == ("conv.weight", "first.weight")
    assert stored.pattern == "2:4"
    weights = result.graph.weights()
    assert all(bits(stored[name]) == bits(weights[name].weight.array()) for name in stored)


@pytest.mark.parametrize(("dtype", "share"), [(np.float16, 0.5625), (np.float32, 0.53125)])
def test_two_of_four_take_the_space_that_they_should(dtype: Any, share: float, tmp_path: Path) -> None:
    weight = onnx.numpy_helper.from_array(sparse((256, 512), 0, 2, 4, dtype), "w")
    code = weight.data_type
    value = [onnx.helper.make_tensor_value_info(n, code, [2, s]) for n, s in (("x", 256), ("y", 512))]
    node = onnx.helper.make_node("MatMul", ["x", "w"], ["y"])
    graph = onnx.helper.make_graph([node], "g", value[:1], value[1:], [weight])
    model = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 18)], ir_version=9)
    onnx.save(model, tmp_path / "m.onnx")
    gp.save_compact(gp.load(tmp_path / "m.onnx"), tmp_path / "m.safetensors")
    stored = gp.load_compact(tmp_path / "m.safetensors")
    assert stored.sparse == ("w",)
    assert bits(stored["w"]) == weight.raw_data
    size = (tmp_path / "m.safetensors").stat().st_size
    assert size == pytest.approx(256 * 512 * np.dtype(dtype).itemsize * share, abs=4096)


def test_the_command_line_writes_and_restores(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made, small, again = tmp_path / "sparse.onnx", tmp_path / "small.safetensors", tmp_path / "again.onnx"
    assert run(["sparsify", str(DIGITS), "-o", str(made), "--compact", str(small), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["pattern"] == "2:4"
    assert run(["restore", str(DIGITS), "--compact", str(small), "-o", str(again)]) == 0
    tensors = [{t.name: t for t in onnx.load(path).graph.initializer} for path in (made, again)]
    assert tensors[0].keys() == tensors[1].keys()
    for name, tensor in tensors[0].items():
        assert bits(onnx.numpy_helper.to_array(tensor)) == bits(onnx.numpy_helper.to_array(tensors[1][name]))
    assert small.stat().st_size < 0.6 * made.stat().st_size
    assert run(["restore", str(DIGITS), "--compact", str(DIGITS), "-o", str(tmp_path / "no.onnx")]) == 2


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A compact file of one layer."""
    net = nn.Linear(8, 4, bias=False).eval()
    gp.save_compact(gp.sparsify(net, torch.randn(2, 8)), tmp_path / "small.safetensors")
    return tmp_path / "small.safetensors"


def test_another_model_is_refused_and_stays_as_it_is(small: Path) -> None:
    for other, match in [
        (nn.Linear(8, 8, bias=False), "of another model"),
        (nn.Linear(8, 4, bias=False).half(), r"float32 \[4, 8\], in the module float16"),
        (nn.Sequential(nn.Linear(8, 4)), "which the module has not"),
    ]:
        before = [p.clone() for p in other.parameters()]
        with pytest.raises(InputError, match=match):
            gp.restore_compact(other, small)
        assert all(torch.equal(a, b) for a, b in zip(before, other.parameters(), strict=True))
    with pytest.raises(InputError, match="which '.*' has not"):
        gp.restore_compact(DIGITS, small)


def broken(small: Path, change: Any) -> Path:
    """The file with its header or its bytes changed."""
    raw = small.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header, data = json.loads(raw[8 : 8 + length]), bytearray(raw[8 + length :])
    tensors = json.loads(header["__metadata__"]["tensors"])
    change(header, tensors, data)
    header["__metadata__"]["tensors"] = json.dumps(tensors)
    text = json.dumps(header).encode()
    small.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return small


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda h, t, d: h["__metadata__"].update(format="x"), "holds no compact weights"),
        (lambda h, t, d: h["__metadata__"].pop("pattern"), "broken metadata"),
        (lambda h, t, d: t["weight"].pop("parts"), "broken metadata"),
        (lambda h, t, d: t["weight"].update(parts=[]), "'weight' is broken"),
        (lambda h, t, d: t["weight"].update(parts=["weight"]), "'weight' is broken"),
        (lambda h, t, d: t["weight"].update(axis=5), "'weight' is broken"),
        (lambda h, t, d: t["weight"].update(axis=0), "does not leave"),
        (lambda h, t, d: t["weight"].update(n=0), "'weight' is broken"),
        (lambda h, t, d: t["weight"].update(shape=[4, 16]), "does not leave"),
        (lambda h, t, d: d.__setitem__(slice(64, 68), b"\0" * 4), "rising numbers below 4"),
        (lambda h, t, d: d.pop(), "cannot be read as compact weights"),
    ],
)
def test_broken_files_end_in_one_sentence(small: Path, change: Any, match: str) -> None:
    with pytest.raises(InputError, match=match):
        dict(gp.load_compact(broken(small, change)))


def test_what_cannot_be_stored_is_told(tmp_path: Path) -> None:
    graph = gp.load(DIGITS)
    with pytest.raises(InputError, match="need an N:M pattern, not 'row:0.5'"):
        gp.save_compact(graph, tmp_path / "x.safetensors", "row:0.5")
    with pytest.raises(InputError, match="cannot be written"):
        gp.save_compact(graph, tmp_path / "nowhere" / "x.safetensors")
    assert not list(tmp_path.iterdir())
