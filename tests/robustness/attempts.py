"""The command line on a broken file: a clear refusal or a right result, never a bug, a crash or a file left behind.

Each function takes a seed, raises AssertionError where the contract does not hold, and gives facts for the table.
"""

from __future__ import annotations

import json
import os
import random
import sys
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory, TemporaryFile
from typing import Any

import onnx
import onnxruntime
import torch

from graphprune.cli.entry import run
from tests.properties.cases import Case

from .mutations import BYTES, broken
from .originals import Files, originals

_WORDS = ("prune", "prune", "inspect", "opt")
_SECRET = "do not read me"


@contextmanager
def captured() -> Iterator[Any]:
    """Everything that reaches the process's own stdout and stderr, from whatever library."""
    streams = [TemporaryFile(), TemporaryFile()]  # noqa: SIM115  (closed when the caller lets go of them)
    sys.stdout.flush(), sys.stderr.flush()
    kept = [os.dup(1), os.dup(2)]
    python = sys.stdout, sys.stderr
    try:
        for number, stream in enumerate(streams, 1):
            os.dup2(stream.fileno(), number)
        sys.stdout, sys.stderr = (os.fdopen(os.dup(n), "w", encoding="utf-8", errors="replace") for n in (1, 2))
        yield streams
    finally:
        sys.stdout.close(), sys.stderr.close()
        sys.stdout, sys.stderr = python
        for number, copy in enumerate(kept, 1):
            os.dup2(copy, number)
            os.close(copy)


def command(line: Sequence[str]) -> tuple[int, str]:
    """The exit code and stderr of a command line, run in this process."""
    with captured() as (_, errors):
        code = run(list(line))
    errors.seek(0)
    return code, errors.read().decode(errors="replace")


def _write(folder: Path, files: Files) -> None:
    for name, data in files.items():
        (folder / name).write_bytes(data)


def _assert_contract(folder: Path, before: set[str], line: Sequence[str], outputs: Sequence[str] = ()) -> int:
    """Run a command: exit code 0, or 2 with one sentence and nothing written."""
    code, errors = command(line)
    after = {path.name for path in folder.iterdir()}
    assert code in (0, 2), f"exit code {code}: {errors.strip()[-400:]}"
    if code == 0:
        assert errors == "", f"a success says {errors.strip()[-300:]!r}"
        assert after - before <= set(outputs), f"left behind {sorted(after - before)}"
        return code
    assert errors.startswith("graphprune: error: ") and errors.count("\n") == 1, f"not one sentence: {errors[-400:]!r}"
    assert len(errors) < 1500, f"a sentence of {len(errors)} characters"
    assert "\x00" not in errors and _SECRET not in errors
    assert after == before, f"left behind {sorted(after - before)}"
    return code


def onnx_file(seed: int) -> dict[str, Any]:
    """A broken ONNX file, pruned or looked at."""
    dice = random.Random(f"broken {seed}")
    name = dice.choice(sorted(originals()))
    files, done = broken(dice, originals()[name])
    facts = {"mutations": dict.fromkeys(done, 1)}
    with TemporaryDirectory() as place:
        folder = Path(place) / "models"
        folder.mkdir()
        (Path(place) / "in.onnx").write_text(_SECRET)
        _write(folder, files)
        (folder / "link.bin").symlink_to("/etc/passwd")
        (folder / "folder").mkdir()
        before = {path.name for path in folder.iterdir()}
        word, out = dice.choice(_WORDS), folder / "out.onnx"
        line = [word, str(folder / "in.onnx")]
        if word == "prune":
            line += ["-o", str(out), "--target", "channels=0.5"]
        elif word == "opt":
            line += ["-o", str(out), "--passes", "fold-constants,fold-batchnorm,cleanup"]
        code = _assert_contract(folder, before, line, ("out.onnx", "out.onnx.data"))
        if code == 0 and word != "inspect":
            _assert_sound(out, folder / "in.onnx")
    return {**facts, "outcome": f"{'refused' if code else 'done'}"}


def _assert_sound(path: Path, original: Path) -> None:
    """What was written passes the checker; onnxruntime loads it, unless it does not load the original either."""
    onnx.checker.check_model(str(path))
    refusal = _refusal(path)
    assert not refusal or _refusal(original), refusal


def _refusal(path: Path) -> str:
    options = onnxruntime.SessionOptions()
    options.log_severity_level, options.intra_op_num_threads = 4, 1
    try:
        onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:
        return str(error)
    return ""


@cache
def _planned() -> Files:
    """A model and a plan of it."""
    with TemporaryDirectory() as place:
        folder = Path(place)
        _write(folder, originals()["convolutions"])
        line = ["prune", str(folder / "in.onnx"), "-o", str(folder / "out.onnx"), "--target", "channels=0.5"]
        assert command([*line, "--plan-out", str(folder / "plan.json")])[0] == 0
        return {name: (folder / name).read_bytes() for name in ("in.onnx", "plan.json")}


_VALUES = (None, True, -1, 0, 1 << 70, 0.5, float("nan"), "", "x", [], {}, [[]], [[0], [1]], "n" * 5000)


def _any_place(dice: random.Random, data: Any) -> Any:
    """The same data with one value, at any depth, replaced, removed, or given twice."""
    if isinstance(data, dict | list) and data and dice.randrange(5):
        made = data.copy()
        key = dice.choice(list(made)) if isinstance(made, dict) else dice.randrange(len(made))
        if dice.randrange(6) == 0:
            del made[key]
        elif dice.randrange(6) == 0 and isinstance(made, list):
            made.append(made[key])
        elif dice.randrange(10) == 0 and isinstance(made, dict):
            made["surplus"] = made[key]
        else:
            made[key] = _any_place(dice, made[key])
        return made
    return dice.choice(_VALUES)


def plan_file(seed: int) -> dict[str, Any]:
    """A broken plan, applied."""
    dice = random.Random(f"plans {seed}")
    files = dict(_planned())
    if dice.randrange(3):
        text = json.dumps(_any_place(dice, json.loads(files["plan.json"]))).encode()
    else:
        text = dice.choice(BYTES)(dice, files["plan.json"])
    files["plan.json"] = text
    with TemporaryDirectory() as place:
        folder = Path(place)
        _write(folder, files)
        line = ["apply", str(folder / "in.onnx"), "--plan", str(folder / "plan.json"), "-o", str(folder / "out.onnx")]
        code = _assert_contract(folder, set(files), line, ("out.onnx",))
        if code == 0:
            _assert_sound(folder / "out.onnx", folder / "in.onnx")
    return {"outcome": "refused" if code else "done"}


@cache
def _archive() -> bytes:
    """A small exported program."""
    module = Case("torch", (("conv", 1, 1), ("attention", 1, 1))).program()
    with TemporaryDirectory() as place:
        torch.export.save(torch.export.export(module, (module.examples["x"],)), Path(place) / "in.pt2")
        return (Path(place) / "in.pt2").read_bytes()


def _packed_again(dice: random.Random, data: bytes) -> bytes:
    """The archive with one member changed, its checksum right."""
    out = BytesIO()
    with zipfile.ZipFile(BytesIO(data)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as new:
        names = old.namelist()
        chosen = dice.choice([name for name in names if name.endswith(".json")] if dice.randrange(2) else names)
        for name in names:
            content = old.read(name)
            if name == chosen and name.endswith(".json") and dice.randrange(4):
                content = json.dumps(_any_place(dice, json.loads(content))).encode()
            elif name == chosen and content:
                content = dice.choice(BYTES)(dice, content)
            if name != chosen or dice.randrange(8):
                new.writestr(name, content)
    return out.getvalue()


def archive(seed: int) -> dict[str, Any]:
    """A broken `.pt2` file, pruned."""
    dice = random.Random(f"archives {seed}")
    data = _packed_again(dice, _archive()) if dice.randrange(3) else dice.choice(BYTES)(dice, _archive())
    with TemporaryDirectory() as place:
        folder = Path(place)
        _write(folder, {"in.pt2": data})
        line = ["prune", str(folder / "in.pt2"), "-o", str(folder / "out.safetensors"), "--target", "channels=0.5"]
        code = _assert_contract(folder, {"in.pt2"}, line, ("out.safetensors",))
    return {"outcome": "refused" if code else "done"}


ATTEMPTS: dict[str, Callable[[int], dict[str, Any]]] = {"broken": onnx_file, "plans": plan_file, "archives": archive}
