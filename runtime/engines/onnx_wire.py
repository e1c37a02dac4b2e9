"""ONNX files read and written as protobuf fields, without the onnx package: on board there is none.

A message is the list of its fields in their order. What an edit does not touch is written back byte for byte, fields
that this module has never heard of included. Field numbers are those of ``onnx.proto``; wire types those of Protocol
Buffers' encoding.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from babelrs.errors import BabelRSError

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_FIXED_BYTES = {FIXED64: 8, FIXED32: 4}
_MOST_VARINT_BYTES = 10
MOST_FIELDS = 1 << 18
"""Fields of one message: a graph's nodes are thousands."""
MOST_NUMBERS = 1 << 24
"""Numbers of one packed field; most weights are raw bytes."""
MAX_GRAPH_BYTES = (2 << 30) - 1
"""What Protocol Buffers read; weights beyond that are external."""


class Field(NamedTuple):
    """A field: its number, wire type, and value: an int of a varint, else the bytes."""

    number: int
    wire_type: int
    value: int | bytes


Message = list[Field]


def read_message(data: bytes) -> Message:
    """The fields of a message.

    Raises:
        BabelRSError: The bytes are no protobuf message.
    """
    fields: Message = []
    place = 0
    while place < len(data):
        key, place = _read_varint(data, place)
        number, wire_type = key >> 3, key & 7
        if not 0 < number < 1 << 29:  # others are cut to 32 bits by some readers, which then see another field
            raise _damaged(f"field number {number} at byte {place}")
        if len(fields) == MOST_FIELDS:
            raise _damaged(f"a message of more than {MOST_FIELDS} fields")
        if wire_type == VARINT:
            value, place = _read_varint(data, place)
            fields.append(Field(number, wire_type, value))
            continue
        if wire_type == BYTES:
            size, place = _read_varint(data, place)
        elif wire_type in _FIXED_BYTES:
            size = _FIXED_BYTES[wire_type]
        else:
            raise _damaged(f"wire type {wire_type} at byte {place}")
        if place + size > len(data):
            raise _damaged(f"field {number} of {size} bytes at byte {place} of {len(data)}")
        fields.append(Field(number, wire_type, data[place : place + size]))
        place += size
    return fields


def write_message(fields: Iterable[Field]) -> bytes:
    """The bytes of a message."""
    parts = []
    for number, wire_type, value in fields:
        parts.append(_varint(number << 3 | wire_type))
        if isinstance(value, int):
            parts.append(_varint(value))
        elif wire_type == BYTES:
            parts += [_varint(len(value)), value]
        else:
            parts.append(value)
    return b"".join(parts)


def texts(message: Sequence[Field], number: int) -> list[str]:
    """The strings of a repeated field.

    Raises:
        BabelRSError: One is no UTF-8 text.
    """
    try:
        return [blob.decode("utf-8") for blob in blobs(message, number)]
    except UnicodeDecodeError as error:
        raise _damaged(f"field {number} is no text ({error.reason})") from None


def text(message: Sequence[Field], number: int) -> str:
    """The string of a field; empty where it is not set. The last one counts, as in protobuf."""
    return (texts(message, number) or [""])[-1]


def blobs(message: Sequence[Field], number: int) -> list[bytes]:
    """The bytes of a repeated field: strings, messages or packed numbers."""
    return [field.value for field in message if field.number == number and isinstance(field.value, bytes)]


def integer(message: Sequence[Field], number: int, default: int = 0) -> int:
    """The integer of a field, signed as int64."""
    return (integers(message, number) or [default])[-1]


def integers(message: Sequence[Field], number: int) -> list[int]:
    """The integers of a repeated field, packed or not, signed as int64.

    Raises:
        BabelRSError: A packed one is damaged, or they are too many.
    """
    found: list[int] = []
    for field in message:
        if field.number != number:
            continue
        if isinstance(field.value, int):
            found.append(_signed(field.value))
        else:
            place = 0
            while place < len(field.value):
                if len(found) == MOST_NUMBERS:
                    raise _damaged(f"field {number} of more than {MOST_NUMBERS} numbers")
                value, place = _read_varint(field.value, place)
                found.append(_signed(value))
    return found


def text_field(number: int, value: str) -> Field:
    """A string field."""
    return Field(number, BYTES, value.encode("utf-8"))


def integer_field(number: int, value: int) -> Field:
    """An integer field; negative values as int64."""
    return Field(number, VARINT, value & (1 << 64) - 1)


def _read_varint(data: bytes, place: int) -> tuple[int, int]:
    value = 0
    for index in range(_MOST_VARINT_BYTES):
        if place + index >= len(data):
            break
        byte = data[place + index]
        value |= (byte & 0x7F) << 7 * index
        if byte < 0x80:
            return value & (1 << 64) - 1, place + index + 1
    raise _damaged(f"a number at byte {place} of {len(data)} does not end")


def _varint(value: int) -> bytes:
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >> 63 else value


def _damaged(what: str) -> BabelRSError:
    return BabelRSError(f"Not an ONNX file: {what}.", "Check the bundle with babelrs-verify, or fetch it again.")
