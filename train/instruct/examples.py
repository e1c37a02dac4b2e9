"""A row and its images as a training example: tokens, labels and tiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from babelrs.images import Frame, ImageError
from train.instruct.chat import Ids, conversation_tokens, prompt_ids
from train.instruct.config import InstructConfig
from train.instruct.faults import RowFault
from train.instruct.rows import MARKER, Row
from train.instruct.tiles import cut_tiles, degraded, displayed
from train.instruct.tokenizer import TemplateTokens, template_tokens

Tiles = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Example:
    """One conversation, ready to be put into a sequence.

    Attributes:
        input_ids: ``(L,)`` int64.
        labels: ``(L,)`` int64; -100 where nothing is learnt.
        tiles: ``(n, 3, S, S)`` uint8, all images' tiles in the order of their tokens.
        name: ``set:row`` or ``shard:key``, for messages.
    """

    input_ids: Ids
    labels: Ids
    tiles: Tiles
    name: str = ""

    def __len__(self) -> int:
        return len(self.input_ids)


@dataclass(frozen=True)
class Prompt:
    """What a model reads before it answers a row's first question.

    Attributes:
        input_ids: ``(L,)`` int64; the same ids as in training.
        tiles: ``(n, 3, S, S)`` uint8.
    """

    input_ids: Ids
    tiles: Tiles


class ExampleMaker:
    """Turns rows into examples, and questions into prompts, by one tokenizer and one set of settings.

    Args:
        config: Tiles, lengths, system message.
        tokenizer: Any that has the template's tokens.

    Raises:
        BabelRSError: The tokenizer lacks some.
    """

    def __init__(self, config: InstructConfig, tokenizer: PreTrainedTokenizerBase) -> None:
        self.config, self.tokenizer = config, tokenizer
        self.template: TemplateTokens = template_tokens(tokenizer)

    def __call__(
        self,
        row: Row,
        read: Callable[[int], Frame],
        max_tiles: int | None = None,
        jpeg_seed: Sequence[int] | None = None,
        name: str = "",
    ) -> Example:
        """The example of a row; images share the number of tiles that one may have.

        Args:
            row: The conversation.
            read: Gives the k-th image.
            max_tiles: Largest number of tiles; ``None`` takes the settings'.
            jpeg_seed: Seed of a re-encoding as JPEG; ``None`` for none.
            name: For messages.

        Raises:
            RowFault: An image cannot be used, or the example is longer than a sequence.
        """
        tiles = self._tiles(row, read, len(row.images), max_tiles, jpeg_seed)
        counts = self._visual_tokens(tiles)
        tokens = conversation_tokens(row.turns, self._system(row), counts, self.tokenizer, self.template)
        if len(tokens.input_ids) > self.config.max_length:
            detail = f"{len(tokens.input_ids)} tokens, {sum(counts)} of them visual; {self.config.max_length} fit"
            raise RowFault("longer than the sequence", detail, row.id)
        return Example(tokens.input_ids, tokens.labels, self._joined(tiles), name)

    def prompt(self, row: Row, read: Callable[[int], Frame], max_tiles: int | None = None) -> Prompt:
        """What a model reads before it answers a row's first question; later turns and their images are left out.

        Args:
            row: The conversation; its answers are not read.
            read: Gives the k-th image.
            max_tiles: Largest number of tiles; ``None`` takes the settings'.

        Raises:
            RowFault: An image cannot be used, or the prompt leaves no room for an answer.
        """
        question = row.turns[0][0]
        tiles = self._tiles(row, read, question.count(MARKER), max_tiles)
        ids = prompt_ids(question, self._system(row), self._visual_tokens(tiles), self.tokenizer, self.template)
        if len(ids) >= self.config.max_length:
            raise RowFault("longer than the sequence", f"{len(ids)} tokens; {self.config.max_length} fit", row.id)
        return Prompt(ids, self._joined(tiles))

    def _system(self, row: Row) -> str:
        return self.config.system if row.system is None else row.system

    def _visual_tokens(self, tiles: Sequence[Tiles]) -> list[int]:
        return [len(part) * self.config.tokens_per_tile for part in tiles]

    def _joined(self, tiles: Sequence[Tiles]) -> Tiles:
        side = self.config.tile_px
        return np.concatenate(tiles) if tiles else np.zeros((0, 3, side, side), np.uint8)

    def _tiles(
        self,
        row: Row,
        read: Callable[[int], Frame],
        num_images: int,
        max_tiles: int | None = None,
        jpeg_seed: Sequence[int] | None = None,
    ) -> list[Tiles]:
        most = max(1, (max_tiles or self.config.max_tiles) // max(1, len(row.images)))
        parts = []
        for index in range(num_images):
            try:
                image = displayed(read(index), row.sensor)
            except ImageError as error:
                raise RowFault(f"image: {error.cause}", error.what, row.id) from None
            if jpeg_seed is not None:
                image = degraded(image, np.random.default_rng([*jpeg_seed, index]))
            parts.append(cut_tiles(image, most, self.config.tile_px, self.config.thumbnail))
        return parts
