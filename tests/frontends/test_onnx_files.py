"""Files in and out: external data, bad input, writing whole or not at all."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper

from graphprune import atomic
from graphprune.errors import GraphPruneError, InputError
from graphprune.frontends import onnx as frontend
from graphprune.frontends.onnx.read import checking
from graphprune.frontends.onnx.write import saving
from graphprune.ir.graph import Weight
from tests.frontends.onnx_tools import checked, feeds, linear, run, weight


def external(folder: Path, name: str = "big.onnx", location: str = "weights.bin") -> Path:
    """A model file with its larger weight in another file."""
    path = folder / name
    onnx.save_model(linear(), path, save_as_external_data=True, location=location, size_threshold=1024)
    return path


def test_external_data_is_mapped_and_stays_external(tmp_path: Path) -> None:
    path = external(tmp_path)
    graph = frontend.load(path)
    value = graph.weights()["w"]
    assert value.weight is not None
    base: Any = value.weight.array()
    while isinstance(base, np.ndarray) and not isinstance(base, np.memmap):
        base = base.base
    assert isinstance(base, np.memmap)
    out = tmp_path / "out" / "small.onnx"
    out.parent.mkdir()
    frontend.save(graph, out)
    assert sorted(p.name for p in out.parent.iterdir()) == ["small.onnx", "small.onnx.data"]
    stored = onnx.load(out, load_external_data=False)
    assert [onnx.external_data_helper.uses_external_data(t) for t in stored.graph.initializer] == [True, False]
    inputs = feeds(graph)
    np.testing.assert_array_equal(run(str(out), inputs)[0], run(str(path), inputs)[0])


def test_large_models_get_a_data_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(saving, "PROTO_LIMIT", 2000)
    graph = frontend.from_model(linear())
    frontend.save(graph, tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx.data").stat().st_size == 16 * 32 * 4
    inputs = feeds(graph)
    np.testing.assert_array_equal(run(str(tmp_path / "out.onnx"), inputs)[0], run(linear(), inputs)[0])


def test_a_file_can_be_written_over_itself(tmp_path: Path) -> None:
    path = external(tmp_path, location="big.onnx.data")
    inputs = feeds(frontend.load(path))
    expected = run(str(path), inputs)[0]
    frontend.save(frontend.load(path), path)
    np.testing.assert_array_equal(run(str(path), inputs)[0], expected)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["big.onnx", "big.onnx.data"]


def relocate(path: Path, location: str) -> None:
    """Point the external tensors elsewhere."""
    made = onnx.load(path, load_external_data=False)
    for tensor in made.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = location
    path.write_bytes(made.SerializeToString())


def link(path: Path) -> None:
    """Replace the data file by a link to one outside."""
    data = path.parent / "weights.bin"
    data.rename(path.parent.parent / "elsewhere.bin")
    data.symlink_to(path.parent.parent / "elsewhere.bin")


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda p: (p.parent / "weights.bin").unlink(),
            r"tensor 'w' of '.*big.onnx' .* file 'weights.bin', which does not exist",
        ),
        (
            lambda p: (p.parent / "weights.bin").write_bytes(b"12"),
            "'w' .* 'weights.bin', which is too short: it has 2 bytes",
        ),
        (lambda p: relocate(p, "../weights.bin"), r"'../weights.bin', which is outside the model's folder"),
        (lambda p: relocate(p, "/etc/passwd"), "'/etc/passwd', which is outside the model's folder"),
        (link, "'weights.bin', which is outside the model's folder"),
    ],
    ids=["missing", "short", "above", "absolute", "link"],
)
def test_bad_external_data(tmp_path: Path, spoil: Any, message: str) -> None:
    (tmp_path / "inside").mkdir()
    path = external(tmp_path / "inside")
    spoil(path)
    with pytest.raises(InputError, match=message):
        frontend.load(path)


def test_external_data_without_a_folder(tmp_path: Path) -> None:
    made = onnx.load(external(tmp_path), load_external_data=False)
    with pytest.raises(InputError, match="pass base_dir"):
        frontend.from_model(made)
    assert frontend.from_model(made, base_dir=tmp_path).parameter_count() == 16 * 32 + 32


def write_zip(path: Path) -> None:
    """A file like those of torch.save."""
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", b"\x80\x02.")


def spoiled(made: ModelProto, change: Any) -> bytes:
    """The model's bytes after a change."""
    change(made)
    return bytes(made.SerializeToString())


BAD = {
    "empty": (b"", "bad.onnx' is empty"),
    "garbage": (b"hello world, this is no model\n" * 20, "bad.onnx' is not an ONNX file"),
    "truncated": (linear().SerializeToString()[:-700], "bad.onnx' is not an ONNX file, or it is truncated"),
    "pickle": (b"\x80\x04\x95\x00", "bad.onnx' is not an ONNX file: it is a pickle or zip archive"),
    "no graph": (
        ModelProto(ir_version=8, opset_import=[helper.make_opsetid("", 17)]).SerializeToString(),
        "holds no graph",
    ),
    "old": (
        spoiled(linear(), lambda m: setattr(m.opset_import[0], "version", 8)),
        "uses opset 8; graphprune reads opset 9",
    ),
    "dangling": (
        spoiled(linear(), lambda m: m.graph.node[0].input.__setitem__(1, "gone")),
        "not a valid ONNX model: .*gone",
    ),
    "cycle": (spoiled(linear(), lambda m: m.graph.node[0].input.__setitem__(0, "y")), "not a valid ONNX model: "),
    "operator": (
        spoiled(linear(), lambda m: setattr(m.graph.node[2], "op_type", "Rellu")),
        "valid ONNX model: No Op registered for Rellu",
    ),
}


@pytest.mark.parametrize(("data", "message"), BAD.values(), ids=BAD)
def test_bad_files(tmp_path: Path, data: bytes, message: str) -> None:
    path = tmp_path / "bad.onnx"
    path.write_bytes(data)
    with pytest.raises(InputError, match=message) as caught:
        frontend.load(path)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_other_bad_paths(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="gone.onnx' does not exist"):
        frontend.load(tmp_path / "gone.onnx")
    with pytest.raises(InputError, match="is not a file"):
        frontend.load(tmp_path)
    write_zip(tmp_path / "renamed.onnx")
    with pytest.raises(InputError, match="pickle or zip archive, such as torch.save writes"):
        frontend.load(tmp_path / "renamed.onnx")


def test_wrong_byte_count_of_a_tensor() -> None:
    made = linear()
    made.graph.initializer[1].raw_data = b"1234"
    with pytest.raises(InputError, match="'b'|bytes"):
        frontend.from_model(made)


def test_saved_files_are_whole_and_alone(tmp_path: Path) -> None:
    graph = frontend.from_model(linear())
    path = tmp_path / "out.onnx"
    old = os.umask(0o027)
    try:
        frontend.save(graph, path)
    finally:
        os.umask(old)
    assert [p.name for p in tmp_path.iterdir()] == ["out.onnx"]
    assert path.stat().st_mode & 0o777 == 0o640
    path.chmod(0o600)
    frontend.save(graph, path)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_result_that_fails_the_checker_is_not_written(tmp_path: Path) -> None:
    graph = frontend.from_model(linear())
    graph.weights()["w"].weight = Weight.of(weight(5, 5))
    with pytest.raises(GraphPruneError, match="the written model fails the ONNX checker"):
        frontend.save(graph, tmp_path / "out.onnx")
    assert not list(tmp_path.iterdir())


def test_the_checker_sees_large_weights_by_their_sizes(tmp_path: Path) -> None:
    """Their elements are left out; what is wrong with their sizes is found all the same."""
    whole = linear()
    light = checking.without_data(whole)
    assert {i.name for i in light.graph.input} - {i.name for i in whole.graph.input} == {"w"}
    assert {t.name for t in light.graph.initializer} == {t.name for t in whole.graph.initializer} - {"w"}
    graph = frontend.from_model(whole)
    graph.weights()["w"].weight = Weight.of(weight(40, 32))
    with pytest.raises(GraphPruneError, match="the written model fails the ONNX checker"):
        frontend.save(graph, tmp_path / "out.onnx")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, m: setattr(t, "raw_data", t.raw_data[:-4]), "holds 2044 bytes but its shape"),
        (lambda t, m: m.graph.initializer.append(t), "not a valid ONNX model: .*w"),
        (lambda t, m: t.float_data.append(1.0), "not a valid ONNX model: .*w"),
        (lambda t, m: setattr(t, "name", ""), "not a valid ONNX model: "),
        (lambda t, m: setattr(m, "ir_version", 3), "not a valid ONNX model: .*w"),
    ],
    ids=["short", "twice", "two fields", "nameless", "no input in IR 3"],
)
def test_bad_large_weights(tmp_path: Path, change: Any, message: str) -> None:
    made = linear()
    change(next(t for t in made.graph.initializer if t.name == "w"), made)
    (tmp_path / "bad.onnx").write_bytes(made.SerializeToString())
    with pytest.raises(InputError, match=message):
        frontend.load(tmp_path / "bad.onnx")


def test_models_that_never_passed_full_inference_are_held_to_the_plain_checker(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = onnx.checker.check_model

    def strict(made: Any, full_check: bool = False) -> None:
        if full_check:
            raise onnx.shape_inference.InferenceError("beyond inference")
        plain(made)

    monkeypatch.setattr(onnx.checker, "check_model", strict)
    frontend.save(frontend.from_model(linear()), tmp_path / "out.onnx")
    assert (tmp_path / "out.onnx").exists()


def test_wrong_declarations_are_put_right() -> None:
    made = linear()
    made.graph.output[0].type.tensor_type.shape.dim[1].dim_value = 31
    made.graph.value_info.append(helper.make_tensor_value_info("h", 1, ("batch", 30)))
    again = checked(frontend.from_model(made))
    assert again.graph.output[0].type.tensor_type.shape.dim[1].dim_value == 32
    assert not again.graph.value_info


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "is a directory"),
        ("none/out.onnx", r"the folder '.*none' does not exist"),
        ("x" * 300, "cannot be written"),
    ],
)
def test_unwritable_outputs(tmp_path: Path, name: str, message: str) -> None:
    with pytest.raises(InputError, match=message):
        frontend.save(frontend.from_model(linear()), tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_failing_disk_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic, "_sync", full)
    with pytest.raises(InputError, match="cannot be written: No space left on device"):
        frontend.save(frontend.from_model(linear()), tmp_path / "out.onnx")
    assert not list(tmp_path.iterdir())


def test_a_killed_process_leaves_no_output(tmp_path: Path) -> None:
    program = (
        "import os, sys\n"
        "from graphprune.frontends import onnx as frontend\n"
        "graph = frontend.load(sys.argv[1])\n"
        "os.replace = lambda *_: os.kill(os.getpid(), 9)\n"
        "frontend.save(graph, sys.argv[2])\n"
    )
    (tmp_path / "in").mkdir()
    path = external(tmp_path / "in")
    out = tmp_path / "out"
    out.mkdir()
    done = subprocess.run([sys.executable, "-c", program, str(path), str(out / "small.onnx")], check=False)
    assert done.returncode == -9
    assert not list(out.glob("*.onnx*"))
    assert all(p.name.startswith(".") for p in out.iterdir())
