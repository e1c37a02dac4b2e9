"""Detections, dictionaries and thumbnails in few bytes: ``babelrs.compact/1``, laid out in ``docs/links.md``.

Every message is ``B5``, the version, the kind, a body and the CRC-32 of all before it. Whole numbers are varints: 7
bits a byte, the least significant first, the top bit set in all but the last; signed ones are zigzag.
"""

from __future__ import annotations

import base64
import math
import struct
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

import numpy as np

from babelrs.boxes import to_corners
from babelrs.errors import BabelRSError
from babelrs.sensors import Sensor
from runtime.links.message import THUMBNAIL_SCHEMA, Group, MessageId
from runtime.sinks.jsonl import SCHEMA
from runtime.sources.clock import utc_text

MAGIC, VERSION = 0xB5, 1
DETECTIONS, CLASSES, THUMBNAIL = 1, 2, 3
SCORE_STEPS, PIXEL_STEPS, ANGLE_STEPS, DEGREE_STEPS = 255, 8, 65_536, 10_000_000
"""Steps of a score from 0 to 1, a pixel, half a turn, a degree; a decoded value is at most half a step off."""
HEAD = bytes((MAGIC, VERSION))
_SENSORS = tuple(Sensor)
_LONGEST_VARINT = 9
_BEYOND = 2**52  # a coordinate further out is drawn in to this, in steps
_REMEDY = "Receive with the version that sent it, or send with --mqtt-encoding json."

Dictionaries = Mapping[int, Sequence[str]]


def dictionary_id(sensor: Sensor, classes: Sequence[str]) -> int:
    """32 bits that stand for a class list: the CRC-32 of the dictionary's body."""
    return zlib.crc32(_classes_body(sensor, classes))


def encode_classes(sensor: Sensor, classes: Sequence[str]) -> bytes:
    """The dictionary message of a class list."""
    return _framed(CLASSES, _classes_body(sensor, classes))


def encode_detections(group: Group, identity: MessageId) -> bytes:
    """One message of detections.

    Raises:
        ValueError: A number in it is not finite.
    """
    result, found = group.result, group.result.detections
    places = result.places
    known = np.zeros(len(found), bool) if places is None else places.known
    writer = _Writer(bytearray())
    writer.identity(identity)
    writer.data += struct.pack(
        "<IBB", dictionary_id(result.sensor, found.classes), _SENSORS.index(result.sensor), group.priority
    )
    writer.numbers(_epoch_ms(result.time), result.frame, result.width, result.height)
    writer.text(result.source)
    writer.numbers(len(found))
    for index, (box, score, label) in enumerate(zip(found.boxes, found.scores, found.labels, strict=True)):
        writer.numbers(2 * int(label) + int(known[index]))
        writer.data.append(_steps(float(np.clip(score, 0, 1)), SCORE_STEPS))
        writer.signed(*(_steps(float(value), PIXEL_STEPS) for value in box[:4]))
        turn = _steps(float(box[4]) / math.pi + 0.5, ANGLE_STEPS) % ANGLE_STEPS
        writer.data += struct.pack("<H", turn)
        if places is not None and known[index]:
            writer.signed(*_corner_steps(places.lonlat[index]))
    return _framed(DETECTIONS, bytes(writer.data))


def encode_thumbnail(jpeg: bytes, of: MessageId, identity: MessageId) -> bytes:
    """A JPEG of the first detection of the message ``of``."""
    writer = _Writer(bytearray())
    writer.identity(identity)
    writer.identity(of)
    return _framed(THUMBNAIL, bytes(writer.data) + jpeg)


@dataclass(frozen=True)
class ClassList:
    """A dictionary.

    Attributes:
        number: What messages call it.
        sensor: Whose classes these are.
        classes: Their names.
    """

    number: int
    sensor: Sensor
    classes: tuple[str, ...]


def decode_classes(data: bytes) -> ClassList:
    """A dictionary message.

    Raises:
        BabelRSError: These bytes are none.
    """
    body = _body(data, CLASSES)
    reader = _Reader(body)
    sensor = reader.sensor()
    classes = tuple(reader.text() for _ in range(reader.count()))
    reader.end()
    return ClassList(zlib.crc32(body), sensor, classes)


def decode(data: bytes, dictionaries: Dictionaries) -> dict[str, Any]:
    """A message of detections or a thumbnail as plain values, as if it had been sent as JSON.

    Engine, precision and latencies are not in it. Classes of a dictionary that is not there are called ``#0``, ...

    Args:
        data: The message.
        dictionaries: Class names by the dictionary's number.

    Raises:
        BabelRSError: These bytes are no such message.
    """
    kind = data[2] if len(data) > 2 else -1
    reader = _Reader(_body(data, kind))
    if kind == DETECTIONS:
        return _read_detections(reader, dictionaries)
    if kind == THUMBNAIL:
        identity, of = reader.identity(), reader.identity()
        jpeg = base64.b64encode(reader.rest()).decode()
        return {"schema": THUMBNAIL_SCHEMA, "id": identity, "of": of, "jpeg": jpeg}
    raise BabelRSError(f"A compact message of kind {kind} is not known.", _REMEDY)


def _read_detections(reader: _Reader, dictionaries: Dictionaries) -> dict[str, Any]:
    identity = reader.identity()
    number, place, priority = struct.unpack("<IBB", reader.take(6))
    if place >= len(_SENSORS):
        raise _broken(f"there is no sensor {place}")
    epoch_ms, frame, width, height = (reader.number() for _ in range(4))
    source = reader.text()
    classes = dictionaries.get(number, ())
    detections = [_read_detection(reader, classes) for _ in range(reader.count())]
    reader.end()
    return {
        "schema": SCHEMA,
        "source": source,
        "frame": frame,
        "time": _utc_text(epoch_ms),
        "sensor": _SENSORS[place].value,
        "width": width,
        "height": height,
        "detections": detections,
        "id": identity,
        "priority": priority,
    }


def _read_detection(reader: _Reader, classes: Sequence[str]) -> dict[str, Any]:
    label, is_placed = divmod(reader.number(), 2)
    score = reader.take(1)[0] / SCORE_STEPS
    sides = [reader.signed() / PIXEL_STEPS for _ in range(4)]
    angle = (struct.unpack("<H", reader.take(2))[0] / ANGLE_STEPS - 0.5) * math.pi
    try:
        corners = to_corners(np.array([[*sides, angle]], np.float64))[0]
    except ValueError as error:  # a negative side, or numbers beyond any image
        raise _broken(str(error)) from None
    record: dict[str, Any] = {
        "label": classes[label] if label < len(classes) else f"#{label}",
        "score": round(score, 6),
        "obb": [*(round(side, 3) for side in sides), round(angle, 6)],
        "polygon": [[round(float(x), 3), round(float(y), 3)] for x, y in corners],
    }
    if is_placed:
        record["lonlat"] = _read_corners(reader)
    return record


def _read_corners(reader: _Reader) -> list[list[float]]:
    lon, lat, turn = 0, 0, 360 * DEGREE_STEPS
    corners = []
    for _ in range(4):
        lon, lat = lon + reader.signed(), lat + reader.signed()
        if abs(lon) > turn // 2:
            lon -= turn * round(lon / turn)
        corners.append([lon / DEGREE_STEPS, lat / DEGREE_STEPS])
    return corners


def _corner_steps(corners: Any) -> list[int]:
    """Of ``(4, 2)`` longitudes and latitudes the first, and the way from each to the next, the shorter way round."""
    steps = [[_steps(float(value), DEGREE_STEPS) for value in corner] for corner in corners]
    ways: list[int] = []
    turn, before = 360 * DEGREE_STEPS, [0, 0]
    for corner in steps:
        way = corner[0] - before[0]
        if ways:
            way -= turn * round(way / turn)
        ways += [way, corner[1] - before[1]]
        before = corner
    return ways


def _steps(value: float, per_unit: int) -> int:
    if not math.isfinite(value):
        raise ValueError(f"{value} cannot be sent")
    return max(-_BEYOND, min(_BEYOND, round(value * per_unit)))


def _classes_body(sensor: Sensor, classes: Sequence[str]) -> bytes:
    writer = _Writer(bytearray((_SENSORS.index(sensor),)))
    writer.numbers(len(classes))
    for name in classes:
        writer.text(name)
    return bytes(writer.data)


def _epoch_ms(text: str) -> int:
    when = datetime.fromisoformat(text)
    return max(0, round(1e3 * when.replace(tzinfo=when.tzinfo or timezone.utc).timestamp()))


def _utc_text(epoch_ms: int) -> str:
    try:
        return utc_text(epoch_ms / 1e3)
    except (OverflowError, OSError, ValueError):
        raise _broken(f"there is no time {epoch_ms} ms") from None


def _framed(kind: int, body: bytes) -> bytes:
    data = HEAD + bytes((kind,)) + body
    return data + struct.pack("<I", zlib.crc32(data))


def _body(data: bytes, kind: int) -> bytes:
    if len(data) < 7 or data[0] != MAGIC:
        raise _broken("it does not begin as one")
    if data[1] != VERSION:
        raise BabelRSError(f"A compact message is of version {data[1]}, not {VERSION}.", _REMEDY)
    if struct.unpack("<I", data[-4:])[0] != zlib.crc32(data[:-4]):
        raise _broken("its CRC is wrong")
    if data[2] != kind:
        raise _broken(f"it is of kind {data[2]}, not {kind}")
    return data[3:-4]


def _broken(why: str) -> BabelRSError:
    return BabelRSError(f"A compact message cannot be read: {why}.", _REMEDY)


@dataclass
class _Writer:
    data: bytearray

    def numbers(self, *values: int) -> None:
        for value in values:
            while value > 0x7F:
                self.data.append(value & 0x7F | 0x80)
                value >>= 7
            self.data.append(value)

    def signed(self, *values: int) -> None:
        self.numbers(*(2 * value if value >= 0 else -2 * value - 1 for value in values))

    def text(self, text: str) -> None:
        encoded = text.encode()
        self.numbers(len(encoded))
        self.data += encoded

    def identity(self, identity: MessageId) -> None:
        self.data += struct.pack("<I", identity.origin)
        self.numbers(identity.sequence)


class _Reader:
    """Takes a body apart.

    Raises:
        BabelRSError: It ends too early, or holds what no writer writes; in any method.
    """

    def __init__(self, body: bytes) -> None:
        self._body, self._at = body, 0

    def take(self, count: int) -> bytes:
        if count > len(self._body) - self._at:
            raise _broken("it ends too early")
        self._at += count
        return self._body[self._at - count : self._at]

    def rest(self) -> bytes:
        return self.take(len(self._body) - self._at)

    def end(self) -> None:
        if self._at != len(self._body):
            raise _broken("it goes on after its end")

    def number(self) -> int:
        value = 0
        for place in range(_LONGEST_VARINT):
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << 7 * place
            if byte < 0x80:
                return value
        raise _broken("a number is too long")

    def signed(self) -> int:
        number = self.number()
        return -(number + 1) // 2 if number & 1 else number // 2

    def count(self) -> int:
        """Of things that take a byte each at least."""
        count = self.number()
        if count > len(self._body) - self._at:
            raise _broken(f"it cannot hold {count} entries")
        return count

    def text(self) -> str:
        try:
            return self.take(self.number()).decode()
        except UnicodeDecodeError:
            raise _broken("a text is not UTF-8") from None

    def identity(self) -> str:
        return str(MessageId(struct.unpack("<I", self.take(4))[0], self.number()))

    def sensor(self) -> Sensor:
        place = self.take(1)[0]
        if place >= len(_SENSORS):
            raise _broken(f"there is no sensor {place}")
        return _SENSORS[place]
