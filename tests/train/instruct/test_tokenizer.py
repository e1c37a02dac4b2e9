from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from babelrs.errors import BabelRSError
from tests.train.instruct.builders import WORDS, small_tokenizer
from train.instruct.tokenizer import REQUIRED, SPECIAL, template_tokens, train_tokenizer


def test_a_saved_tokenizer_loads_with_transformers_and_gives_text_back(tmp_path: Path) -> None:
    made = small_tokenizer(tmp_path)
    loaded = AutoTokenizer.from_pretrained(str(tmp_path))
    text = "Where are 3 ships? <ref>bateau à l'eau</ref><box>[[12, 340, 5, 999]]</box>\n 船"
    assert loaded.encode(text) == made.encode(text)
    assert loaded.decode(loaded.encode(text)) == text
    assert len(loaded.encode("ships")) < 5 and len(loaded.encode("340")) == 3


def test_special_tokens_are_single_ids(tmp_path: Path) -> None:
    made = small_tokenizer(tmp_path)
    for token in SPECIAL:
        assert made.encode(token) == [made.convert_tokens_to_ids(token)]
    assert made.eos_token == "<|im_end|>" and made.pad_token == "<|endoftext|>" and len(made) <= 300
    found = template_tokens(made)
    assert made.decode([found.image_context, found.turn_end, found.pad]) == "<IMG_CONTEXT><|im_end|><|endoftext|>"


def test_the_same_corpus_gives_the_same_files(tmp_path: Path) -> None:
    texts = [" ".join(WORDS[k:] + WORDS[:k]) for k in range(len(WORDS))]
    for name in ("a", "b"):
        train_tokenizer(iter(texts), 320, tmp_path / name)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_a_vocabulary_without_room_for_bytes_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BabelRSError, match="100 tokens"):
        train_tokenizer(["a"], 100, tmp_path)


def test_missing_template_tokens_are_all_named() -> None:
    bare = Tokenizer(models.WordLevel({"[UNK]": 0, "img": 1, "<img>": 2}, unk_token="[UNK]"))
    bare.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bare, unk_token="[UNK]")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "</img>"]})
    with pytest.raises(BabelRSError) as caught:
        template_tokens(tokenizer)
    named = {token for token in REQUIRED if token in caught.value.what.split("lacks")[1]}
    assert named == {"<|im_end|>", "<img>", "<IMG_CONTEXT>"}
