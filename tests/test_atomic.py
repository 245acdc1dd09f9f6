"""Outputs appear whole or not at all."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from graphprune import atomic
from graphprune.atomic import whole
from graphprune.errors import InputError


def test_what_fails_half_way_leaves_everything_as_it_was(tmp_path: Path) -> None:
    target = tmp_path / "model"
    target.write_text("old")
    with pytest.raises(ValueError, match="half-way"), whole(target) as draft:
        draft.write_text("ne")
        raise ValueError("half-way")
    with pytest.raises(InputError, match="'.*model' cannot be written: No space left"), whole(target) as draft:
        raise OSError(28, "No space left on device")
    assert target.read_text() == "old" and list(tmp_path.iterdir()) == [target]


def test_a_file_with_its_data_keeps_the_mode_it_had(tmp_path: Path) -> None:
    target = tmp_path / "model"
    (tmp_path / "link").symlink_to(target)
    target.write_text("old")
    target.chmod(0o640)
    for text in ("new", "newer"):
        with whole(tmp_path / "link") as draft:
            draft.write_text(text)
            draft.with_name("data").write_text(text)
        assert target.read_text() == (tmp_path / "data").read_text() == text
    assert {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()} == {0o640}
    assert (tmp_path / "link").is_symlink() and len(list(tmp_path.iterdir())) == 3


def test_a_model_is_gone_before_its_data_is_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    target, data = tmp_path / "model", tmp_path / "data"
    target.write_text("old")
    data.write_text("old")

    def stop(*_: object) -> None:
        assert not target.exists(), "an old model would stand beside new data"
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("os.replace", stop)
    with pytest.raises(InputError, match="Input/output error"), whole(target) as draft:
        draft.write_text("new")
        draft.with_name("data").write_text("new")
    assert data.read_text() == "old" and list(tmp_path.iterdir()) == [data]


def test_folders_are_written_and_made(tmp_path: Path) -> None:
    target = tmp_path / "a" / "b" / "model"
    with pytest.raises(InputError, match="No such file"), whole(target) as draft:
        pass
    with whole(target, parents=True) as draft:
        draft.mkdir()
        (draft / "weights").write_text("1")
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == [
        "a", "a/b", "a/b/model", "a/b/model/weights",
    ]  # fmt: skip


def draft(folder: Path, process: int, output: str = "other", host: str | None = None, days: float = 0) -> Path:
    """What a process has left half-written."""
    host = socket.gethostname() if host is None else host
    made = folder / f".graphprune-{atomic._digest(output)}-{atomic._digest(host)}-{process}-x1_y2.partial"
    made.mkdir()
    (made / output).write_text("half")
    then = made.stat().st_mtime - 86400 * days
    os.utime(made, (then, then))
    return made


def test_drafts_of_killed_processes_go_with_the_next_output(tmp_path: Path) -> None:
    """SIGKILL cannot be caught: whoever writes there next finds what is left."""
    script = "import os, sys; from graphprune.atomic import whole\nwith whole(sys.argv[1]) as draft:\n"
    script += "    draft.write_text('half'); os.kill(os.getpid(), 9)"
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path / "killed")], check=False)
    assert done.returncode == -9 and len(list(tmp_path.iterdir())) == 1
    with whole(tmp_path / "model") as place:
        place.write_text("new")
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def test_only_stale_drafts_go(tmp_path: Path) -> None:
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    stale = [
        draft(tmp_path, dead.pid),
        draft(tmp_path, 1, host="elsewhere", days=2),
        draft(tmp_path, 2, output="model", host="elsewhere"),
        tmp_path / ".graphprune-abc123.partial",  # of versions that did not say whose it is
    ]
    stale[-1].mkdir()
    os.utime(stale[-1], (0, 0))
    mine = draft(tmp_path, os.getpid(), output="model")
    kept = [mine, draft(tmp_path, 3, host="elsewhere"), tmp_path / ".graphprune-mine"]
    kept[-1].mkdir()
    with whole(tmp_path / "model") as place:
        place.write_text("new")
    assert not any(path.exists() for path in stale) and all(path.exists() for path in kept)
