from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerFast

from babelrs.images import Frame, ImageError
from tests.train.instruct.builders import row, small_config
from train.instruct.examples import ExampleMaker
from train.instruct.faults import RowFault
from train.instruct.rows import Row, parse_row
from train.instruct.tiles import cut_tiles


def frame(height: int, width: int, seed: int = 0) -> Frame:
    return Frame(np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8))


def several(images: int) -> Row:
    names = [f"{number}.png" for number in range(images)]
    return parse_row(json.dumps(row(1, "<image>" * images, "yes", names)))


def test_each_image_has_its_tiles_and_tokens_in_order(tokenizer: PreTrainedTokenizerFast) -> None:
    make = ExampleMaker(small_config(max_tiles=6, max_length=400), tokenizer)
    frames = [frame(30, 95, 1), frame(95, 30, 2)]
    found = make(several(2), frames.__getitem__)
    parts = [cut_tiles(one.pixels, 3, 28) for one in frames]  # 6 tiles shared by two images
    assert [len(part) for part in parts] == [4, 4]
    assert (found.tiles == np.concatenate(parts)).all()
    context = make.template.image_context
    runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[0], found.input_ids == context, [0]]))))[::2]
    assert runs.tolist() == [4 * 4, 4 * 4]


def test_many_images_have_a_tile_each(tokenizer: PreTrainedTokenizerFast) -> None:
    make = ExampleMaker(small_config(max_tiles=2, max_length=400), tokenizer)
    assert len(make(several(5), lambda _: frame(30, 90)).tiles) == 5


def test_a_row_without_images_has_no_tiles(tokenizer: PreTrainedTokenizerFast) -> None:
    found = ExampleMaker(small_config(), tokenizer)(several(0), lambda _: frame(1, 1))
    assert found.tiles.shape == (0, 3, 28, 28)


def test_the_longest_answer_that_fits_is_taken_and_one_token_more_is_named(tokenizer: PreTrainedTokenizerFast) -> None:
    found = ExampleMaker(small_config(), tokenizer)(several(1), lambda _: frame(28, 28))
    exact = ExampleMaker(small_config(max_length=len(found)), tokenizer)
    assert len(exact(several(1), lambda _: frame(28, 28))) == len(found)
    short = ExampleMaker(small_config(max_length=len(found) - 1), tokenizer)
    with pytest.raises(RowFault) as caught:
        short(several(1), lambda _: frame(28, 28))
    assert caught.value.cause == "longer than the sequence" and f"{len(found)} tokens, 4 of them" in caught.value.detail


def test_an_image_that_cannot_be_read_is_named_with_its_row(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    def fail(_: int) -> Frame:
        raise ImageError("truncated", "a.png", "cut short.", "Fetch it again.")

    with pytest.raises(RowFault) as caught:
        ExampleMaker(small_config(), tokenizer)(several(1), fail)
    assert (caught.value.cause, caught.value.identity) == ("image: truncated", "1")
    assert "a.png" in caught.value.detail


def test_augmentation_is_decided_by_its_seed(tokenizer: PreTrainedTokenizerFast) -> None:
    make = ExampleMaker(small_config(), tokenizer)
    tiles = [make(several(1), lambda _: frame(40, 40), jpeg_seed=seed).tiles for seed in (None, (1, 2), (1, 2), (1, 3))]
    assert (tiles[1] == tiles[2]).all() and (tiles[1] != tiles[3]).any() and (tiles[0] != tiles[1]).any()
