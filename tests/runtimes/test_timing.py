"""Interleaved timing and random inputs."""

from __future__ import annotations

from time import sleep

import numpy as np
import pytest

from graphprune import runtimes
from graphprune.errors import InputError
from graphprune.runtimes.timing import Effort, interleave, median_interval
from tests.runtimes import models

SHORT = Effort(seconds=0.01, min_rounds=10, max_rounds=12, warmup=1)
F32, I64, BOOL = (np.dtype(kind) for kind in ("float32", "int64", "bool"))


def test_runs_take_turns_and_warm_up_is_discarded() -> None:
    calls: list[str] = []
    times = interleave([lambda: calls.append("a"), lambda: calls.append("b")], Effort(0, 3, 100, warmup=2))
    assert calls == ["a", "b"] * 5
    assert times.shape == (3, 2)


def test_rounds_stop_at_the_maximum() -> None:
    assert len(interleave([lambda: None], Effort(seconds=60, min_rounds=1, max_rounds=7))) == 7


def test_the_ratio_is_that_of_the_sleeps() -> None:
    times = interleave([lambda: sleep(0.02), lambda: sleep(0.06)], Effort(0, 10, 10, 0))
    ratio, low, high = median_interval(times[:, 1] / times[:, 0])
    assert low <= ratio <= high
    assert 2 < ratio < 4


def test_the_median_interval_holds_its_level() -> None:
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(500):
        _, low, high = median_interval(rng.standard_normal(30))
        hits += low <= 0 <= high
    assert hits / 500 >= 0.93


def test_a_comparison_says_what_it_measured() -> None:
    comparison = runtimes.compare(
        [models.linear(1024, 1024), models.linear(1024, 8)],
        labels=["whole", "part"],
        input_shapes=[(128, 1024)],
        effort=SHORT,
    )
    whole, part = comparison
    assert (whole.name, whole.ratio, part.name) == ("whole", 1.0, "part")
    assert whole.median <= whole.p90 <= whole.p99
    assert part.ratio_low <= part.ratio <= part.ratio_high and part.ratio < 1
    environment = comparison.environment
    assert environment.input_shapes == {"x": (128, 1024)}
    assert (environment.runtime, environment.threads) == ("onnxruntime", 1)
    assert environment.cpu
    assert whole.notes == whole.layers == ()
    table = runtimes.latency_table(comparison)
    assert table.splitlines()[2].startswith("| whole | ")
    assert "1 thread(s)" in table


def test_open_sizes_get_batch_one_and_images() -> None:
    specs = [
        runtimes.TensorSpec("image", (None, 3, None, None), F32),
        runtimes.TensorSpec("ids", (None, None), I64),
        runtimes.TensorSpec("mask", (2, 5), BOOL),
    ]
    arrays = runtimes.random_inputs(specs)
    assert isinstance(arrays, dict)
    assert [a.shape for a in arrays.values()] == [(1, 3, 224, 224), (1, 16), (2, 5)]
    assert [a.dtype for a in arrays.values()] == [F32, I64, BOOL]
    assert set(np.unique(arrays["ids"])) <= {0, 1}
    again = runtimes.random_inputs(specs)
    assert isinstance(again, dict)
    assert all(np.array_equal(arrays[name], again[name]) for name in arrays)


@pytest.mark.parametrize(
    ("shapes", "sentence"),
    [
        ({"y": (1, 8)}, "no input 'y'; its inputs are x"),
        ([(1, 8), (2,)], "2 input shapes were given"),
        ([(1, 9)], r"the shape 1x9 does not fit the input 'x' of shape \?x8"),
        ([(8,)], "the shape 8 does not fit"),
    ],
)
def test_shapes_that_do_not_fit(shapes: runtimes.InputShapes, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        runtimes.compare([models.linear()], input_shapes=shapes, effort=SHORT)


def test_a_runtime_that_tells_nothing_of_layers_says_so() -> None:
    (row,) = runtimes.compare([models.linear()], runtime="reference", effort=SHORT, layers=True)
    assert row.notes == ("this runtime does not tell what became of the layers",)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("onnxruntime{fast=true}", "the runtime 'onnxruntime' has no options, but 'fast=true' was given"),
        ("onnxruntime{", "unknown runtime 'onnxruntime{', did you mean 'onnxruntime'\\?; known are"),
    ],
)
def test_options_in_braces_are_for_runtimes_that_have_some(name: str, sentence: str) -> None:
    with pytest.raises(InputError, match=sentence):
        runtimes.get(name)
    assert runtimes.takes("reference") == "onnx" and runtimes.takes("pytorch") == "torch"
