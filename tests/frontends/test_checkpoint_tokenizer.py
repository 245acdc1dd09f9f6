"""A vocabulary that lost rows: the tokenizer's own file tells the new ids."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, processors, trainers

from graphprune.frontends.checkpoint.renumber import must_stay, renumber
from graphprune.frontends.checkpoint.tokenizer import needed_ids, read_tokenizer, write_tokenizer

TEXT = ["the cat sat on the mat", "the other cats sat there", "that mat, other than this hat"]
SPECIAL = ["[UNK]", "<s>", "</s>"]


def bytes_of_pairs() -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=300, special_tokens=SPECIAL, initial_alphabet=alphabet)
    )
    return made


def pieces() -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.train_from_iterator(TEXT, trainers.WordPieceTrainer(vocab_size=60, special_tokens=SPECIAL))
    return made


def words() -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.WordLevel(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.train_from_iterator(TEXT, trainers.WordLevelTrainer(special_tokens=SPECIAL))
    return made


def likely() -> tokenizers.Tokenizer:
    made = tokenizers.Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.decoder = decoders.Metaspace()
    made.train_from_iterator(TEXT, trainers.UnigramTrainer(vocab_size=40, special_tokens=SPECIAL, unk_token="[UNK]"))
    return made


def saved(made: tokenizers.Tokenizer, folder: Path) -> tokenizers.Tokenizer:
    ends = [(t, made.token_to_id(t)) for t in SPECIAL[1:]]
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=ends)
    made.enable_padding(pad_id=ends[1][1], pad_token="</s>")
    made.save(str(folder / "tokenizer.json"))
    (folder / "vocab.txt").write_text("tells old ids")
    return made


@pytest.mark.parametrize("make", [bytes_of_pairs, pieces, words, likely])
def test_a_tokenizer_gives_new_ids(make: Any, tmp_path: Path) -> None:
    before = saved(make(), tmp_path)
    needed = needed_ids(read_tokenizer(tmp_path))
    assert {before.token_to_id(t) for t in SPECIAL} <= needed
    count = before.get_vocab_size()
    drawn = np.random.default_rng(0).choice(count, count // 2, replace=False)
    kept = np.array(sorted(needed | set(drawn.tolist())))
    assert len(kept) < count and write_tokenizer(tmp_path, kept)
    after = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert after.get_vocab_size() == len(kept)
    assert [after.id_to_token(i) for i in range(len(kept))] == [before.id_to_token(int(old)) for old in kept]
    for text in TEXT:
        ids = after.encode(text).ids
        assert [ids[0], ids[-1]] == [after.token_to_id("<s>"), after.token_to_id("</s>")]
        assert max(ids) < len(kept)
        if make is bytes_of_pairs:
            assert after.decode(ids) == text
    assert not (tmp_path / "vocab.txt").exists()


def test_what_is_left_whole_is_spelled_as_before(tmp_path: Path) -> None:
    before = saved(bytes_of_pairs(), tmp_path)
    unused = set(range(before.get_vocab_size())) - {i for t in TEXT for i in before.encode(t).ids}
    inner = [t for m in json.loads(before.to_str())["model"]["merges"] for t in m]
    gone = [i for i in unused if before.id_to_token(i) not in inner and i not in needed_ids(read_tokenizer(tmp_path))]
    kept = np.array(sorted(set(range(before.get_vocab_size())) - set(gone)))
    write_tokenizer(tmp_path, kept)
    after = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for text in TEXT:
        assert kept[after.encode(text).ids].tolist() == before.encode(text).ids


def test_a_format_that_is_not_known_stays(tmp_path: Path) -> None:
    for text in ("{", "[]", json.dumps({"model": {"type": "Own", "vocab": {}}})):
        (tmp_path / "tokenizer.json").write_text(text)
        assert not write_tokenizer(tmp_path, np.arange(3))
        assert (tmp_path / "tokenizer.json").read_text() == text


def test_settings_of_generation() -> None:
    settings = {
        "eos_token_id": [7, 9],
        "pad_token_id": -1,
        "bos_token_id": None,
        "suppress_tokens": [1, 4, 7],
        "forced_decoder_ids": [[1, 9], [2, None]],
        "lang_to_id": {"<|en|>": 3},
        "bad_words_ids": [[5, 9]],
        "max_length": 9,
    }
    assert must_stay(settings) == {-1, 3, 5, 7, 9}
    renumber(settings, np.array([3, 4, 5, 7, 9]))
    assert settings == {
        "eos_token_id": [3, 4],
        "pad_token_id": -1,
        "bos_token_id": None,
        "suppress_tokens": [1, 3],
        "forced_decoder_ids": [[1, 4], [2, None]],
        "lang_to_id": {"<|en|>": 0},
        "bad_words_ids": [[2, 4]],
        "max_length": 9,
    }
