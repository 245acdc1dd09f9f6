"""Whole models made sparse: both routes, the proof, masks in training, and what is left dense."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import graphprune as gp
from graphprune.errors import InputError
from graphprune.sparsity import Masks
from tests.helpers import zero_in_fours

DIGITS = Path(__file__).parents[2] / "models" / "digits_resnet.onnx"


def net() -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, groups=2), nn.ReLU()]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(32 * 16, 12)).eval()


IMAGE = torch.randn(2, 3, 8, 8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_a_module_computes_what_its_masked_weights_compute(dtype: torch.dtype) -> None:
    module = net().to(dtype)
    result = gp.sparsify(module, IMAGE.to(dtype))
    assert result.report.proof.passed
    assert result.report.output_form == "own class"
    expected = net().to(dtype)
    with torch.no_grad():
        for name, mask in result.masks.items():
            expected.get_parameter(name).mul_(torch.from_numpy(mask))
    assert list(result.masks) == ["3.weight", "6.weight"]
    assert torch.equal(result.model(IMAGE.to(dtype)), expected(IMAGE.to(dtype)))
    assert zero_in_fours(result.model[3].weight.detach().float().numpy(), 1) == {2}


def test_an_onnx_file_keeps_all_but_its_weights(tmp_path: Path) -> None:
    result = gp.sparsify(DIGITS, pattern="2:4")
    result.save(tmp_path / "sparse.onnx")
    before, after = onnx.load(DIGITS).graph, onnx.load(tmp_path / "sparse.onnx").graph
    for kind in ("Conv", "Gemm", "Add", "Relu"):
        assert sum(n.op_type == kind for n in before.node) == sum(n.op_type == kind for n in after.node)
    found = {t.name: onnx.numpy_helper.to_array(t) for t in after.initializer}
    assert len(result.masks) == 15
    for name, mask in result.masks.items():
        assert min(zero_in_fours(found[name], 1)) == 2  # trained weights may hold zeros of their own
        assert zero_in_fours(mask, 1) == {2}
        assert not found[name][~mask].any()


def test_a_shared_weight_read_both_ways_and_a_table_stay_dense() -> None:
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Embedding(16, 8)
            self.body = nn.Linear(8, 8)
            self.both = nn.Parameter(torch.randn(8, 8))

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            x = self.body(self.table(ids))
            return (x @ self.both @ self.both.T) @ self.table.weight.T

    result = gp.sparsify(Tied().eval(), torch.zeros(1, 4, dtype=torch.long))
    assert list(result.masks) == ["body.weight"]
    reasons = {row.name: row.reason for row in result.report.rows if row.reason}
    assert reasons["table.weight"] == "aten.embedding reads it"
    assert reasons["both"] == "its readers sum along different axes"


def test_masks_hold_while_a_module_trains(tmp_path: Path) -> None:
    result = gp.sparsify(net(), IMAGE)
    result.masks.save(tmp_path / "masks.safetensors")
    masks = Masks.load(tmp_path / "masks.safetensors")
    assert masks.pattern == "2:4"
    model = result.model.train()
    optimizer = torch.optim.AdamW(model.parameters(), 0.01)
    handle = masks.hold(model, optimizer)
    for _ in range(3):
        optimizer.zero_grad()
        model(IMAGE).square().sum().backward()
        optimizer.step()
    for name, mask in masks.items():
        assert not model.get_parameter(name).detach().numpy()[~mask].any()
    handle.remove()
    model(IMAGE).square().sum().backward()
    optimizer.step()
    assert model.get_parameter("3.weight").detach().numpy()[~masks["3.weight"]].any()
    masks.apply(model)
    assert not model.get_parameter("3.weight").detach().numpy()[~masks["3.weight"]].any()


def test_an_optimizer_that_trains_something_else_holds_no_masks() -> None:
    result = gp.sparsify(net(), IMAGE)
    with pytest.raises(InputError, match="trains none of the masked parameters"):
        result.masks.hold(result.model, torch.optim.SGD(net().parameters(), 0.1))
    with pytest.raises(InputError, match=r"held by a torch\.optim\.Optimizer, not by a NoneType"):
        result.masks.hold(result.model, None)


def test_bad_masks_and_globs_are_told() -> None:
    with pytest.raises(InputError, match="cannot be read as masks"):
        Masks.load(DIGITS)
    masks = Masks()
    masks.add("0.weight", np.ones((1, 2), bool))
    with pytest.raises(InputError, match=r"shape \[1, 2\]; the module's parameter: \[16, 3, 3, 3\]"):
        masks.apply(net())
    with pytest.raises(InputError, match="'nothing' matches no weight or node"):
        gp.sparsify(net(), IMAGE, include=["nothing"])
    with pytest.raises(InputError, match="no weight of .* can take the pattern 2:4"):
        gp.sparsify(net(), IMAGE, include=["0.weight"])
    with pytest.raises(InputError, match="unknown method 'best'"):
        gp.sparsify(net(), IMAGE, method="best")


def test_a_pipeline_makes_sparse_what_it_pruned() -> None:
    graph, rows = gp.optimize(gp.load(DIGITS), "remove-channels{channels=0.5 align=8},sparsify{pattern=2:4}", True)
    assert [row.name for row in rows] == ["remove-channels", "sparsify"]
    weights = graph.weights()
    assert zero_in_fours(weights["blocks.0.conv1.weight"].weight.array(), 1) == {2}


@pytest.mark.parametrize(
    "wrap", [lambda m: torch.compile(m, backend="eager"), nn.DataParallel], ids=["compiled", "wrapped"]
)
def test_masks_are_held_on_wrapped_modules(wrap: Any) -> None:
    torch.manual_seed(0)
    sparse = gp.sparsify(nn.Sequential(nn.Linear(16, 8), nn.ReLU(), nn.Linear(8, 4)).eval(), torch.randn(2, 16))
    module = wrap(sparse.model)
    optimizer = torch.optim.AdamW(module.parameters(), lr=0.1, weight_decay=0.1)
    sparse.masks.hold(module, optimizer)
    module(torch.randn(2, 16)).square().sum().backward()
    optimizer.step()
    for name, parameter in sparse.model.named_parameters():
        assert parameter.grad is not None and parameter.grad.any()
        if name in sparse.masks:
            assert not parameter.detach().numpy()[~sparse.masks[name]].any()


def test_masks_of_weights_with_any_names_are_read_back(tmp_path: Path) -> None:
    masks = gp.Masks("2:4")
    for name in ("pattern", "format", "shapes"):
        masks.add(name, np.tile([True, False, True, False], (3, 2)))
    masks.save(tmp_path / "masks.safetensors")
    again = gp.Masks.load(tmp_path / "masks.safetensors")
    assert again.pattern == "2:4"
    assert all(np.array_equal(again[name], mask) for name, mask in masks.items()) and len(again) == 3
    with pytest.raises(InputError, match="cannot be written: No such file"):
        masks.save(tmp_path / "none" / "masks.safetensors")
    with pytest.raises(InputError, match=r"not to a str"):
        masks.apply("model.onnx")
