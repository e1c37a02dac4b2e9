"""Endless sequences for training: streams of packed examples that go on exactly where a run left off.

The sequences are those of ``streams`` independent streams in turn. A process takes every ``processes``-th of them, a
loader process every ``workers``-th of those, so neither number changes what the run as a whole sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import count
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from babelrs.errors import BabelRSError
from train.instruct.config import InstructConfig
from train.instruct.examples import Example
from train.instruct.faults import Fault, Tally
from train.instruct.packing import Held, Pack, Packer, Position, make_pack
from train.instruct.sources import MetaSource, Source


@dataclass(frozen=True)
class StreamState:
    """Where a stream stands.

    Attributes:
        after: The last position that was read; ``None`` before the first.
        bins: Positions of the examples in its open sequences.
    """

    after: Position | None = None
    bins: tuple[tuple[Position, ...], ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        after = None if self.after is None else list(self.after)
        return {"after": after, "bins": [[list(position) for position in held] for held in self.bins]}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> StreamState:
        """What :meth:`to_dict` described."""
        after = None if values["after"] is None else tuple(values["after"])
        return cls(after, tuple(tuple(tuple(position) for position in held) for held in values["bins"]))


@dataclass(frozen=True)
class Delivery:
    """A sequence and what happened on the way to it.

    Attributes:
        pack: The sequence.
        stream: Which stream it is of.
        state: Where that stream stands after it.
        rows: Rows read since the stream's last sequence.
        faults: The broken ones among them.
    """

    pack: Pack
    stream: int
    state: StreamState
    rows: int
    faults: tuple[Fault, ...]


def deliveries(
    source: Source, config: InstructConfig, pad_id: int, stream: int, state: StreamState
) -> Iterator[Delivery]:
    """The endless sequences of one stream.

    Raises:
        BabelRSError: Too many of the stream's own rows are broken, so many perhaps that it fills no sequence.
    """
    packer = Packer(config.max_length, config.pack_buffer, _restored(source, state))
    tally, rows, faults = Tally(), 0, list[Fault]()
    for entry in source.entries(stream, config.streams, state.after):
        rows += 1
        if isinstance(entry.outcome, Fault):
            faults.append(entry.outcome)
            tally.add(1, [entry.outcome])
            tally.check(config.max_broken_share, config.broken_from_rows)
            continue
        tally.add(1, ())
        given = packer.add(entry.position, entry.outcome) if config.pack else [entry.outcome]
        if given is not None:
            after = StreamState(entry.position, tuple(map(tuple, packer.positions)))
            yield Delivery(make_pack(given, config.max_length, pad_id), stream, after, rows, tuple(faults))
            rows, faults = 0, []


def _restored(source: Source, state: StreamState) -> list[list[Held]]:
    """The open sequences of a state, read again; what has become broken since is left out."""
    found = source.again([position for held in state.bins for position in held])
    bins = []
    for held in state.bins:
        pairs = [(position, found.get(position)) for position in held]
        bins.append([Held(position, example) for position, example in pairs if isinstance(example, Example)])
    return [held for held in bins if held]


@dataclass
class LoaderState:
    """Where a process' loader stands: sequences given so far, a state by stream, and the tally of rows."""

    given: int = 0
    streams: dict[int, StreamState] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, a few kilobytes."""
        streams = {str(stream): state.to_dict() for stream, state in self.streams.items()}
        return {"given": self.given, "streams": streams, "tally": self.tally.to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LoaderState:
        """What :meth:`to_dict` described."""
        streams = {int(stream): StreamState.from_dict(state) for stream, state in values["streams"].items()}
        return cls(int(values["given"]), streams, Tally.from_dict(values["tally"]))


class PackLoader:
    """This process' endless sequences, with the state that a checkpoint needs.

    Args:
        source: Where examples come from.
        config: Lengths, streams, workers, share of broken rows.
        pad_id: Fills sequences up.
        state: From a checkpoint; ``None`` begins anew.
        share: ``(rank, processes)``.
        on_faults: Is given the broken rows before each sequence, for :class:`train.instruct.faults.FaultFile`.

    Raises:
        BabelRSError: The streams cannot be shared out evenly.
    """

    def __init__(
        self,
        source: Source,
        config: InstructConfig,
        pad_id: int,
        state: LoaderState | None = None,
        share: tuple[int, int] = (0, 1),
        on_faults: Callable[[tuple[Fault, ...]], object] | None = None,
    ) -> None:
        rank, processes = share
        if config.streams % (processes * max(1, config.workers)):
            raise BabelRSError(
                f"{config.streams} streams cannot be shared by {processes} processes of {config.workers} workers.",
                "Set streams to a multiple of processes times workers.",
            )
        self.source, self.config, self.pad_id, self.on_faults = source, config, pad_id, on_faults
        self.streams = list(range(rank, config.streams, processes))
        self.state = LoaderState() if state is None else state

    def __iter__(self) -> Iterator[Pack]:
        """Sequences from the state on.

        Raises:
            BabelRSError: Too many rows are broken.
        """
        first = self.state.given % len(self.streams)
        order = self.streams[first:] + self.streams[:first]
        states = [self.state.streams.get(stream, StreamState()) for stream in order]
        dataset = _Deliveries(self.source, self.config, self.pad_id, order, states)
        loader = DataLoader(
            dataset,
            batch_size=None,
            num_workers=self.config.workers,
            prefetch_factor=2 if self.config.workers else None,
            pin_memory=False,
            generator=torch.Generator(),  # otherwise it draws a seed from the model's, and a resumed run would differ
        )
        for delivery in loader:
            if isinstance(delivery, BabelRSError):
                raise delivery
            yield self._taken(delivery)

    def _taken(self, delivery: Delivery) -> Pack:
        if self.on_faults is not None and delivery.faults:
            self.on_faults(delivery.faults)
        state = self.state
        state.given += 1
        state.streams[delivery.stream] = delivery.state
        state.tally.add(delivery.rows, delivery.faults)
        state.tally.check(self.config.max_broken_share, self.config.broken_from_rows)
        return delivery.pack


class _Deliveries(IterableDataset[Any]):
    """The sequences of several streams in turn; a worker takes its share of the streams."""

    def __init__(
        self, source: Source, config: InstructConfig, pad_id: int, streams: list[int], states: list[StreamState]
    ) -> None:
        self.source, self.config, self.pad_id, self.streams, self.states = source, config, pad_id, streams, states

    def __iter__(self) -> Iterator[Delivery | BabelRSError]:
        worker = get_worker_info()
        first, step = (0, 1) if worker is None else (worker.id, worker.num_workers)
        if worker is not None:
            torch.set_num_threads(1)
        chosen = list(zip(self.streams, self.states, strict=True))[first::step]
        running = [deliveries(self.source, self.config, self.pad_id, *pair) for pair in chosen]
        try:
            for turn in count():
                yield next(running[turn % len(running)])
        except BabelRSError as error:
            yield BabelRSError(error.what, error.remedy)  # raised here, it would reach the user as a foreign traceback


def epoch_packs(source: MetaSource, config: InstructConfig, pad_id: int, tally: Tally) -> Iterator[Pack]:
    """One epoch's sequences once through, for measuring; ``tally`` counts its rows.

    Raises:
        BabelRSError: Too many rows are broken.
    """
    packer = Packer(config.max_length, config.pack_buffer)
    for position in range(source.mixture.epoch_size):
        outcome = source.at(position)
        tally.add(1, [outcome] if isinstance(outcome, Fault) else [])
        tally.check(config.max_broken_share, config.broken_from_rows)
        if isinstance(outcome, Example):
            given = packer.add((position,), outcome) if config.pack else [outcome]
            if given is not None:
                yield make_pack(given, config.max_length, pad_id)
    while (given := packer.flush()) is not None:
        yield make_pack(given, config.max_length, pad_id)
