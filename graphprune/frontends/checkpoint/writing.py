"""Writing a folder: weights shard by shard, configuration, tokenizer; it appears whole or not at all."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from graphprune.atomic import whole
from graphprune.errors import InputError
from graphprune.ir.graph import Graph, Weight

from ..torch.arrays import to_torch, torch_dtype
from ..torch.run.modes import quiet
from .emission import EmittedCheckpoint, emit
from .layout import as_they_are, packed_again, stored_weights
from .origin import checkpoint_of
from .renumber import kept_ids, renumber
from .shards import INDEX
from .skeleton import skeleton
from .streaming import write_shards
from .tokenizer import write_tokenizer

#: Bytes of one shard.
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
    with whole(path) as draft:
        draft.mkdir()
        _write(emitted, draft)
        if plan and emitted.form == "tensors":
            (draft / "plan.json").write_text(plan)


def _write(emitted: EmittedCheckpoint, folder: Path) -> None:
    origin = checkpoint_of(emitted.graph)
    fitted = emitted.fitted
    weights = dict(stored_weights(emitted.graph, origin, {} if fitted is None else dict(fitted.names)))
    if fitted is None or (origin.stored and not origin.transforms):
        write_shards(as_they_are(weights), folder, SHARD)
    elif origin.stored:
        model = skeleton(fitted.config, type(origin.module), _dtype(weights))
        write_shards(packed_again(weights, model, origin.transforms), folder, SHARD)
    else:
        _save_pretrained(fitted.config, type(origin.module), weights, folder)
    if fitted is not None:
        fitted.config.save_pretrained(folder)
        _copy_companions(origin.folder, folder)
        kept = kept_ids(emitted.graph)
        if kept is not None:
            _write_ids(kept, folder)


def _dtype(weights: Mapping[str, Weight]) -> torch.dtype:
    """The type of the first floating-point weight."""
    return next(t for t in (torch_dtype(w.dtype) for w in weights.values()) if t.is_floating_point)


def _write_ids(kept: np.ndarray, folder: Path) -> None:
    """What tokens are called now: `kept[new] = old`; generation settings follow, and a tokenizer.json."""
    tokenizer = "new ids" if write_tokenizer(folder, kept) else "old ids"
    (folder / TOKEN_IDS).write_text(json.dumps({"kept": kept.tolist(), "tokenizer": tokenizer}) + "\n")
    settings = folder / "generation_config.json"
    if settings.exists():
        data = json.loads(settings.read_text())
        renumber(data, kept)
        settings.write_text(json.dumps(data, indent=2) + "\n")


def _save_pretrained(config: Any, cls: Any, weights: Mapping[str, Weight], folder: Path) -> None:
    """Let transformers write what it had to read, all in memory."""
    model = skeleton(config, cls, _dtype(weights))
    model.load_state_dict({n: to_torch(w.array()) for n, w in weights.items()}, strict=False, assign=True)
    with quiet():
        model.tie_weights()  # type: ignore[operator]
        model.save_pretrained(folder, max_shard_size=SHARD)  # type: ignore[operator]


def _copy_companions(source: Path | None, target: Path) -> None:
    """The tokenizer, chat template, generation settings: small files that say nothing about sizes of weights."""
    for file in sorted(source.iterdir()) if source is not None else ():
        if file.is_file() and file.suffix in _COPIED and file.name not in _NOT_COPIED:
            shutil.copyfile(file, target / file.name)
