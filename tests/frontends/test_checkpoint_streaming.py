"""safetensors files written piece by piece are those that the safetensors package would have written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from graphprune.errors import GraphPruneError, InputError
from graphprune.frontends.checkpoint.shards import read_shards
from graphprune.frontends.checkpoint.streaming import Batch, write_shards

ARRAYS: dict[str, np.ndarray] = {
    "b": np.arange(5, dtype=np.uint8),
    "a": np.arange(12, dtype=np.float32).reshape(3, 4),
    "empty": np.zeros((0, 3), np.float32),
    "scalar": np.array(2.5, np.float64),
    "half": np.arange(7).astype(ml_dtypes.bfloat16),
    "flags": np.array([True, False]),
}


def batch(*names: str, step: int = 1) -> Batch:
    """Pieces of some arrays in turns, as experts come."""
    cut = [(n, np.atleast_1d(ARRAYS[n])[i : i + step]) for i in range(0, 7, step) for n in names]
    return Batch({n: (ARRAYS[n].dtype, ARRAYS[n].shape) for n in names}, lambda: [(n, p) for n, p in cut if p.size])


def test_a_file_is_what_safetensors_writes(tmp_path: Path) -> None:
    write_shards([batch("a", "half"), batch("b", step=2), batch("empty", "scalar", "flags")], tmp_path, 1 << 20)
    save_file(ARRAYS, tmp_path / "theirs.safetensors", metadata={"format": "pt"})
    assert (tmp_path / "model.safetensors").read_bytes() == (tmp_path / "theirs.safetensors").read_bytes()


def test_tensors_made_together_may_lie_in_several_files(tmp_path: Path) -> None:
    write_shards([batch("a", "half", "scalar"), batch("b", "flags", "empty")], tmp_path, 20)
    index: dict[str, Any] = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(a.nbytes for a in ARRAYS.values())
    files = {n: load_file(tmp_path / file) for n, file in index["weight_map"].items()}
    assert len(set(index["weight_map"].values())) == len(list(tmp_path.glob("*.safetensors"))) > 2
    for name, entry in read_shards(tmp_path).items():
        assert entry.file.name == index["weight_map"][name]
        np.testing.assert_array_equal(entry.read(), ARRAYS[name])
        assert name == "half" or np.array_equal(files[name][name], ARRAYS[name])


def test_more_or_less_than_was_announced_is_an_error(tmp_path: Path) -> None:
    sizes = {"a": (np.dtype("float32"), (2, 4))}
    with pytest.raises(GraphPruneError, match="'a' has more elements"):
        write_shards([Batch(sizes, batch("a").pieces)], tmp_path, 1 << 20)
    with pytest.raises(GraphPruneError, match="'a' has fewer elements"):
        write_shards([Batch(sizes, lambda: [("a", ARRAYS["a"][:1])])], tmp_path, 1 << 20)
    with pytest.raises(InputError, match="'a' has the type complex128"):
        write_shards([Batch({"a": (np.dtype("complex128"), (1,))}, list)], tmp_path, 1 << 20)
