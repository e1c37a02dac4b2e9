from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import PreTrainedTokenizerFast

from babelrs.images import Frame
from tests.train.instruct.builders import small_config, small_tokenizer
from tests.train.models.vlms import vlm_config
from train.answering import answers
from train.instruct.examples import ExampleMaker, Prompt
from train.instruct.rows import TURN_END, Row
from train.instruct.tiles import normalised
from train.models.csia import CSIA
from train.models.vlm_build import build_vlm, read_vocabulary

QUESTIONS = ("how many ships", "where", "what is in this image of cars and ships", "harbor")


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    return small_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.fixture(scope="module")
def csia(tokenizer: PreTrainedTokenizerFast) -> CSIA:
    torch.manual_seed(5)
    vocabulary = read_vocabulary(tokenizer.get_vocab(), TURN_END, str(tokenizer.pad_token))
    return CSIA(build_vlm(vlm_config(merge="sum"), vocabulary), chunk=7)


@pytest.fixture(scope="module")
def prompts(tokenizer: PreTrainedTokenizerFast) -> list[Prompt]:
    """Of different lengths; the second has no image, the third two tiles and a thumbnail."""
    make = ExampleMaker(small_config(tile_px=32, patch_px=8, max_tiles=2), tokenizer)
    rng = np.random.default_rng(4)
    found = []
    for index, question in enumerate(QUESTIONS):
        frame = Frame(rng.integers(0, 256, (32, 64 if index == 2 else 32, 3), dtype=np.uint8))
        marker = "" if index == 1 else "<image>\n"
        row = Row("r", () if index == 1 else ("i.png",), ((marker + question, "secret"),))
        found.append(make.prompt(row, lambda _, frame=frame: frame))  # type: ignore[misc]
    return found


def by_hand(csia: CSIA, prompt: Prompt, end: int, most: int) -> list[int]:
    """Greedy, one token at a time, without a cache."""
    ids, found = torch.from_numpy(prompt.input_ids)[None], []
    tiles = normalised(torch.from_numpy(prompt.tiles)) if len(prompt.tiles) else None
    for _ in range(most):
        with torch.no_grad():
            logits = csia.vlm.eval()(input_ids=ids, pixel_values=tiles, use_cache=False).logits
        token = int(logits[0, -1].argmax())
        if token == end:
            break
        found.append(token)
        ids = torch.cat([ids, torch.tensor([[token]])], 1)
    return found


@pytest.mark.parametrize("batch", [1, 3, 4])
def test_answers_of_a_batch_are_those_of_one_token_after_another(
    csia: CSIA, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt], batch: int
) -> None:
    end = tokenizer.convert_tokens_to_ids(TURN_END)
    wanted = [tokenizer.decode(by_hand(csia, prompt, end, 6)).strip() for prompt in prompts]
    assert len(set(wanted)) > 1
    assert answers(csia, tokenizer, prompts, 6, batch) == wanted


def test_an_answer_ends_with_its_turn_and_the_model_learns_on(
    csia: CSIA, tokenizer: PreTrainedTokenizerFast, prompts: list[Prompt], monkeypatch: pytest.MonkeyPatch
) -> None:
    end, word = tokenizer.convert_tokens_to_ids(TURN_END), tokenizer.encode("ships")[0]

    def ended(**inputs: torch.Tensor) -> torch.Tensor:
        new = torch.tensor([[word, end, word]]).expand(len(inputs["input_ids"]), -1)
        return torch.cat([inputs["input_ids"], new], 1)

    csia.train()
    monkeypatch.setattr(csia, "generate", ended)
    assert answers(csia, tokenizer, prompts[:2], 3) == [tokenizer.decode([word]).strip()] * 2
    assert csia.training


def test_a_prompt_is_the_examples_beginning_and_holds_no_answer(tokenizer: PreTrainedTokenizerFast) -> None:
    make = ExampleMaker(small_config(tile_px=32, patch_px=8), tokenizer)
    frame = Frame(np.zeros((32, 32, 3), np.uint8))
    turns = (("<image>\nhow many", "seven"), ("<image> where", "there"))
    row = Row("r", ("a.png", "b.png"), turns)
    prompt, example = make.prompt(row, lambda _: frame), make(row, lambda _: frame)
    length = len(prompt.input_ids)
    assert (example.input_ids[:length] == prompt.input_ids).all() and (example.labels[:length] == -100).all()
    assert example.labels[length] != -100 and len(prompt.tiles) == 1 and len(example.tiles) == 2


def test_a_prompt_longer_than_the_sequence_is_named(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    from train.instruct.faults import RowFault

    make = ExampleMaker(small_config(max_length=40), tokenizer)
    with pytest.raises(RowFault, match="longer than the sequence"):
        make.prompt(Row("r", (), (("where " * 40, "a"),)), lambda _: Frame(np.zeros((1, 1), np.uint8)))
