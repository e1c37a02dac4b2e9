"""Messages of a link: what they say, and how that is cut into pieces that a thin link carries one by one."""

from __future__ import annotations

import base64
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from runtime.pipeline import FrameResult
from runtime.sinks.jsonl import frame_record

MESSAGE_BYTES = 2048
"""Detections of one frame and priority are split above this: at 1 kB/s what is urgent waits two seconds at most."""
SOURCE_CHARACTERS = 120
"""Of a long source the end is kept."""
THUMBNAIL_SCHEMA = "babelrs.thumbnail/1"


@dataclass(frozen=True)
class Message:
    """What waits for the broker.

    Attributes:
        sequence: Its number in the spool, which rises with each.
        priority: 0, which goes first, to :data:`runtime.links.value.THUMBNAIL`.
        value: Within the priority, higher goes first.
        topic: Where it is published, without the prefix.
        payload: The bytes.
    """

    sequence: int
    priority: int
    value: float
    topic: str
    payload: bytes


@dataclass(frozen=True)
class Group:
    """Detections of one frame and priority.

    Attributes:
        result: The frame with these detections alone.
        priority: Theirs.
        value: That of the best.
        indices: ``(N,)`` their places in the frame.
    """

    result: FrameResult
    priority: int
    value: float
    indices: tuple[int, ...]


@dataclass(frozen=True)
class MessageId:
    """Tells a message from all others, so that what comes twice can be dropped.

    Attributes:
        origin: 32 bits, drawn when the spool was made.
        sequence: In that spool.
    """

    origin: int
    sequence: int

    def __str__(self) -> str:
        return f"{self.origin:08x}-{self.sequence}"


Encode = Callable[[Group, MessageId], bytes]


def grouped(result: FrameResult, worths: Sequence[tuple[int, float]]) -> list[Group]:
    """A frame's detections by priority, the best first in each; a frame without any has no group.

    Args:
        result: The frame.
        worths: Priority and value of each detection.
    """
    short = replace(result, source=result.source[-SOURCE_CHARACTERS:])
    groups = []
    for priority in sorted({priority for priority, _ in worths}):
        chosen = [index for index, (own, _) in enumerate(worths) if own == priority]
        chosen.sort(key=lambda index: -worths[index][1])
        groups.append(Group(_only(short, chosen), priority, worths[chosen[0]][1], tuple(chosen)))
    return groups


def pieces(group: Group, encode: Encode, identify: Callable[[], MessageId]) -> Iterator[tuple[Group, MessageId, bytes]]:
    """The group as one message or, where that is over :data:`MESSAGE_BYTES`, as several, the best first."""
    waiting = [group]
    while waiting:
        part = waiting.pop()
        identity = identify()
        data = encode(part, identity)
        count = len(part.indices)
        if len(data) <= MESSAGE_BYTES or count == 1:
            yield part, identity, data
        else:
            waiting += [_cut(part, count // 2, count), _cut(part, 0, count // 2)]


def _cut(group: Group, begin: int, end: int) -> Group:
    return replace(group, result=_only(group.result, list(range(begin, end))), indices=group.indices[begin:end])


def _only(result: FrameResult, indices: list[int]) -> FrameResult:
    chosen = np.array(indices, np.int64)
    places = result.places
    if places is not None:
        places = replace(
            places,
            lonlat=places.lonlat[chosen],
            length_m=places.length_m[chosen],
            width_m=places.width_m[chosen],
            heading_deg=places.heading_deg[chosen],
        )
    return replace(result, detections=result.detections.select(chosen), places=places)


def json_detections(group: Group, identity: MessageId) -> bytes:
    """Schema ``babelrs.detections/1``, as in JSON Lines, with ``id`` and ``priority``."""
    return _json({**frame_record(group.result), "id": str(identity), "priority": group.priority})


def json_thumbnail(jpeg: bytes, of: MessageId, identity: MessageId) -> bytes:
    """Schema ``babelrs.thumbnail/1``: a JPEG in base64 of the first detection of the message ``of``."""
    encoded = base64.b64encode(jpeg).decode()
    return _json({"schema": THUMBNAIL_SCHEMA, "id": str(identity), "of": str(of), "jpeg": encoded})


def _json(record: dict[str, Any]) -> bytes:
    return json.dumps(record, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
