"""Where examples come from: instruction sets on disk, or shards from anywhere; each can go on from any position."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Protocol

from babelrs.errors import BabelRSError
from babelrs.images import Frame, ImageError, decode_frame, read_frame
from train.instruct.corpus import InstructSet, warn_of_lengths
from train.instruct.examples import Example, ExampleMaker
from train.instruct.faults import Fault, RowFault
from train.instruct.packing import Position
from train.instruct.rows import JsonLines, Row, parse_row, with_sensor
from train.instruct.sampling import Mixture, shard_order
from train.instruct.shards import Opener, ShardFault, ShardIndex, ShardSample, open_local_or_url, read_shard


@dataclass(frozen=True)
class Entry:
    """An example, or why there is none, and where it stands."""

    position: Position
    outcome: Example | Fault


class Source(Protocol):
    """An endless sequence of entries, shared out to streams."""

    def entries(self, stream: int, streams: int, after: Position | None) -> Iterator[Entry]:
        """The entries of one of ``streams`` equal streams that come after a position; from the first for ``None``."""

    def again(self, positions: Sequence[Position]) -> Mapping[Position, Example | Fault]:
        """The entries at these positions once more."""


class MetaSource:
    """Rows of instruction sets on disk, mixed by ``repeat_time``; a position is a number.

    Args:
        sets: The sets.
        make: Turns rows into examples.
        seed: Of order, choice and JPEG quality.

    Raises:
        BabelRSError: A file cannot be read, or no row is left.
    """

    def __init__(self, sets: Sequence[InstructSet], make: ExampleMaker, seed: int) -> None:
        self.sets, self.make, self.seed = list(sets), make, seed
        self.files = [JsonLines(item.annotation) for item in self.sets]
        sizes = [len(file) for file in self.files]
        warn_of_lengths(self.sets, sizes)
        counts = [item.count(size) for item, size in zip(self.sets, sizes, strict=True)]
        self.mixture = Mixture(sizes, counts, seed)

    def entries(self, stream: int, streams: int, after: Position | None) -> Iterator[Entry]:
        """See :class:`Source`; the k-th stream takes every ``streams``-th position from k on."""
        for position in count(stream if after is None else after[0] + streams, streams):
            yield Entry((position,), self.at(position))

    def again(self, positions: Sequence[Position]) -> Mapping[Position, Example | Fault]:
        """See :class:`Source`."""
        return {position: self.at(position[0]) for position in positions}

    def at(self, position: int) -> Example | Fault:
        """The example at a position."""
        draw = self.mixture.draw(position)
        item = self.sets[draw.dataset]
        try:
            row = with_sensor(parse_row(self.files[draw.dataset][draw.row]), item.sensor)
            jpeg_seed = (self.seed, 5, position) if item.data_augment else None
            return self.make(row, _Reader(row, item.root), item.max_tiles, jpeg_seed, f"{item.name}:{draw.row}")
        except RowFault as fault:
            return Fault(item.name, draw.row, fault.identity, fault.cause, fault.detail)


@dataclass(frozen=True)
class _Reader:
    row: Row
    root: Path

    def __call__(self, index: int) -> Frame:
        return read_frame(self.root / self.row.images[index])


class ShardSource:
    """Examples from WebDataset shards, read from front to back; a position is (shard in the sequence, sample).

    Args:
        index: The shards.
        make: Turns rows into examples.
        seed: Of the shards' order.
        opener: Opens a shard by its path or URL.

    Raises:
        BabelRSError: There is no shard.
    """

    def __init__(self, index: ShardIndex, make: ExampleMaker, seed: int, opener: Opener = open_local_or_url) -> None:
        if not index.urls:
            raise BabelRSError("There are no shards.", "Write some with python -m train.instruct.write_shards.")
        self.index, self.make, self.seed, self.opener = index, make, seed, opener

    def entries(self, stream: int, streams: int, after: Position | None) -> Iterator[Entry]:
        """See :class:`Source`; the k-th stream takes every ``streams``-th shard of the endless sequence."""
        first, done = (stream, -1) if after is None else after
        for place in count(first, streams):
            yield from self._shard(place, done if place == first else -1)

    def again(self, positions: Sequence[Position]) -> Mapping[Position, Example | Fault]:
        """See :class:`Source`; every shard is opened once."""
        wanted, found = set(positions), {}
        for place in sorted({position[0] for position in wanted}):
            last = max(position[1] for position in wanted if position[0] == place)
            for entry in self._shard(place, -1, wanted):
                if entry.position in wanted:
                    found[entry.position] = entry.outcome
                if entry.position[1] >= last:
                    break
        return found

    def _shard(self, place: int, done: int, wanted: set[Position] | None = None) -> Iterator[Entry]:
        epoch, turn = divmod(place, len(self.index.urls))
        url = self.index.urls[int(shard_order(len(self.index.urls), self.seed, epoch)[turn])]
        number = -1
        try:
            for number, sample in enumerate(read_shard(url, self.opener)):
                position = (place, number)
                if number > done and (wanted is None or position in wanted):
                    yield Entry(position, self._example(sample, url, number, position))
        except ShardFault as fault:
            if number + 1 > done:
                yield Entry((place, number + 1), Fault(url, number + 1, "", "shard", str(fault)))

    def _example(self, sample: ShardSample, url: str, number: int, position: Position) -> Example | Fault:
        try:
            row = parse_row(sample.row)
            read = _Members(sample, f"{url}:{sample.key}")
            jpeg_seed = (self.seed, 6, *position) if sample.data_augment else None
            return self.make(row, read, sample.max_tiles, jpeg_seed, f"{url}:{sample.key}")
        except RowFault as fault:
            return Fault(url, number, fault.identity or sample.key, fault.cause, fault.detail)


@dataclass(frozen=True)
class _Members:
    sample: ShardSample
    name: str

    def __call__(self, index: int) -> Frame:
        if index not in self.sample.images:
            raise ImageError("missing", self.name, f"image {index} is not in the shard.", "Write the shard again.")
        return decode_frame(self.sample.images[index], f"{self.name}.{index}")
