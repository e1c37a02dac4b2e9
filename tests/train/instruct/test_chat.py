from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from train.instruct.chat import IGNORED, conversation_tokens, prompt_ids
from train.instruct.tokenizer import SPECIAL, template_tokens

TURNS = (
    ("<image>\nhow many ships?", "2 ships"),
    ("and here <image>?", "<ref>car</ref><box>[[1, 2, 3, 4]]</box>"),
    ("sure?", "yes\nindeed"),
)
TEXT = (
    "<|im_start|>system\nLook.<|im_end|>\n"
    "<|im_start|>user\n<img>{a}</img>\nhow many ships?<|im_end|>\n<|im_start|>assistant\n2 ships<|im_end|>\n"
    "<|im_start|>user\nand here <img>{b}</img>?<|im_end|>\n<|im_start|>assistant\n"
    "<ref>car</ref><box>[[1, 2, 3, 4]]</box><|im_end|>\n"
    "<|im_start|>user\nsure?<|im_end|>\n<|im_start|>assistant\nyes\nindeed<|im_end|>"
)


def letters() -> PreTrainedTokenizerFast:
    """Another kind of tokenizer: a token a character."""
    vocabulary = {chr(code): code for code in range(1, 256)}
    made = Tokenizer(models.WordLevel({**vocabulary, "[UNK]": 0}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Split("", "isolated")
    made.decoder = decoders.Fuse()
    fast = PreTrainedTokenizerFast(tokenizer_object=made, unk_token="[UNK]", clean_up_tokenization_spaces=False)
    fast.add_special_tokens({"additional_special_tokens": list(SPECIAL)})
    return fast


@pytest.fixture(params=["bpe", "letters"])
def any_tokenizer(request: pytest.FixtureRequest, tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    return tokenizer if request.param == "bpe" else letters()


def text_of(tokenizer: PreTrainedTokenizerFast, ids: np.ndarray) -> str:
    return str(tokenizer.decode(ids.tolist()))


def test_a_conversation_reads_as_the_template_with_a_context_token_for_every_visual_token(
    any_tokenizer: PreTrainedTokenizerFast,
) -> None:
    found = conversation_tokens(TURNS, "Look.", [3, 5], any_tokenizer, template_tokens(any_tokenizer))
    context = "<IMG_CONTEXT>"
    assert text_of(any_tokenizer, found.input_ids) == TEXT.format(a=3 * context, b=5 * context)


def test_exactly_the_answers_and_their_end_tokens_are_learnt(any_tokenizer: PreTrainedTokenizerFast) -> None:
    found = conversation_tokens(TURNS, "Look.", [3, 5], any_tokenizer, template_tokens(any_tokenizer))
    kept = found.labels != IGNORED
    assert (found.labels[kept] == found.input_ids[kept]).all()
    edges = np.flatnonzero(np.diff(np.concatenate([[False], kept, [False]]).astype(int)))
    spans = [text_of(any_tokenizer, found.input_ids[a:b]) for a, b in edges.reshape(-1, 2)]
    assert spans == [answer + "<|im_end|>" for _, answer in TURNS]
    rest = text_of(any_tokenizer, found.input_ids[~kept])
    assert rest == TEXT.format(a=3 * "<IMG_CONTEXT>", b=5 * "<IMG_CONTEXT>").replace("2 ships<|im_end|>", "").replace(
        "<ref>car</ref><box>[[1, 2, 3, 4]]</box><|im_end|>", ""
    ).replace("yes\nindeed<|im_end|>", "")


def test_a_prompt_is_what_training_shows_before_the_first_answer(any_tokenizer: PreTrainedTokenizerFast) -> None:
    template = template_tokens(any_tokenizer)
    found = conversation_tokens(TURNS[:1], "Look.", [4], any_tokenizer, template)
    first = int(np.flatnonzero(found.labels != IGNORED)[0])
    prompt = prompt_ids(TURNS[0][0], "Look.", [4], any_tokenizer, template)
    assert prompt.tolist() == found.input_ids[:first].tolist()


def test_text_without_pictures_and_a_wrong_number_of_them(tokenizer: PreTrainedTokenizerFast) -> None:
    template = template_tokens(tokenizer)
    assert template.image_context not in conversation_tokens((("a", "b"),), "s", [], tokenizer, template).input_ids
    with pytest.raises(ValueError, match="1 pictures in the text, 2 images"):
        conversation_tokens((("<image>", "b"),), "s", [1, 1], tokenizer, template)
