"""Outputs appear whole or not at all."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from graphprune.errors import InputError
from graphprune.writing import whole


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
