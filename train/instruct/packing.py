"""Several conversations in one sequence: whole ones only, with what keeps them from seeing each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from train.instruct.chat import IGNORED
from train.instruct.examples import Example

Position = tuple[int, ...]
"""Where an example stands in its source."""

PADDING = -1
"""``sample_ids`` of what fills a sequence up."""


@dataclass(frozen=True)
class Pack:
    """A sequence of one or more conversations.

    Attributes:
        input_ids: ``(L,)`` int64, padded.
        labels: ``(L,)`` int64, -100 where nothing is learnt; the first token of a conversation never is, so that none
            is predicted from the one before.
        sample_ids: ``(L,)`` int64: the conversation of a token, from 0; -1 is padding. A token may attend to earlier
            ones of its own conversation only.
        tiles: ``(n, 3, S, S)`` uint8, in the order of their tokens; :func:`train.instruct.tiles.normalised` makes
            them the vision model's input on the device.
        names: Of the conversations.
    """

    input_ids: Tensor
    labels: Tensor
    sample_ids: Tensor
    tiles: Tensor
    names: tuple[str, ...]

    @property
    def num_tokens(self) -> int:
        """Tokens without padding."""
        return int((self.sample_ids != PADDING).sum())


@dataclass(frozen=True)
class PackBatch:
    """Sequences of equal length: ``(B, L)`` tensors, all their tiles in one ``(n, 3, S, S)``, names per sequence."""

    input_ids: Tensor
    labels: Tensor
    sample_ids: Tensor
    tiles: Tensor
    names: tuple[tuple[str, ...], ...]


def make_pack(examples: Sequence[Example], length: int, pad_id: int) -> Pack:
    """Put conversations one after another into a sequence of ``length`` tokens."""
    ids = torch.full((length,), pad_id, dtype=torch.long)
    labels = torch.full((length,), IGNORED, dtype=torch.long)
    samples = torch.full((length,), PADDING, dtype=torch.long)
    start = 0
    for number, example in enumerate(examples):
        part = slice(start, start + len(example))
        ids[part], labels[part] = torch.from_numpy(example.input_ids), torch.from_numpy(example.labels)
        samples[part] = number
        start += len(example)
    tiles = torch.cat([torch.from_numpy(example.tiles) for example in examples])
    return Pack(ids, labels, samples, tiles, tuple(example.name for example in examples))


def stack(packs: Sequence[Pack]) -> PackBatch:
    """Join sequences of equal length to a batch."""
    return PackBatch(
        torch.stack([pack.input_ids for pack in packs]),
        torch.stack([pack.labels for pack in packs]),
        torch.stack([pack.sample_ids for pack in packs]),
        torch.cat([pack.tiles for pack in packs]),
        tuple(pack.names for pack in packs),
    )


class Held(NamedTuple):
    """An example and where it came from."""

    position: Position
    example: Example


class Packer:
    """Best fit over a few open sequences: an example goes where it leaves the least room.

    Where it fits nowhere, a new sequence is opened; where as many are open as may be, the fullest is given out first.

    Args:
        length: Tokens of a sequence.
        buffer: Sequences open at a time.
        bins: What an interrupted packer held.
    """

    def __init__(self, length: int, buffer: int, bins: Sequence[Sequence[Held]] = ()) -> None:
        self.length, self.buffer = length, buffer
        self.bins: list[list[Held]] = [list(held) for held in bins]

    def add(self, position: Position, example: Example) -> list[Example] | None:
        """Take an example; gives the content of a sequence if one had to be given out.

        Raises:
            ValueError: The example is longer than a sequence.
        """
        if len(example) > self.length:
            raise ValueError(f"an example of {len(example)} tokens does not fit {self.length}")
        rooms = [self.length - _filled(held) - len(example) for held in self.bins]
        fitting = [index for index, room in enumerate(rooms) if room >= 0]
        if fitting:
            self.bins[min(fitting, key=rooms.__getitem__)].append(Held(position, example))
            return None
        given = self.flush() if len(self.bins) >= self.buffer else None
        self.bins.append([Held(position, example)])
        return given

    def flush(self) -> list[Example] | None:
        """Give out the fullest open sequence (of equally full ones the oldest); ``None`` if none is open."""
        if not self.bins:
            return None
        fullest = max(range(len(self.bins)), key=lambda index: _filled(self.bins[index]))
        return [held.example for held in self.bins.pop(fullest)]

    @property
    def positions(self) -> list[list[Position]]:
        """Where the examples of the open sequences came from: all that is needed to go on."""
        return [[held.position for held in one] for one in self.bins]


def _filled(held: Sequence[Held]) -> int:
    return sum(len(item.example) for item in held)
