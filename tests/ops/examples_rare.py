"""Worked examples: rare ONNX operators that leave some axes alone."""

from __future__ import annotations

from typing import Any

import numpy as np

from .examples_onnx import model, node, normal, positive
from .registry import example


@example(
    """
    8 exact: w[1] v[0]
    """
)
def sequence_reversed() -> Any:
    nodes = [
        node("MatMul", "x w", "h"),
        node("ReverseSequence", "h lengths", "r", batch_axis=0, time_axis=1),
        node("MatMul", "r v", "y"),
    ]
    return model(nodes, {"w": normal(3, 8), "v": normal(8, 2), "lengths": [5, 3]}, [2, 5, 3], [2, 5, 2])


@example(
    """
    8 exact: w[1] u[1] v[0]
    """
)
def rows_written_by_index() -> Any:
    """A slice assignment as the TorchScript exporter writes it: whole rows of the last axis."""
    nodes = [
        node("MatMul", "x w", "h"),
        node("MatMul", "x u", "g"),
        node("Slice", "g zero three axis", "s"),
        node("ScatterND", "h places s", "r"),
        node("MatMul", "r v", "y"),
    ]
    places = np.array([[[0, 1], [0, 2], [0, 4]], [[1, 0], [1, 3], [1, 4]]], np.int64)
    weights = {"w": normal(3, 8), "u": normal(3, 8), "v": normal(8, 2), "places": places}
    return model(nodes, {**weights, "zero": [0], "three": [3], "axis": [1]}, [2, 5, 3], [2, 5, 2])


@example(
    """
    6 exact: w[0] b[0] v[1]
    """
)
def regions_of_interest() -> Any:
    nodes = [
        node("Conv", "x w b", "h"),
        node("RoiAlign", "h boxes which", "r", output_height=2, output_width=2),
        node("Conv", "r v", "y"),
    ]
    boxes = np.array([[0, 0, 3, 3], [1, 1, 4, 4], [0, 2, 2, 4]], np.float32)
    weights = {"w": normal(6, 3, 1, 1), "b": normal(6), "v": normal(2, 6, 1, 1), "boxes": boxes, "which": [0, 1, 0]}
    return model(nodes, weights, [2, 3, 5, 5], [3, 2, 2, 2])


@example(
    """
    6 exact: w[0] d[1]
    8 exact: d[0] db[0] v[1]
    """
)
def deformable_convolution() -> Any:
    """The offsets come from a convolution of their own, whose filters stay."""
    nodes = [
        node("Conv", "x w", "h"),
        node("Conv", "x o", "shifts"),
        node("DeformConv", "h d shifts db", "r"),
        node("Conv", "r v", "y"),
    ]
    weights = {"w": normal(6, 3, 1, 1), "o": normal(2, 3, 1, 1), "d": normal(8, 6, 1, 1), "db": normal(8)}
    return model(nodes, {**weights, "v": normal(2, 8, 1, 1)}, [2, 3, 5, 5], [2, 2, 5, 5], opset=19)


@example(
    """
    8 exact: w[1] v[0]
    """
)
def cropped_at_the_centre() -> Any:
    nodes = [
        node("MatMul", "x w", "h"),
        node("CenterCropPad", "h size", "r", axes=[1]),
        node("MatMul", "r v", "y"),
    ]
    return model(nodes, {"w": normal(3, 8), "v": normal(8, 2), "size": [3]}, [2, 5, 3], [2, 3, 2], opset=18)


@example(
    """
    8 exact: w[1] v[0]
    """
)
def fourier_over_time() -> Any:
    """The transform runs over axis 1; channels pass."""
    nodes = [
        node("MatMul", "x w", "h"),
        node("Unsqueeze", "h last", "u"),
        node("DFT", "u", "f", axis=1),
        node("ReduceSumSquare", "f last", "p", keepdims=0),
        node("MatMul", "p v", "y"),
    ]
    return model(nodes, {"w": normal(3, 8), "v": normal(8, 2), "last": [3]}, [2, 5, 3], [2, 5, 2], opset=18)


@example(
    """
    4 of 4 exact: a[0] b[1]
    """
)
def col2im() -> Any:
    """The four pixels of a patch, patches overlapping, are added into one channel of the image: they go together."""
    nodes = [
        node("Conv", "x a", "h", kernel_shape=[1]),
        node("Col2Im", "h size block", "f"),
        node("Conv", "f b", "y", kernel_shape=[1, 1]),
    ]
    weights = {"a": normal(16, 3, 1), "b": normal(2, 4, 1, 1), "size": [4, 4], "block": [2, 2]}
    return model(nodes, weights, [1, 3, 9], [1, 2, 4, 4], 18)


@example(
    """
    6 exact: a[1] b[0]
    """
)
def places_written_by_index() -> Any:
    """Were one of the written values removed, its place would keep what was there, and not become zero."""
    nodes = [
        node("MatMul", "x w", "h"),
        node("MatMul", "x u", "g"),
        node("ScatterElements", "h places g", "r", axis=1),
        node("MatMul", "r a", "s"),
        node("MatMul", "s b", "y"),
    ]
    places = np.array([[0, 2], [1, 4]], np.int64)
    weights = {"w": normal(3, 5), "u": normal(3, 2), "a": normal(5, 6), "b": normal(6, 2), "places": places}
    return model(nodes, weights, [2, 3], [2, 2], opset=16)


@example(
    """
    5 renormalizing: a[0] w[2]
    6 exact: w[1] scale[0] shift[0] mean[0] var[0] b[1]
    """
)
def weight_standardization_as_exported() -> Any:
    """A batch norm in training mode over a weight, its statistics unread; paddings computed from single numbers."""
    nodes = [
        node("Ceil", "half", "one"),
        node("Mul", "one one", "more"),
        node("Unsqueeze", "more zero", "part"),
        node("Concat", "part part", "floats", axis=0),
        node("Cast", "floats", "own", to=7),
        node("Concat", "none own none own", "pads", axis=0),
        node("Conv", "x a", "h"),
        node("Pad", "h pads", "p"),
        node("BatchNormalization", "w scale shift mean var", "s m v", training_mode=1),
        node("Reshape", "s kernel", "k"),
        node("Conv", "p k", "c"),
        node("Conv", "c b", "y"),
    ]
    weights = {
        "half": np.array(0.5, np.float32), "zero": [0], "none": [0, 0], "kernel": [6, 5, 1, 1],
        "a": normal(5, 3, 1, 1), "w": normal(1, 6, 5), "b": normal(2, 6, 1, 1),
        "scale": positive(6), "shift": normal(6), "mean": normal(6), "var": positive(6),
    }  # fmt: skip
    return model(nodes, weights, [2, 3, 4, 4], [2, 2, 6, 6])
