"""A row and its images as a training example: tokens, labels and tiles."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from transformers import PreTrainedTokenizerBase

from babelrs.images import Frame, ImageError
from train.instruct.chat import Ids, conversation_tokens
from train.instruct.config import InstructConfig
from train.instruct.faults import RowFault
from train.instruct.rows import Row
from train.instruct.tiles import cut_tiles, degraded, displayed
from train.instruct.tokenizer import TemplateTokens, template_tokens


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
    tiles: npt.NDArray[np.uint8]
    name: str = ""

    def __len__(self) -> int:
        return len(self.input_ids)


class ExampleMaker:
    """Turns rows into examples by one tokenizer and one set of settings.

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
        tiles = self._tiles(row, read, max_tiles or self.config.max_tiles, jpeg_seed)
        counts = [len(part) * self.config.tokens_per_tile for part in tiles]
        system = self.config.system if row.system is None else row.system
        tokens = conversation_tokens(row.turns, system, counts, self.tokenizer, self.template)
        if len(tokens.input_ids) > self.config.max_length:
            detail = f"{len(tokens.input_ids)} tokens, {sum(counts)} of them visual; {self.config.max_length} fit"
            raise RowFault("longer than the sequence", detail, row.id)
        side = self.config.tile_px
        joined = np.concatenate(tiles) if tiles else np.zeros((0, 3, side, side), np.uint8)
        return Example(tokens.input_ids, tokens.labels, joined, name)

    def _tiles(
        self, row: Row, read: Callable[[int], Frame], max_tiles: int, jpeg_seed: Sequence[int] | None
    ) -> list[npt.NDArray[np.uint8]]:
        most = max(1, max_tiles // max(1, len(row.images)))
        parts = []
        for index in range(len(row.images)):
            try:
                image = displayed(read(index), row.sensor)
            except ImageError as error:
                raise RowFault(f"image: {error.cause}", error.what, row.id) from None
            if jpeg_seed is not None:
                image = degraded(image, np.random.default_rng([*jpeg_seed, index]))
            parts.append(cut_tiles(image, most, self.config.tile_px, self.config.thumbnail))
        return parts
