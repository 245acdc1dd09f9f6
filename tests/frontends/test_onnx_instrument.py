"""The masked reference: masks zero what they should, compactions run a node on the kept indices only."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from graphprune.frontends import onnx as frontend
from graphprune.frontends.treatment import Compaction, Index, Treatment
from tests.frontends.onnx_tools import feeds, model, node, run, weight


def treated(made: onnx.ModelProto, treatment: Treatment, sizes: Any = None) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The first output of the treated model, and the inputs it was fed."""
    graph = frontend.from_model(made)
    found = frontend.instrument(graph, treatment)
    onnx.checker.check_model(found, full_check=True)
    inputs = feeds(graph, sizes)
    return run(found, inputs)[0], inputs


def mask(*kept: int, size: int, shape: tuple[int, ...]) -> np.ndarray:
    """True at the kept positions, in the given shape."""
    return np.isin(np.arange(size), kept).reshape(shape)


@pytest.mark.parametrize("opset", [9, 13, 23])
def test_masks_on_values_inputs_weights_and_outputs(opset: int) -> None:
    nodes = [node("Exp", "x", "e"), node("Mul", "e w", "m"), node("Exp", "m")]
    made = model(nodes, {"x": ("batch", 4)}, weights={"w": weight(4)}, opset=opset)
    keep = {n: mask(*kept, size=4, shape=(1, 4)) for n, kept in (("x", (0, 1)), ("e", (1, 2)), ("y", (0, 1, 3)))}
    masks = {name: [array] for name, array in keep.items()} | {"w": [mask(0, 1, 2, size=4, shape=(4,))]}
    found, inputs = treated(made, Treatment(masks), {"x": (5, 4)})
    hidden = np.where(keep["e"], np.exp(np.where(keep["x"], inputs["x"], 0)), 0)
    expected = np.where(keep["y"], np.exp(hidden * np.where(masks["w"][0], weight(4), 0)), 0)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_masks_take_nan_away_and_several_masks_meet() -> None:
    made = model([node("Log", "x", "l"), node("Identity", "l")], {"x": (2, 3)})
    masks = [mask(0, 1, size=3, shape=(1, 3)), np.array([[True], [False]])]
    found, _ = treated(made, Treatment({"l": masks}))
    assert (found[1] == 0).all()
    assert (found[:, 2] == 0).all()


@pytest.mark.parametrize("kind", ["BOOL", "UINT16", "UINT64"])
def test_masks_on_types_that_the_runtime_cannot_choose_between(kind: str) -> None:
    to = getattr(onnx.TensorProto, kind)
    nodes = [node("Abs", "x", "a"), node("Cast", "a", "c", to=to), node("Cast", "c", to=onnx.TensorProto.FLOAT)]
    made = model(nodes, {"x": (2, 3)})
    keep = mask(0, 2, size=3, shape=(1, 3))
    found, inputs = treated(made, Treatment({"c": [keep]}))
    cast = np.abs(inputs["x"]).astype(onnx.helper.tensor_dtype_to_np_dtype(to)).astype(np.float32)
    np.testing.assert_array_equal(found, np.where(keep, cast, 0))


def softmax(x: np.ndarray, axis: int) -> np.ndarray:
    """The usual one."""
    powers = np.exp(x - x.max(axis, keepdims=True))
    return np.asarray(powers / powers.sum(axis, keepdims=True))


@pytest.mark.parametrize("opset", [9, 13])
def test_compaction_of_a_statistic(opset: int) -> None:
    made = model([node("Softmax", "x", axis=2)], {"x": ("batch", 3, 6)}, opset=opset)
    kept = np.array([1, 2, 5])
    treatment = Treatment(compactions={"Softmax_y": Compaction({0: [Index(2, kept)]}, {0: [Index(2, kept)]})})
    found, inputs = treated(made, treatment, {"x": (4, 3, 6)})
    expected = np.zeros_like(found)
    expected[..., kept] = softmax(inputs["x"][..., kept], 2)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_compaction_of_a_layer_norm_with_its_parameters() -> None:
    made = model(
        [node("LayerNormalization", "x s b")], {"x": ("batch", 6)}, weights={"s": weight(6), "b": weight(6, seed=1)}
    )
    kept = np.array([0, 4])
    index = [Index(1, kept)]
    own = [Index(0, kept)]
    treatment = Treatment(compactions={"LayerNormalization_y": Compaction({0: index, 1: own, 2: own}, {0: index})})
    found, inputs = treated(made, treatment)
    x = inputs["x"][:, kept]
    normed = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    expected = np.zeros_like(found)
    expected[:, kept] = normed * weight(6)[kept] + weight(6, seed=1)[kept]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_compaction_of_a_reduction_leaves_its_output_alone() -> None:
    made = model([node("ReduceMean", "x", axes=[1])], {"x": (2, 6)})
    kept = np.array([1, 3])
    found, inputs = treated(made, Treatment(compactions={"ReduceMean_y": Compaction({0: [Index(1, kept)]})}))
    np.testing.assert_allclose(found, inputs["x"][:, kept].mean(1, keepdims=True), rtol=1e-6)


@pytest.mark.parametrize("opset", [9, 17])
def test_compaction_by_different_indices_in_each_row(opset: int) -> None:
    made = model([node("Softmax", "x", axis=2)], {"x": (2, 3, 6)}, opset=opset)
    kept = np.array([[0, 1], [2, 3], [1, 5]]).reshape(1, 3, 2)
    treatment = Treatment(compactions={"Softmax_y": Compaction({0: [Index(2, kept)]}, {0: [Index(2, kept)]})})
    found, inputs = treated(made, treatment)
    rows = np.broadcast_to(kept, (2, 3, 2))
    expected = np.zeros_like(found)
    np.put_along_axis(expected, rows, softmax(np.take_along_axis(inputs["x"], rows, 2), 2), 2)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_compaction_with_several_indices_is_undone_in_reverse() -> None:
    made = model([node("Softmax", "x", axis=2)], {"x": (2, 4, 6)})
    index = [Index(1, np.array([3, 0])), Index(2, np.array([[0, 1], [4, 5]]).reshape(1, 2, 2))]
    found, inputs = treated(made, Treatment(compactions={"Softmax_y": Compaction({0: index}, {0: index})}))
    expected = np.zeros_like(found)
    for row, columns in ((3, [0, 1]), (0, [4, 5])):
        expected[:, row, columns] = softmax(inputs["x"][:, row][:, columns], 1)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_compaction_replaces_the_group_count_and_a_mask_follows() -> None:
    made = model(
        [node("GroupNormalization", "x s b", num_groups=3)],
        {"x": (2, 6, 4)},
        weights={"s": weight(6), "b": weight(6, seed=1)},
        opset=21,
    )
    kept = np.array([0, 1, 4, 5])
    index, own = [Index(1, kept)], [Index(0, kept)]
    compaction = Compaction({0: index, 1: own, 2: own}, {0: index}, groups=2)
    masks = {"y": [mask(1, 4, 5, size=6, shape=(1, 6, 1))]}
    graph = frontend.from_model(made)
    found = frontend.instrument(graph, Treatment(masks, {"GroupNormalization_y": compaction}))
    inputs = feeds(graph)
    x = inputs["x"][:, kept].reshape(2, 2, 8)
    normed = ((x - x.mean(2, keepdims=True)) / np.sqrt(x.var(2, keepdims=True) + 1e-5)).reshape(2, 4, 4)
    expected = np.zeros((2, 6, 4), np.float32)
    expected[:, kept] = normed * weight(6)[kept][:, None] + weight(6, seed=1)[kept][:, None]
    np.testing.assert_allclose(run(found, inputs)[0], expected * masks["y"][0], rtol=1e-4, atol=1e-5)


def test_nothing_to_treat_is_the_model_itself() -> None:
    made = model([node("Relu", "x")], {"x": (2, 3)})
    assert frontend.instrument(frontend.from_model(made), Treatment()).SerializeToString() == made.SerializeToString()
