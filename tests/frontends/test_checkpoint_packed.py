"""Folders whose tensors transformers packs or spells otherwise in its classes: read and written one at a time."""

from __future__ import annotations

import weakref
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import graphprune as gp
from benchmarks.suites import transformers_models
from graphprune.frontends.checkpoint.conversion import Converted, spelling
from graphprune.frontends.checkpoint.layout import packed_again, stored_weights
from graphprune.frontends.checkpoint.origin import checkpoint_of
from graphprune.frontends.checkpoint.shards import Stored, read_shards
from graphprune.frontends.checkpoint.skeleton import class_of, read_config, skeleton
from graphprune.frontends.checkpoint.streaming import write_shards
from graphprune.frontends.torch import flatten_outputs, random_inputs
from graphprune.frontends.torch.arrays import to_torch
from graphprune.ir.graph import Weight


def moved(folder: Path) -> tuple[Any, dict[str, Stored | Converted], list[Any]]:
    """A folder's model without its weights, its tensors by the class's names and the transforms in between."""
    config = read_config(folder)
    model: Any = skeleton(config, class_of(config, str(folder)))
    found = spelling(model, read_shards(folder))
    return model, found.tensors, found.transforms


@pytest.mark.parametrize(
    ("name", "converted", "stacked"),
    [("mixtral", 4, True), ("dinov2_registers", 8, False), ("nomic_bert", 6, False), ("vit", 0, False)],
)
def test_each_tensor_is_what_transformers_loads_and_is_written_as_it_was(
    name: str, converted: int, stacked: bool, tmp_path: Path
) -> None:
    """Experts that are stacked (also some of them alone), fused projections taken apart, other names."""
    cls = transformers_models.save(name, tmp_path / "whole")
    model, tensors, transforms = moved(tmp_path / "whole")
    expected = cls.from_pretrained(tmp_path / "whole").state_dict()
    packed = [entry for entry in tensors.values() if isinstance(entry, Converted)]
    assert len(packed) == converted and all((e.read_rows is not None) == stacked for e in packed)
    for own, entry in tensors.items():
        assert torch.equal(to_torch(entry.read()), expected[own])
        if isinstance(entry, Converted) and entry.read_rows is not None:
            np.testing.assert_array_equal(entry.read_rows(1, 3), entry.read()[1:3])
    weights = {own: Weight.of(entry.read()) for own, entry in tensors.items()}
    write_shards(packed_again(weights, model, transforms), tmp_path, 1 << 30)
    before, after = (load_file(f / "model.safetensors") for f in (tmp_path / "whole", tmp_path))
    assert before.keys() == after.keys() and all(torch.equal(before[n], after[n]) for n in before)


def test_experts_are_scored_sliced_and_written_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No more than two stored tensors (an expert's two halves) are held at once, and no stack of experts at all."""
    transformers_models.save("mixtral", tmp_path / "whole")
    held, most, seen, before = set(), [0], set(), Stored._mapped

    def read(entry: Stored, offset: int, shape: tuple[int, ...]) -> np.ndarray:
        array = np.array(before(entry, offset, shape))
        held.add(id(array))
        seen.add(entry)
        weakref.finalize(array, held.discard, id(array))
        most[0] = max(most[0], len(held))
        return array

    def whole(entry: Converted) -> np.ndarray:
        raise AssertionError("experts were stacked in memory")

    monkeypatch.setattr(Stored, "_mapped", read)
    monkeypatch.setattr(Converted, "read", whole)
    monkeypatch.setattr("graphprune.pruning.criteria.magnitude._PART", 1024)  # all weights count as large
    graph = gp.load(tmp_path / "whole")
    assert not seen
    pruned = gp.apply(graph, gp.plan(graph, "channels=0.5", uniform=True))
    origin = checkpoint_of(pruned)
    assert origin.module is not None
    weights = dict(stored_weights(pruned, origin, {}))
    write_shards(packed_again(weights, origin.module, origin.transforms), tmp_path, 1 << 30)
    assert len(seen) == len(read_shards(tmp_path / "whole")) and most == [2]


@pytest.mark.parametrize("name", ["mixtral", "nomic_bert"])
def test_a_packed_folder_becomes_one_again(name: str, tmp_path: Path) -> None:
    """Spelled and packed as it was, with fewer experts; the same numbers as our own model's."""
    made = transformers_models.save(name, tmp_path / "whole")
    result = gp.prune(tmp_path / "whole", target="channels=0.5", uniform=True)
    assert result.report.output_form == "transformers checkpoint", result.report.output_reason
    assert result.report.proof is not None and result.report.proof.passed
    result.save(tmp_path / "small")
    before, after = (load_file(tmp_path / f / "model.safetensors") for f in ("whole", "small"))
    assert after.keys() <= before.keys()
    gone = {n for n in before.keys() - after.keys() if ".experts." not in n}
    assert not gone and (after.keys() < before.keys()) == ("experts" in str(before.keys()))
    model, told = made.from_pretrained(tmp_path / "small", output_loading_info=True)
    assert not any(told.values())
    feed = random_inputs(result.graph, 3)
    with torch.no_grad():
        for theirs, ours in zip(flatten_outputs(model(**feed)), flatten_outputs(result.model(**feed)), strict=True):
            torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-5)


def test_what_is_not_uniform_is_written_as_the_class_has_it(tmp_path: Path) -> None:
    transformers_models.save("mixtral", tmp_path / "whole")
    graph = gp.load(tmp_path / "whole")
    axis = "model.layers.1.mlp.experts.down_proj[2]"
    result = gp.prune(tmp_path / "whole", target="channels=0.5", overrides={axis: 0.25})
    assert result.report.output_form == "tensors without a configuration"
    result.save(tmp_path / "small")
    stored = load_file(tmp_path / "small" / "model.safetensors")
    for name, value in result.graph.weights().items():
        assert value.weight is not None
        if name in stored:
            np.testing.assert_array_equal(stored[name].numpy(), value.weight.array())
    assert stored.keys() >= {n for n, v in graph.weights().items() if v.weight is not None and v.weight.trainable}


def test_types_that_a_class_keeps_are_those_of_from_pretrained(tmp_path: Path) -> None:
    """DeepSeek-V3 adds a float32 correction to the scores of its router, in bfloat16 models as well."""
    cls = transformers_models.save("deepseek_v3", tmp_path / "float32")
    cls.from_pretrained(tmp_path / "float32", dtype=torch.bfloat16).save_pretrained(tmp_path / "bfloat16")
    expected = cls.from_pretrained(tmp_path / "bfloat16", dtype=torch.bfloat16).state_dict()
    config = read_config(tmp_path / "bfloat16")
    found = skeleton(config, cls, torch.bfloat16).state_dict()
    assert {n: t.dtype for n, t in found.items()} == {n: t.dtype for n, t in expected.items()}
    assert {t.dtype for t in found.values()} == {torch.float32, torch.bfloat16}
