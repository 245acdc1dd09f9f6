"""Engines and timings that are kept: used again for what they were built from and for nothing else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from graphprune.errors import BackendError, InputError
from graphprune.runtimes.tensorrt import TensorRTExecutable
from graphprune.runtimes.tensorrt_cache import Built
from graphprune.runtimes.tensorrt_memory import CudaMemory
from tests.runtimes import models
from tests.runtimes.tensorrt_world import PLAN, World, runtime

X = np.random.default_rng(1).standard_normal((3, 8)).astype(np.float32)


def builds(world: World) -> int:
    return len(world.called("Builder.build_serialized_network"))


def test_an_engine_is_used_again_for_what_it_was_built_from(world: World, tmp_path: Path) -> None:
    world.messages = [("VERBOSE", "(Sparsity) Found 2 layer(s) eligible to use sparse tactics: a, b")]
    world.messages += [("VERBOSE", "(Sparsity) Chose 1 layer(s) using sparse tactics: b")]
    first = runtime(tmp_path).compile(models.linear())
    again = runtime(tmp_path).compile(models.linear())
    assert builds(world) == 1
    sentence = "TensorRT found 2 layer(s) eligible for sparse kernels and chose 1 to run so"
    assert first.notes == again.notes == (sentence,)
    np.testing.assert_array_equal(first.run([X])[0], again.run([X])[0])
    for other in (runtime(tmp_path, sparse=False), runtime(tmp_path, [(2, 8)]), runtime(tmp_path, {"x": (2, 8)})):
        other.compile(models.linear())
    assert builds(world) == 4
    changed = models.linear()
    changed.graph.initializer[1].raw_data = np.zeros(4, np.float32).tobytes()
    runtime(tmp_path).compile(changed)
    assert builds(world) == 5
    assert not list(tmp_path.glob(".*")), "nothing half written is left"


def test_weights_beside_the_model_belong_to_it(world: World, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    for value in (0, 1, 1):
        model = models.linear(8, 64)
        model.graph.initializer[1].raw_data = np.full(64, value, np.float32).tobytes()
        (tmp_path / "m.data").unlink(missing_ok=True)
        onnx.save(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
        runtime(tmp_path / "engines").compile(path)
    assert builds(world) == 2
    assert all(p.name.startswith("m-") for p in (tmp_path / "engines").glob("*.engine"))


@pytest.mark.parametrize(
    ("harm", "note"),
    [
        (lambda engine, about: engine.write_bytes(b"else"), "is of another content than its description"),
        (lambda engine, about: about.write_text(about.read_text().replace('"9.0"', '"8.6"')), "is of another device"),
        (lambda engine, about: about.write_text("[]"), "is of another format"),
        (lambda engine, about: about.write_text("{"), r"cannot be read \(JSONDecodeError\)"),
        (lambda engine, about: about.unlink(), r"cannot be read \(FileNotFoundError\)"),
    ],
)
def test_a_kept_engine_that_is_not_what_it_should_be_is_built_anew(
    world: World, tmp_path: Path, harm: Any, note: str
) -> None:
    runtime(tmp_path).compile(models.linear())
    (engine,) = tmp_path.glob("*.engine")
    harm(engine, engine.with_name(engine.name + ".json"))
    with pytest.warns(UserWarning, match=note):
        runtime(tmp_path).compile(models.linear())
    assert builds(world) == 2
    assert engine.read_bytes() == PLAN
    runtime(tmp_path).compile(models.linear())
    assert builds(world) == 2


def test_a_kept_engine_that_does_not_load_is_built_anew(world: World, tmp_path: Path) -> None:
    runtime(tmp_path).compile(models.linear())
    world.loads = False
    with pytest.raises(BackendError, match="cannot load the engine"):
        runtime(tmp_path).compile(models.linear())
    assert builds(world) == 2


def test_timings_are_kept_and_begun_anew_where_they_do_not_suit(world: World, tmp_path: Path) -> None:
    runtime(tmp_path).compile(models.linear())
    (timings,) = tmp_path.glob("*.timing")
    assert timings.read_bytes() == b"+"
    runtime(tmp_path, sparse=False).compile(models.linear())
    assert timings.read_bytes() == b"++"
    world.takes_timings = False
    with pytest.warns(UserWarning, match="the timings kept in .* do not suit this device or version"):
        executable = runtime(tmp_path, optimization_level=1).compile(models.linear())
    assert "do not suit" in executable.notes[0]
    assert timings.read_bytes() == b"+"
    assert runtime(tmp_path, optimization_level=1).compile(models.linear()).notes == (), "of that time only"


def test_a_folder_that_cannot_be_made_is_said(world: World, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="'.*' cannot be written: Not a directory; name another folder"):
        runtime(tmp_path / "file" / "folder").compile(models.linear())


def test_a_file_that_cannot_be_replaced_leaves_nothing(world: World, tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(InputError, match="'.*taken' cannot be written: Is a directory"):
        TensorRTExecutable(Built(PLAN), CudaMemory()).save(tmp_path / "taken")
    assert list(tmp_path.iterdir()) == [tmp_path / "taken"]


def test_an_engine_can_be_written_for_other_programs(world: World, tmp_path: Path) -> None:
    executable = runtime().compile(models.linear())
    executable.save(tmp_path / "m.engine")
    assert (tmp_path / "m.engine").read_bytes() == PLAN
    about = json.loads((tmp_path / "m.engine.json").read_text())["fingerprint"]
    assert about["device"] == {"name": "NVIDIA Fake", "capability": "9.0", "cuda": "13"}
    assert about["shapes"] == [[3, 8]]
    TensorRTExecutable(Built(PLAN), CudaMemory()).save(tmp_path / "bare.engine")
    assert not (tmp_path / "bare.engine.json").exists()
