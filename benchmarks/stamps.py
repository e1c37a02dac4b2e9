"""Frames that tell when they were made: bits drawn as large black and white squares, which compression leaves alone.

Standard library only: the RTSP server draws them with the system's Python.
"""

from __future__ import annotations

from typing import Any

GRID = 8
"""Squares a side; 64 bits in all."""
_BITS = GRID * GRID
_BLACK, _WHITE = 16, 235


def draw(number: int, side_px: int) -> bytes:
    """The low 64 bits of ``number`` as ``(side_px, side_px)`` gray pixels; ``side_px`` is a multiple of 8."""
    cell = side_px // GRID
    picture = bytearray()
    for row in range(GRID):
        shades = (_WHITE if number >> (row * GRID + column) & 1 else _BLACK for column in range(GRID))
        picture += b"".join(bytes([shade]) * cell for shade in shades) * cell
    return bytes(picture)


def read(rows: Any, side_px: int) -> int:
    """The number in a picture that :func:`draw` made, from the middle of each square of ``(side_px, side_px)`` gray."""
    cell = side_px // GRID
    number = 0
    for bit in range(_BITS):
        row, column = divmod(bit, GRID)
        middle = rows[row * cell + cell // 2][column * cell + cell // 2]
        number |= (int(middle) > 128) << bit
    return number


def pack(sequence: int, time_us: int) -> int:
    """A frame's number (16 bits, wraps) and when it was made, in microseconds of the monotonic clock (48 bits)."""
    return (sequence & 0xFFFF) << 48 | time_us & 0xFFFFFFFFFFFF


def unpack(number: int) -> tuple[int, int]:
    """``(sequence, time_us)`` of :func:`pack`."""
    return number >> 48, number & 0xFFFFFFFFFFFF
