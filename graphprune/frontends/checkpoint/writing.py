"""Writing a folder: weights shard by shard, configuration, tokenizer; it appears whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from ...errors import InputError
from ...graph import Graph, Value
from ..torch.arrays import to_numpy, to_torch
from ..torch.tracing import quiet
from .emission import EmittedCheckpoint, emit
from .origin import CheckpointOrigin, checkpoint_of
from .renumber import kept_ids, renumber
from .shards import INDEX, SINGLE
from .skeleton import skeleton
from .tokenizer import write_tokenizer

#: Bytes of one shard, which is what writing takes of memory.
SHARD = 1 << 30
#: Where a folder whose vocabulary lost rows says which ids it kept.
TOKEN_IDS = "token_ids.json"
_COPIED = frozenset({".json", ".txt", ".model", ".jinja", ".md", ".tiktoken", ".vocab"})
_NOT_COPIED = frozenset({"config.json", INDEX})


def save(model: Graph | EmittedCheckpoint, path: str | Path, plan: str = "") -> None:
    """Write a folder; raises InputError where it exists already with something in it or cannot be written.

    An ordinary checkpoint where `from_pretrained` can build what is left; else the tensors alone, under the model's own
    names, and `plan` as plan.json: together with the original's configuration they say what the model is.
    """
    path = Path(path)
    emitted = emit(model) if isinstance(model, Graph) else model
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise InputError(f"'{path}' exists already; give a new folder")
    try:
        draft = Path(tempfile.mkdtemp(prefix=f".{path.name}.", suffix=".partial", dir=path.resolve().parent))
    except OSError as error:
        raise InputError(f"'{path}' cannot be written: {error.strerror}") from error
    try:
        _write(emitted, draft)
        if plan and emitted.form == "tensors":
            (draft / "plan.json").write_text(plan)
        draft.chmod(0o755)
        os.replace(draft, path)
    except OSError as error:
        raise InputError(f"'{path}' cannot be written: {error.strerror}") from error
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _write(emitted: EmittedCheckpoint, folder: Path) -> None:
    origin = checkpoint_of(emitted.graph)
    fitted = emitted.fitted
    tensors = dict(_tensors(emitted.graph, origin, {} if fitted is None else dict(fitted.names)))
    if fitted is None or origin.stored:
        _write_shards(tensors, folder)
    else:
        _save_pretrained(fitted.config, type(origin.module), tensors, folder)
    if fitted is not None:
        fitted.config.save_pretrained(folder)
        _copy_companions(origin.folder, folder)
        kept = kept_ids(emitted.graph)
        if kept is not None:
            _write_ids(kept, folder)


def _write_ids(kept: np.ndarray, folder: Path) -> None:
    """What tokens are called now: `kept[new] = old`; generation settings follow, and a tokenizer.json."""
    tokenizer = "new ids" if write_tokenizer(folder, kept) else "old ids"
    (folder / TOKEN_IDS).write_text(json.dumps({"kept": kept.tolist(), "tokenizer": tokenizer}) + "\n")
    settings = folder / "generation_config.json"
    if settings.exists():
        data = json.loads(settings.read_text())
        renumber(data, kept)
        settings.write_text(json.dumps(data, indent=2) + "\n")


def _save_pretrained(config: Any, cls: Any, tensors: dict[str, Any], folder: Path) -> None:
    """Let transformers write what it had to read: in its own spelling of names, packed as it packs."""
    dtype = next(t.dtype for t in (to_torch(_array(s)) for s in tensors.values()) if t.is_floating_point())
    model = skeleton(config, cls, dtype)
    model.load_state_dict({name: to_torch(_array(s)) for name, s in tensors.items()}, strict=False, assign=True)
    with quiet():
        model.tie_weights()  # type: ignore[operator]
        model.save_pretrained(folder, max_shard_size=SHARD)  # type: ignore[operator]


def _copy_companions(source: Path | None, target: Path) -> None:
    """The tokenizer, chat template, generation settings: small files that say nothing about sizes of weights."""
    for file in sorted(source.iterdir()) if source is not None else ():
        if file.is_file() and file.suffix in _COPIED and file.name not in _NOT_COPIED:
            shutil.copyfile(file, target / file.name)


def _tensors(graph: Graph, origin: CheckpointOrigin, names: dict[str, str]) -> Iterator[tuple[str, Any]]:
    """What is to be stored by its new name, each a function that reads it. Tied tensors are stored once."""
    assert origin.module is not None
    weights = graph.weights()
    state = origin.module.state_dict()
    left_out = getattr(origin.module, "all_tied_weights_keys", {})
    for name, tensor in state.items():
        if name in origin.tensors.aliases and name in left_out:
            continue
        first = origin.tensors.aliases.get(name, name)
        if first in weights:
            yield names.get(name, name), weights[first]
        elif first not in origin.read:
            yield name, origin.stored.get(name, tensor)


def _array(source: Any) -> np.ndarray:
    if isinstance(source, Value):
        assert source.weight is not None
        return source.weight.array()
    if hasattr(source, "read"):
        array: np.ndarray = source.read()
        return array
    return to_numpy(source)


def _write_shards(tensors: dict[str, Any], folder: Path) -> None:
    """As many files as it takes, and an index where there are several."""
    parts: list[list[str]] = [[]]
    sizes, room = {n: _bytes(s) for n, s in tensors.items()}, SHARD
    for name, size in sizes.items():
        if parts[-1] and size > room:
            parts.append([])
            room = SHARD
        parts[-1].append(name)
        room -= size
    count = len(parts)
    files = [SINGLE] if count == 1 else [f"model-{i + 1:05}-of-{count:05}.safetensors" for i in range(count)]
    for file, part in zip(files, parts, strict=True):
        _write_file({name: tensors[name] for name in part}, folder / file)
    if count > 1:
        places = {name: file for file, part in zip(files, parts, strict=True) for name in part}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": places}
        (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n")


def _bytes(source: Any) -> int:
    if isinstance(source, Value):
        assert source.weight is not None
        return source.weight.size * source.weight.dtype.itemsize
    if hasattr(source, "offset"):
        return int(np.prod(source.shape)) * int(source.dtype.itemsize)
    return int(source.numel() * source.element_size())


def _write_file(tensors: dict[str, Any], path: Path) -> None:
    arrays = {name: np.asarray(_array(source), order="C") for name, source in tensors.items()}
    save_file(arrays, path, metadata={"format": "pt"})
