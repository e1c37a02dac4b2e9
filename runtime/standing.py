"""How far a run has come: what every source gave, which numbers are used, where every sink stands."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from runtime.journal import Record
from runtime.sinks.resumable import Mark
from runtime.sources.past import Numbers, Past

SCHEMA = "babelrs.journal/1"
MARKS, OVER, PAST, SETTINGS = "marks", "over", "past", "settings"


@dataclass(frozen=True)
class Ended:
    """An image of which all is written, or that was counted as unusable.

    Attributes:
        source: Place of its source among all.
        sensor: Its sensor.
        number: Its number among those of its sensor.
        sequence: Its number in its source.
        key: As in :class:`runtime.sources.Capture`.
        stem: As in :class:`runtime.sources.Capture`.
        is_used: Whether it has a result.
    """

    source: int
    sensor: str
    number: int
    sequence: int
    key: str
    stem: str
    is_used: bool


@dataclass
class Standing:
    """How far a run has come.

    Attributes:
        settings: What decides its outputs.
        pasts: What each source gave, by its place among all.
        numbers: Numbers of images, by sensor.
        marks: Where the sinks of a sensor stand, in their order, by sensor.
        is_over: Whether it came to its end.
    """

    settings: Mapping[str, Any]
    pasts: dict[int, Past] = field(default_factory=dict)
    numbers: dict[str, Numbers] = field(default_factory=dict)
    marks: dict[str, Sequence[Mark]] = field(default_factory=dict)
    is_over: bool = False

    @property
    def num_images(self) -> int:
        """Images of which all is written, or that were counted as unusable."""
        return sum(past.num_images + past.num_skipped for past in self.pasts.values())

    def past(self, source: int) -> Past:
        """What a source gave."""
        return self.pasts.setdefault(source, Past())

    def numbers_of(self, sensor: str) -> Numbers:
        """The numbers of a sensor's images."""
        return self.numbers.setdefault(sensor, Numbers())

    def add(self, record: Record) -> None:
        """Go on by a record."""
        if MARKS in record:
            self.marks[record["sensor"]] = record[MARKS]
        if "source" in record:
            self._end(record)
        self.is_over = record.get(OVER, False)
        for past in self.pasts.values():
            past.is_over = self.is_over

    def _end(self, record: Record) -> None:
        past, sequence, sensor = self.past(record["source"]), record["sequence"], record["sensor"]
        past.add(record.get("key", past.last_key), record.get("stem", ""), sequence, record.get("used", True))
        self.numbers_of(sensor).add(record["number"])


def head_of(settings: Mapping[str, Any]) -> Record:
    """The first record."""
    return {"schema": SCHEMA, SETTINGS: settings}


def record_of(one: Ended, marks: Sequence[Mark] | None, last_key: str | None) -> Record:
    """The record of an image.

    Args:
        one: The image.
        marks: Where its sensor's sinks stand after it; ``None``: where they stood.
        last_key: The key of its source's image before.
    """
    record: dict[str, Any] = {"source": one.source, "sensor": one.sensor, "number": one.number}
    record["sequence"] = one.sequence
    if one.key != last_key:
        record |= {"key": one.key, "stem": one.stem} if one.stem else {"key": one.key}
    if not one.is_used:
        record["used"] = False
    return record if marks is None else record | {MARKS: marks}


def standing_after(records: Iterable[Record]) -> Standing | None:
    """How far a run came by its records; ``None`` where the first is not there or is of another version."""
    each = iter(records)
    head = next(each, {})
    if head.get("schema") != SCHEMA:
        return None
    standing = Standing(head[SETTINGS])
    for record in each:
        if PAST in record:
            standing.pasts[record[PAST]] = Past(**record["of"])
        elif "missing" in record:
            standing.numbers[record["sensor"]] = Numbers(record["next"], set(record["missing"]))
        else:
            standing.add(record)
    return standing


def records_for(standing: Standing) -> Iterator[Record]:
    """Records that say the same as all that led there, and fewer."""
    yield head_of(standing.settings)
    for source, past in standing.pasts.items():
        yield {PAST: source, "of": asdict(past)}
    for sensor, numbers in standing.numbers.items():
        yield {"sensor": sensor, "next": numbers.next, "missing": sorted(numbers.missing)}
    for sensor, marks in standing.marks.items():
        yield {"sensor": sensor, MARKS: marks}
    if standing.is_over:
        yield {OVER: True}
