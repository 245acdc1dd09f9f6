"""What onnxruntime's quantisers make of small networks prunes as far as the networks themselves."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnxruntime import GraphOptimizationLevel
from onnxruntime.quantization import QuantFormat, QuantType, quantize_dynamic, quantize_static
from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

import graphprune as gp
from graphprune.frontends.onnx.quantized import Along, Blocked, Encoded, Layout, Nibbles, Part, affine, pack, unpack
from graphprune.ir.graph import Weight

from .ort_tools import Calibration, assert_prunes, exported, operators, optimized


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("float")
    return {style: exported(style, folder / f"{style}.onnx") for style in ("images", "bert", "gpt", "llama")}


@pytest.mark.parametrize("by_channel", [False, True])
@pytest.mark.parametrize("form", [QuantFormat.QDQ, QuantFormat.QOperator])
@pytest.mark.parametrize("style", ["images", "bert"])
def test_static(style: str, form: QuantFormat, by_channel: bool, files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "quantised.onnx"
    quantize_static(files[style], out, Calibration(style), quant_format=form, per_channel=by_channel)
    assert operators(out)["DequantizeLinear" if form == QuantFormat.QDQ else "QLinearAdd"] > 0
    assert_prunes(out)


@pytest.mark.parametrize("style", ["images", "llama"])
def test_static_after_onnxruntimes_own_fusions(style: str, files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "quantised.onnx"
    quantize_static(files[style], out, Calibration(style), quant_format=QuantFormat.QDQ, per_channel=True)
    out = optimized(out, GraphOptimizationLevel.ORT_ENABLE_ALL)
    assert operators(out)["QLinearConv" if style == "images" else "QLinearMatMul"] > 1
    assert_prunes(out)


@pytest.mark.parametrize("by_channel", [False, True])
@pytest.mark.parametrize("style", ["images", "gpt"])
def test_dynamic(style: str, by_channel: bool, files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "quantised.onnx"
    quantize_dynamic(files[style], out, weight_type=QuantType.QUInt8, per_channel=by_channel)
    assert operators(out)["ConvInteger" if style == "images" else "MatMulInteger"] > 1
    assert_prunes(out)
    if style == "gpt":
        out = optimized(out, GraphOptimizationLevel.ORT_ENABLE_EXTENDED)
        assert operators(out)["DynamicQuantizeMatMul"] > 1
        assert_prunes(out)


@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("form", [QuantFormat.QDQ, QuantFormat.QOperator])
def test_few_bits(form: QuantFormat, symmetric: bool, files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "quantised.onnx"
    how = DefaultWeightOnlyQuantConfig(block_size=16, is_symmetric=symmetric, quant_format=form)
    quantizer = MatMulNBitsQuantizer(onnx.load(str(files["gpt"])), algo_config=how)
    quantizer.process()
    quantizer.model.save_model_to_file(str(out))
    assert operators(out)["DequantizeLinear" if form == QuantFormat.QDQ else "MatMulNBits"] > 1
    assert_prunes(out, 0.45)


def test_magnitudes_and_counts_are_those_of_the_floats(files: dict[str, Path], tmp_path: Path) -> None:
    out = tmp_path / "quantised.onnx"
    quantize_static(files["images"], out, Calibration("images"), quant_format=QuantFormat.QDQ, per_channel=True)
    floats, integers = gp.load(files["images"]), gp.load(out)
    assert integers.parameter_count() == floats.parameter_count()
    kept = [gp.plan(g, "channels=0.5", "l2", align=1).groups for g in (floats, integers)]
    for one, other in zip(*kept, strict=True):
        same = set(one.keep[0]) & set(other.keep[0])
        assert len(same) >= 0.8 * len(one.keep[0]), one.name


def test_packing_is_undone() -> None:
    numbers = np.random.default_rng(0).integers(0, 16, (3, 5)).astype(np.uint8)
    assert pack(numbers, 4).shape == (3, 3)
    np.testing.assert_array_equal(unpack(pack(numbers, 4), 4)[:, :5], numbers)


def test_slicing_a_weight_in_parts_slices_what_it_stands_for() -> None:
    """Every layout, against numpy on the decoded array."""
    random = np.random.default_rng(0)
    rows, columns = np.array([0, 3, 4]), np.concatenate([np.arange(4, 8), np.arange(8, 10)])
    scale = random.random((6, 3)).astype(np.float32)
    packed = random.integers(0, 256, (6, 3, 2)).astype(np.uint8)
    zeros = random.integers(0, 256, (6, 2)).astype(np.uint8)
    whole = random.integers(-9, 9, (6, 10)).astype(np.int8)
    layouts = {
        "blocks": [(whole, Layout()), (scale, Blocked(1, 4))],
        "nibbles": [(packed, Nibbles(1, 4)), (scale.reshape(-1), Blocked(1, 4)), (zeros, Nibbles(1, 4, each=False))],
        "rows": [(whole, Layout()), (scale[:, 0], Along(0))],
    }
    for name, stored in layouts.items():
        parts = [Part(f"p{i}", Weight.of(a), layout, i) for i, (a, layout) in enumerate(stored)]
        weight = Encoded((6, 10), np.dtype(np.float32), parts, affine)

        def cut(array: np.ndarray) -> np.ndarray:
            array = array[rows] if array.shape[0] > 1 else array
            return array[:, columns] if array.shape[1] > 1 else array

        np.testing.assert_array_equal(weight.sliced(cut, (3, 6)).array(), cut(weight.array()), err_msg=name)


def test_an_integer_weight_is_masked_at_its_zero_point() -> None:
    parts = [
        Part("q", Weight.of(np.full((2, 3), 9, np.uint8)), Layout(), 0),
        Part("s", Weight.of(np.ones(2)), Along(0), 1),
    ]
    zero = Part("z", Weight.of(np.array([4, 5], np.uint8)), Along(0), 2)
    weight = Encoded((2, 3), np.dtype(np.float32), [*parts, zero], affine)
    masked = weight.masked([np.array([[True, False, True]])])
    np.testing.assert_array_equal(masked.array(), [[5, 0, 5], [4, 0, 4]])


@pytest.mark.parametrize("both", [False, True])
def test_a_quantised_lstm_loses_hidden_units_and_inputs(both: bool, tmp_path: Path) -> None:
    class Tagger(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inp, self.layer = torch.nn.Linear(8, 8), torch.nn.LSTM(8, 16, bidirectional=both)
            self.head = torch.nn.Linear(32 if both else 16, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(torch.relu(self.layer(self.inp(x))[0]))  # type: ignore[no-any-return]

    torch.manual_seed(0)
    path, out = tmp_path / "float.onnx", tmp_path / "quantised.onnx"
    torch.onnx.export(Tagger().eval(), (torch.randn(5, 2, 8),), str(path), dynamo=False, opset_version=17)
    quantize_dynamic(path, out)
    assert operators(out)["DynamicQuantizeLSTM"] == 1
    kept = [[(g.size, g.kept) for g in gp.prune(p, target="channels=0.5", align=1).report.groups] for p in (path, out)]
    assert sorted(kept[0]) == sorted(kept[1]) == [(8, 4), (16, 8)]
    assert_prunes(out, 0.45)
