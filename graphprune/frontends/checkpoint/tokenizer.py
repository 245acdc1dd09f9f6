"""A vocabulary that lost rows, in the tokenizer's own files: `tokenizer.json`, the format of the tokenizers library.

Tokens that are gone leave the vocabulary, and merges that need them go too: text is spelled with what is left. What it
must not do without stays: special tokens, the unknown token, single bytes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from .renumber import new_places, renumber

FILE = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
ADDED = "added_tokens.json"

#: Files that say the same as tokenizer.json in other words, or in a format that cannot be changed here.
OTHER_SPELLINGS = frozenset({"vocab.txt", "vocab.json", "merges.txt"})
OTHER_SUFFIXES = frozenset({".model", ".tiktoken", ".vocab"})

_KNOWN = frozenset({"BPE", "WordPiece", "WordLevel", "Unigram"})


def read_tokenizer(folder: Path) -> dict[str, Any] | None:
    """What tokenizer.json holds; None where there is none that is understood."""
    try:
        data = json.loads((folder / FILE).read_text())
        known = data["model"].get("type") in _KNOWN and data["model"]["vocab"] is not None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return data if known else None


def needed_ids(data: dict[str, Any] | None) -> frozenset[int]:
    """Ids that must stay: special tokens, the unknown one, what is put around texts, and single bytes."""
    if data is None:
        return frozenset()
    model, vocabulary = data["model"], dict(_entries(data["model"]))
    found = {token["id"] for token in data.get("added_tokens") or () if token.get("special")}
    found.update(i for holder, key in _around(data) for i in _listed(holder[key]))
    found.update(vocabulary[t] for t in (model.get("unk_token"),) if t in vocabulary)
    found.update(i for i in (model.get("unk_id"),) if i is not None)
    found.update(i for token, i in vocabulary.items() if _is_byte(token, data))
    return frozenset(found)


def _entries(model: dict[str, Any]) -> Iterator[tuple[str, int]]:
    if isinstance(model["vocab"], dict):
        yield from model["vocab"].items()
    else:
        yield from ((entry[0], i) for i, entry in enumerate(model["vocab"]))


def _is_byte(token: str, data: dict[str, Any]) -> bool:
    if data["model"].get("byte_fallback") and len(token) == len("<0x00>") and token.startswith("<0x"):
        return True
    return len(token) == 1 and any(
        part.get("type") == "ByteLevel" for key in ("pre_tokenizer", "decoder") for part in _parts(data.get(key))
    )


def _parts(data: Any) -> Iterator[dict[str, Any]]:
    """Every dictionary in nested data."""
    if isinstance(data, dict):
        yield data
        data = list(data.values())
    for inner in data if isinstance(data, list) else ():
        yield from _parts(inner)


def _around(data: dict[str, Any]) -> Iterator[tuple[Any, Any]]:
    """Where ids stand outside the vocabulary: (container, key) of an id or a list of ids."""
    if isinstance(data.get("padding"), dict) and "pad_id" in data["padding"]:
        yield data["padding"], "pad_id"
    for part in _parts(data.get("post_processor")):
        if isinstance(part.get("ids"), list):
            yield part, "ids"
        yield from ((part[k], 1) for k in ("sep", "cls") if isinstance(part.get(k), list))


def _listed(item: Any) -> list[int]:
    return item if isinstance(item, list) else [item]


def rewrite_tokenizer(data: dict[str, Any], kept: np.ndarray) -> None:
    """Leave only the kept tokens, at their new ids; in place."""
    place, model = new_places(kept), data["model"]
    left = {token: place[i] for token, i in _entries(model) if i in place}
    if isinstance(model["vocab"], dict):
        model["vocab"] = left
    else:
        model["vocab"] = [entry for i, entry in enumerate(model["vocab"]) if i in place]
    if model.get("unk_id") is not None:
        model["unk_id"] = place[model["unk_id"]]
    if model.get("merges"):
        model["merges"] = [m for m in model["merges"] if _spelled(m, left, model.get("continuing_subword_prefix"))]
    added = data.get("added_tokens") or []
    data["added_tokens"] = [token | {"id": place[token["id"]]} for token in added if token["id"] in place]
    for holder, key in list(_around(data)):
        item = holder[key]
        holder[key] = [place.get(i, i) for i in item] if isinstance(item, list) else place.get(item, item)


def _spelled(merge: Any, left: Mapping[str, int], prefix: str | None) -> bool:
    first, second = merge.split(" ") if isinstance(merge, str) else merge
    return first in left and second in left and first + second.removeprefix(prefix or "") in left


def write_tokenizer(folder: Path, kept: np.ndarray) -> bool:
    """Bring a folder's tokenizer files up to date; False where they still tell old ids."""
    data = read_tokenizer(folder)
    if data is None:
        return False
    rewrite_tokenizer(data, kept)
    (folder / FILE).write_text(json.dumps(data, ensure_ascii=False))
    _change(folder / SETTINGS, lambda settings: _new_settings(settings, kept))
    place = new_places(kept)
    _change(folder / ADDED, lambda added: {t: place[i] for t, i in added.items() if i in place})
    for file in folder.iterdir():
        if file.name in OTHER_SPELLINGS or file.suffix in OTHER_SUFFIXES:
            file.unlink()
    return True


def _new_settings(settings: dict[str, Any], kept: np.ndarray) -> dict[str, Any]:
    renumber(settings, kept)
    place = new_places(kept)
    named = settings.get("added_tokens_decoder")
    if isinstance(named, dict):
        settings["added_tokens_decoder"] = {str(place[int(i)]): t for i, t in named.items() if int(i) in place}
    return settings


def _change(file: Path, change: Any) -> None:
    if file.exists():
        file.write_text(json.dumps(change(json.loads(file.read_text())), indent=2, ensure_ascii=False) + "\n")
