"""Transformers folders: in without their weights in memory, out as folders that `from_pretrained` takes."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import graphprune as gp
import tests.torchvision_shim  # noqa: F401  (transformers imports torchvision)
from graphprune import frontends
from graphprune.cli.entry import run
from graphprune.errors import InputError

LAYERS, HEADS, KEYS, WIDTH, HIDDEN, VOCABULARY = 3, 8, 4, 16, 64, 96


def llama(**changes: Any) -> Any:
    import transformers

    sizes = {
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": 160,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KEYS,
        "head_dim": WIDTH,
        "max_position_embeddings": 64,
    }
    return stirred(transformers.LlamaForCausalLM(transformers.LlamaConfig(**(sizes | changes))))


def stirred(model: Any) -> Any:
    torch.manual_seed(0)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.15 if parameter.ndim > 1 else 0.5)
    return model.eval()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made: Path = tmp_path_factory.mktemp("checkpoint") / "llama"
    llama().save_pretrained(made)
    return made


@pytest.fixture
def copy(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "llama"))


def logits(model: Any, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model(input_ids=ids, use_cache=False).logits
    return found


def test_a_uniform_result_is_an_ordinary_checkpoint(folder: Path, tmp_path: Path) -> None:
    import transformers

    result = gp.prune(folder, target="channels=0.5", uniform=True)
    assert result.report.output_form == "transformers checkpoint"
    assert result.report.proof is not None and result.report.proof.passed
    result.save(tmp_path / "small")
    model = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "small").eval()
    config = model.config
    assert (config.hidden_size, config.intermediate_size) == (HIDDEN // 2, 80)
    assert (config.num_attention_heads, config.num_key_value_heads, config.head_dim) == (HEADS // 2, KEYS // 2, WIDTH)
    ids = torch.randint(0, VOCABULARY, (2, 16))
    assert torch.equal(logits(model, ids), logits(result.model, ids))
    longer = logits(model, torch.randint(0, VOCABULARY, (1, 40)))
    assert longer.shape == (1, 40, VOCABULARY) and longer.isfinite().all()


def test_weights_are_read_when_needed_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphprune.frontends.checkpoint.shards import Stored

    read: list[tuple[int, ...]] = []
    before = Stored._mapped
    monkeypatch.setattr(Stored, "_mapped", lambda self, at, shape: read.append(shape) or before(self, at, shape))
    graph = gp.load(folder)
    pruned = gp.apply(graph, gp.plan(graph, "channels=0.5", "random"))
    assert not read
    assert pruned.parameter_count() < 0.4 * graph.parameter_count()
    next(v for v in pruned.weights().values() if v.name == "lm_head.weight").weight.array()  # type: ignore[union-attr]
    assert read == [(VOCABULARY, HIDDEN)]


def test_a_vocabulary_loses_rows_on_request(copy: Path, tmp_path: Path) -> None:
    """Special tokens (1 and 2 in this configuration) stay and get their new ids, in generation settings and in the
    tokenizer as well; the folder says which ids stayed.
    """
    import transformers

    settings = {"eos_token_id": [2, 95], "suppress_tokens": [*range(90)]}
    (copy / "generation_config.json").write_text(json.dumps(settings))
    words = {"type": "WordLevel", "vocab": {f"t{i}": i for i in range(VOCABULARY)}, "unk_token": "t40"}
    (copy / "tokenizer.json").write_text(json.dumps({"version": "1.0", "added_tokens": [], "model": words}))
    result = gp.prune(copy, target="channels=0.5", uniform=True, include=["model.embed_tokens.weight[0]"])
    result.save(tmp_path / "small")
    told = json.loads((tmp_path / "small" / "token_ids.json").read_text())
    kept = told["kept"]
    vocabulary = json.loads((tmp_path / "small" / "tokenizer.json").read_text())["model"]["vocab"]
    assert told["tokenizer"] == "new ids" and vocabulary == {f"t{old}": new for new, old in enumerate(kept)}
    settings = json.loads((tmp_path / "small" / "generation_config.json").read_text())
    assert [kept[i] for i in settings["eos_token_id"]] == [2, 95] and 40 in kept
    assert [kept[i] for i in settings["suppress_tokens"]] == [i for i in kept if i < 90]
    model = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "small").eval()
    assert model.config.vocab_size == len(kept) < VOCABULARY
    assert [kept[model.config.bos_token_id], kept[model.config.eos_token_id]] == [1, 2]
    assert result.report.kept_ids["input_ids"] == kept
    new = torch.randint(0, len(kept), (2, 16))
    expected = logits(llama(), torch.tensor(kept)[new])[..., kept]
    torch.testing.assert_close(logits(model, new), expected)


def test_layers_go_too(folder: Path, tmp_path: Path) -> None:
    """Those that stay close ranks, and the configuration counts fewer."""
    import transformers

    passes = "remove-blocks{names=model.layers.1},remove-channels{channels=0.5 uniform=true},cleanup"
    graph, _ = gp.optimize(gp.load(folder), passes)
    gp.save(graph, tmp_path / "small")
    model = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "small").eval()
    assert (model.config.num_hidden_layers, model.config.hidden_size) == (LAYERS - 1, HIDDEN // 2)
    ids = torch.randint(0, VOCABULARY, (2, 16))
    torch.testing.assert_close(logits(model, ids), logits(gp.emit(graph), ids))


def test_tied_embeddings_stay_tied(tmp_path: Path) -> None:
    import transformers

    llama(tie_word_embeddings=True).save_pretrained(tmp_path / "tied")
    result = gp.prune(tmp_path / "tied", target="channels=0.5", uniform=True)
    result.save(tmp_path / "small")
    assert "lm_head.weight" not in load_file(tmp_path / "small" / "model.safetensors")
    model = transformers.LlamaForCausalLM.from_pretrained(tmp_path / "small").eval()
    assert model.lm_head.weight is model.model.embed_tokens.weight
    ids = torch.randint(0, VOCABULARY, (2, 16))
    assert torch.equal(logits(model, ids), logits(result.model, ids))


def test_what_is_not_uniform_is_said(folder: Path, tmp_path: Path) -> None:
    result = gp.prune(folder, target="channels=0.5", overrides={"model.layers.1.mlp.up_proj.weight[0]": 0.25})
    assert result.report.output_form == "tensors without a configuration"
    assert "mlp" in result.report.output_reason and "--uniform" in result.report.output_reason
    result.save(tmp_path / "small")
    assert load_file(tmp_path / "small" / "model.safetensors")["model.layers.1.mlp.up_proj.weight"].shape == (40, 32)
    assert not (tmp_path / "small" / "config.json").exists()
    plan = gp.Plan.load(tmp_path / "small" / "plan.json")
    again = gp.apply(gp.load(folder), plan)
    assert again.parameter_count() == result.graph.parameter_count()
    given = ["--plan", str(tmp_path / "small" / "plan.json"), "-o", str(tmp_path / "again")]
    assert run(["apply", str(folder), *given]) == 0
    assert (tmp_path / "again" / "plan.json").read_bytes() == (tmp_path / "small" / "plan.json").read_bytes()


def test_what_the_class_refuses_is_said(folder: Path) -> None:
    """Llama wants a hidden width that its number of heads divides."""
    overrides = {"model.embed_tokens.weight[1]": 46 / 64, "model.layers.*.self_attn.q_proj.weight[0]": 0.75}
    result = gp.prune(folder, target="channels=0.5", overrides=overrides, uniform=True, align=1)
    assert result.report.output_form == "tensors without a configuration"
    assert "hidden size (46) is not a multiple of the number of attention heads" in result.report.output_reason


def test_sizes_that_only_look_alike_are_left_alone(tmp_path: Path) -> None:
    """The window is as large as the hidden width, which is pruned; the window is not."""
    import transformers

    config = transformers.MistralConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=WIDTH,
        sliding_window=HIDDEN,
        max_position_embeddings=128,
    )
    stirred(transformers.MistralForCausalLM(config)).save_pretrained(tmp_path / "mistral")
    gp.prune(tmp_path / "mistral", target="channels=0.5", uniform=True).save(tmp_path / "small")
    made = json.loads((tmp_path / "small" / "config.json").read_text())
    assert (made["hidden_size"], made["sliding_window"], made["max_position_embeddings"]) == (HIDDEN // 2, HIDDEN, 128)


def test_names_that_transformers_alone_knows(tmp_path: Path) -> None:
    """ViT spells its weights otherwise on disk: read and written by transformers itself."""
    import transformers

    config = transformers.ViTConfig(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64, image_size=16, patch_size=8
    )
    stirred(transformers.ViTForImageClassification(config)).save_pretrained(tmp_path / "vit")
    result = gp.prune(tmp_path / "vit", target="channels=0.5", uniform=True)
    result.save(tmp_path / "small")
    names = set(load_file(tmp_path / "vit" / "model.safetensors"))
    assert set(load_file(tmp_path / "small" / "model.safetensors")) == names
    model = transformers.ViTForImageClassification.from_pretrained(tmp_path / "small").eval()
    pixels = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        assert torch.equal(model(pixel_values=pixels).logits, result.model(pixel_values=pixels).logits)


def test_the_command_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = str(tmp_path / "small")
    assert run(["prune", str(folder), "-o", small, "--target", "channels=0.5", "--uniform"]) == 0
    assert "hidden_size" in capsys.readouterr().out
    assert sorted(p.name for p in Path(small).iterdir()) == [
        "config.json",
        "generation_config.json",
        "model.safetensors",
    ]
    assert run(["prune", str(folder), "-o", small, "--target", "params=0.5"]) == 2
    assert "exists already" in capsys.readouterr().err
    assert run(["prune", str(folder), "-o", f"{small}.onnx", "--target", "params=0.5"]) == 2
    assert "becomes a folder, not a .onnx file" in capsys.readouterr().err
    assert not list(tmp_path.glob(".*"))


def test_folders_are_timed_side_by_side(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As `from_pretrained` builds them, on inputs of their own: the small one has fewer ids."""
    include = ["model.embed_tokens.weight[0]", "model.layers.*.mlp.up_proj.weight[0]"]
    result = gp.prune(folder, target="channels=0.5", uniform=True, include=include)
    result.save(tmp_path / "small")
    assert run(["bench", str(folder), str(tmp_path / "small"), "--input-shape", "input_ids=1,5", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["environment"]["runtime"] == "pytorch" and found["environment"]["input_shapes"] == {
        "input_ids": [1, 5]
    }
    whole, small = found["rows"]
    assert whole["ratio"] == 1 and small["parameters"] < whole["parameters"]
    assert small["file_bytes"] == (tmp_path / "small" / "model.safetensors").stat().st_size
    for option, value, message in (
        ("--runtime", "onnxruntime", "does not run transformers folders; use pytorch"),
        ("--input-shape", "ids=1,5", "the model has no input 'ids': its inputs are input_ids"),
    ):
        assert run(["bench", str(folder), option, value]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "config.json"),
        (lambda f: (f / "config.json").write_text("{"), "cannot be read"),
        (lambda f: rewrite(f, architectures=["NoSuchModel"]), "names the class 'NoSuchModel'"),
        (lambda f: rewrite(f, architectures=None), "names no architecture"),
        (lambda f: rewrite(f, model_type="own", auto_map={"AutoConfig": "own.C"}), "auto_map.*does not run"),
        (lambda f: rewrite(f, num_attention_heads="four"), "cannot be read: .*num_attention_heads.*: "),
        (lambda f: rewrite(f, intermediate_size=128), "has the shape"),
        (lambda f: rewrite(f, num_hidden_layers=4), "has no weight"),
        (lambda f: (f / "model.safetensors").unlink(), "has neither"),
        (lambda f: (f / "model.safetensors").rename(f / "pytorch_model.bin"), "is a pickle"),
        (lambda f: cut(f / "model.safetensors"), "is no valid safetensors file"),
        (lambda f: index(f, "../model.safetensors"), "is no file of this folder"),
        (lambda f: index(f, "gone.safetensors"), "which is missing"),
    ],
)
def test_a_broken_folder_is_one_sentence(copy: Path, harm: Any, message: str) -> None:
    harm(copy)
    with pytest.raises(InputError, match=message):
        gp.load(copy)


def rewrite(folder: Path, **changes: Any) -> None:
    data = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(data | changes))


def cut(file: Path) -> None:
    data = file.read_bytes()
    file.write_bytes(data[: len(data) // 2])


def index(folder: Path, name: str) -> None:
    weights = folder / "model.safetensors"
    weights.rename(folder / "model-00001.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"lm_head.weight": name}}))


def test_shards_are_written_and_read(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from graphprune.frontends.checkpoint import writing

    monkeypatch.setattr(writing, "SHARD", 20_000)
    graph = gp.load(folder)
    gp.save(graph, tmp_path / "split")
    assert len(list((tmp_path / "split").glob("*.safetensors"))) > 3
    again = gp.load(tmp_path / "split")
    for name, value in graph.weights().items():
        assert value.weight is not None
        np.testing.assert_array_equal(value.weight.array(), again.weights()[name].weight.array())  # type: ignore[union-attr]
    assert frontends.frontend("checkpoint") is frontends.of(again)


def test_a_folder_is_made_sparse_by_data_with_its_weights_in_files(folder: Path, tmp_path: Path) -> None:
    import transformers

    ids = np.random.default_rng(0).integers(0, VOCABULARY, (8, 16))
    lost = {}
    for method in ("magnitude", "sparsegpt"):
        made = gp.sparsify(folder, method=method, data={"input_ids": ids}, exclude=["lm_head*", "*embed*"])
        assert made.report.proof is not None and made.report.proof.passed
        assert all(made.graph.weights()[name].weight.lazy for name in made.masks)
        made.save(tmp_path / method)
        model = transformers.LlamaForCausalLM.from_pretrained(tmp_path / method).eval()
        for name, mask in made.masks.items():
            assert not model.get_parameter(name).detach().numpy()[~mask].any()
        lost[method] = float((logits(model, torch.from_numpy(ids)) - logits(llama(), torch.from_numpy(ids))).norm())
    assert len(made.masks) == 7 * LAYERS
    assert lost["sparsegpt"] < lost["magnitude"]
