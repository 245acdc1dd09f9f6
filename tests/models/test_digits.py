"""The shipped digits model: good, the same in both forms, and still good at half of its MACs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

import graphprune as gp
from models.digits_data import load_digits
from models.digits_resnet import ONNX, digits_resnet


def onnx_logits(path: Path, pictures: np.ndarray) -> np.ndarray:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {"pictures": pictures})[0])


def torch_logits(model: torch.nn.Module, pictures: np.ndarray) -> np.ndarray:
    with torch.no_grad():
        return np.asarray(model(torch.from_numpy(pictures)))


def accuracy(logits: np.ndarray, labels: np.ndarray) -> float:
    return float(np.mean(logits.argmax(1) == labels))


def test_split_is_stratified_and_disjoint() -> None:
    train, train_labels = load_digits("train")
    test, test_labels = load_digits("test")
    assert (len(train), len(test)) == (1437, 360)
    assert np.bincount(test_labels).min() >= 34
    assert np.bincount(train_labels).min() >= 139
    seen = {picture.tobytes() for picture in train}
    assert not any(picture.tobytes() in seen for picture in test)


def test_module_and_onnx_agree_and_are_accurate() -> None:
    pictures, labels = load_digits("test")
    logits = torch_logits(digits_resnet(), pictures)
    assert accuracy(logits, labels) >= 0.97
    np.testing.assert_allclose(onnx_logits(ONNX, pictures), logits, rtol=1e-3, atol=1e-4)


def test_onnx_keeps_batch_norms_and_a_dynamic_batch() -> None:
    model = onnx.load(ONNX)
    onnx.checker.check_model(model, full_check=True)
    assert sum(node.op_type == "BatchNormalization" for node in model.graph.node) == 15
    assert model.graph.input[0].type.tensor_type.shape.dim[0].dim_param == "batch"
    assert not any(str(Path.cwd()) in prop.value for node in model.graph.node for prop in node.metadata_props)


@pytest.mark.parametrize("criterion", ["bn-scale", "l2"])
def test_half_of_the_macs_costs_at_most_a_point_onnx(criterion: str, tmp_path: Path) -> None:
    pictures, labels = load_digits("test")
    result = gp.prune(ONNX, target=gp.macs(0.5), criterion=criterion)
    result.save(tmp_path / "pruned.onnx")
    check(result, onnx_logits(ONNX, pictures), onnx_logits(tmp_path / "pruned.onnx", pictures), labels)


@pytest.mark.parametrize("criterion", ["bn-scale", "l2"])
def test_half_of_the_macs_costs_at_most_a_point_torch(criterion: str) -> None:
    pictures, labels = load_digits("test")
    model = digits_resnet()
    result = gp.prune(model, example_inputs=torch.zeros(2, 1, 8, 8), target=gp.macs(0.5), criterion=criterion)
    check(result, torch_logits(model, pictures), torch_logits(result.model, pictures), labels)


def check(result: Any, before: np.ndarray, after: np.ndarray, labels: np.ndarray) -> None:
    report = result.report
    assert report.proof is not None
    assert report.proof.passed
    assert report.after.macs <= 0.5 * report.before.macs
    assert accuracy(after, labels) >= accuracy(before, labels) - 0.01
