"""Every way in and out: transformers folders, `.pt2` files, pipelines, external data, the command line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from torch import nn

import graphprune as gp
from benchmarks.sparse_speed import counted, equal_layers
from benchmarks.suites import transformers_models
from graphprune.cli import run
from graphprune.ir.graph import Weight
from tests.helpers import zero_in_fours

DIGITS = Path(__file__).parents[2] / "models" / "digits_resnet.onnx"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small Mistral."""
    made = tmp_path_factory.mktemp("mistral") / "whole"
    transformers_models.save("mistral", made)
    return made


def test_a_folder_becomes_a_sparse_folder_and_a_compact_file(folder: Path, tmp_path: Path) -> None:
    import transformers

    words = ["sparsify", str(folder), "-o", str(tmp_path / "sparse"), "--compact", str(tmp_path / "w.safetensors")]
    assert run(words) == 0
    model, told = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "sparse", output_loading_info=True)
    assert not any(told.values())
    for name, weight in model.named_parameters():
        if "proj.weight" in name:
            assert min(zero_in_fours(weight.detach().float().numpy(), 1)) >= 2, name
    assert (
        run(["restore", str(folder), "--compact", str(tmp_path / "w.safetensors"), "-o", str(tmp_path / "again")]) == 0
    )
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "again").state_dict()
    assert all(torch.equal(tensor, again[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("method", ["magnitude", "wanda"])
def test_a_folder_in_bfloat16_stays_bfloat16(method: str, folder: Path, tmp_path: Path) -> None:
    import transformers

    whole = transformers.AutoModelForCausalLM.from_pretrained(folder).bfloat16()
    whole.save_pretrained(tmp_path / "bf16")
    words = ["sparsify", str(tmp_path / "bf16"), "-o", str(tmp_path / "sparse"), "--method", method]
    if method != "magnitude":
        np.savez(tmp_path / "data.npz", input_ids=np.random.default_rng(0).integers(0, 50, (8, 16)))
        words += ["--data", str(tmp_path / "data.npz")]
    assert run([*words, "--report", str(tmp_path / "told.json"), "--compact", str(tmp_path / "w.safetensors")]) == 0
    assert json.loads((tmp_path / "told.json").read_text())["proof"]["passed"] is True
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "sparse", dtype="auto")
    before = dict(whole.named_parameters())
    for name, weight in model.named_parameters():
        assert weight.dtype == torch.bfloat16, name
        if "proj.weight" in name:
            array = weight.detach().float().numpy()
            assert min(zero_in_fours(array, 1)) >= 2, name
            assert np.array_equal(array[array != 0], before[name].detach().float().numpy()[array != 0])
    compact = gp.load_compact(tmp_path / "w.safetensors")
    state = model.state_dict()
    assert all(np.array_equal(compact[n].astype(np.float32), state[n].float().numpy()) for n in state)


def test_a_folder_is_made_sparse_weight_by_weight(folder: Path) -> None:
    result = gp.sparsify(folder, verify=False)
    weights = result.graph.weights()
    assert all(weights[name].weight.lazy for name in result.masks)


def test_an_archive_becomes_a_sparse_archive(tmp_path: Path) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 4)).eval()
    image = torch.randn(1, 4, 4, 4)
    torch.export.save(torch.export.export(net, (image,)), tmp_path / "net.pt2")
    assert run(["sparsify", str(tmp_path / "net.pt2"), "-o", str(tmp_path / "sparse.pt2")]) == 0
    found = torch.export.load(tmp_path / "sparse.pt2").state_dict
    for name in ("0.weight", "3.weight"):
        assert zero_in_fours(found[name].detach().numpy(), 1) == {2}
    expected = gp.sparsify(net, image).model(image)
    assert torch.allclose(torch.export.load(tmp_path / "sparse.pt2").module()(image), expected, atol=1e-6)


def test_a_pipeline_prunes_permutes_and_makes_sparse(tmp_path: Path) -> None:
    passes = "remove-channels{channels=0.5 align=8},permute{seconds=1},sparsify{pattern=2:4},cleanup"
    made = tmp_path / "small.onnx"
    assert run(["opt", str(DIGITS), "-o", str(made), "--passes", passes, "--verify-each"]) == 0
    found = counted(made, made)
    assert found["sparse"] >= 15


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ("--pattern 4:2", "N must be at least 1 and less than M"),
        ("--pattern nonsense", "unknown pattern 'nonsense'"),
        ("--method nonsense", "unknown method 'nonsense'"),
        ("--include nonsense", "'nonsense' matches no weight or node"),
        ("--compact x.bin", "must end in .safetensors"),
        ("--seconds 5", "--seconds says how long --permute may search"),
        ("--pattern row:0.5 --permute", "N:M patterns, not to 'row:0.5'"),
        ("--pattern row:0.5 --compact x.safetensors", "need an N:M pattern, not 'row:0.5'"),
    ],
)
def test_bad_words_are_one_line_and_leave_nothing(
    words: str, sentence: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(["sparsify", str(DIGITS), "-o", "out.onnx", *words.split()]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert sentence in " ".join(err.split())
    assert not list(tmp_path.iterdir())


def test_json_is_all_that_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["sparsify", str(DIGITS), "-o", str(tmp_path / "out.onnx"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["proof"]["passed"] is True


def test_external_weights_are_held_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No array that was read is alive when the next two have been: memory follows the largest layer."""
    import weakref

    source = equal_layers(8, 64, tmp_path)
    alive: list[weakref.ref[np.ndarray]] = []
    most = 0
    read = Weight.array

    def watched(self: Weight) -> np.ndarray:
        nonlocal most
        array = read(self).view()
        alive.append(weakref.ref(array))
        most = max(most, sum(ref() is not None for ref in alive))
        return array

    monkeypatch.setattr(Weight, "array", watched)
    result = gp.sparsify(source, verify=False)
    result.save(tmp_path / "sparse.onnx")
    gp.save_compact(result, tmp_path / "small.safetensors")
    assert len(alive) >= 24
    assert most <= 4
    monkeypatch.undo()
    assert counted(source, tmp_path / "sparse.onnx") == {"weights": 8, "sparse": 8, "changed": 0}
    assert onnx.load(tmp_path / "sparse.onnx", load_external_data=False).graph.initializer[0].external_data
