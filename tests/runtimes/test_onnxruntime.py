"""onnxruntime as a runtime: every form of model in, the right numbers out, one sentence where it cannot."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

from graphprune import runtimes
from graphprune.errors import BackendError, InputError
from graphprune.runtimes import modelfile
from tests.runtimes import models

X = np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)


def test_every_form_of_model_gives_the_same_numbers(tmp_path: Path) -> None:
    model = models.linear()
    path = tmp_path / "model.onnx"
    onnx.save(model, path)
    expected = X @ models.weight(model) + 1
    runtime = runtimes.get("onnxruntime")
    for form in (model, model.SerializeToString(), path, str(path)):
        executable = runtime.compile(form, threads=1)
        for feed in ({"x": X}, [X]):
            np.testing.assert_allclose(executable.run(feed)[0], expected, rtol=1e-5)


def test_a_model_past_the_proto_limit_runs_from_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    model = models.linear(8, 64)
    expected = X @ models.weight(model) + 1
    monkeypatch.setattr(modelfile, "PROTO_LIMIT", 1000)
    executable = runtimes.get("onnxruntime").compile(model)
    np.testing.assert_allclose(executable.run([X])[0], expected, rtol=1e-5)
    assert model.graph.initializer[0].raw_data, "the caller's model is untouched"


def test_external_data_of_a_model_in_memory_is_found(tmp_path: Path) -> None:
    model = models.linear(8, 64)
    expected = X @ models.weight(model) + 1
    onnx.save(model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)
    light = onnx.load(tmp_path / "m.onnx", load_external_data=False)
    executable = runtimes.get("onnxruntime").compile(light, folder=tmp_path)  # type: ignore[call-arg]
    np.testing.assert_allclose(executable.run([X])[0], expected, rtol=1e-5)


def test_inputs_are_described() -> None:
    executable = runtimes.get("onnxruntime").compile(models.linear())
    assert executable.inputs == (runtimes.TensorSpec("x", (None, 8), np.dtype(np.float32)),)


def test_float16_runs() -> None:
    model = models.linear(elem_type=onnx.TensorProto.FLOAT16)
    result = runtimes.get("onnxruntime").compile(model).run([X.astype(np.float16)])[0]
    assert result.dtype == np.float16
    np.testing.assert_allclose(result, X @ models.weight(model).astype(np.float32) + 1, atol=2e-2)


def test_peak_memory_is_measured_or_none() -> None:
    peak = runtimes.get("onnxruntime").peak_memory(models.linear(1024, 1024), [np.zeros((1, 1024), np.float32)])
    if not Path("/proc/self/status").exists():
        pytest.skip("peak memory is measured on Linux only")
    assert peak is not None
    assert 1024 * 1024 * 4 < peak < 2**30


@pytest.mark.parametrize(
    ("model", "error", "sentence"),
    [
        ("/nowhere/model.onnx", InputError, "there is no file '/nowhere/model.onnx'"),
        (b"not a model", BackendError, "onnxruntime cannot load the model"),
        (3, InputError, "onnxruntime runs ONNX models, not a int"),
    ],
)
def test_what_cannot_load_is_said_in_a_sentence(model: object, error: type[Exception], sentence: str) -> None:
    with pytest.raises(error, match=sentence) as caught:
        runtimes.get("onnxruntime").compile(model)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("feed", "sentence"),
    [
        ({"z": X}, "takes the inputs x, but z were given"),
        ([X, X], "takes 1 inputs"),
        ([X[:, :5]], "onnxruntime cannot run the model"),
    ],
)
def test_what_cannot_run_is_said_in_a_sentence(feed: runtimes.Inputs, sentence: str) -> None:
    with pytest.raises((InputError, BackendError), match=sentence):
        runtimes.get("onnxruntime").compile(models.linear()).run(feed)


def test_unknown_and_missing_runtimes() -> None:
    with pytest.raises(InputError, match="unknown runtime 'abacus'; known are onnxruntime, "):
        runtimes.get("abacus")


def test_a_missing_runtime_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("graphprune.runtimes.onnxruntime.find_spec", lambda name: None)
    with pytest.raises(BackendError, match="'onnxruntime' is not available on this machine: pip install onnxruntime"):
        runtimes.get("onnxruntime")
