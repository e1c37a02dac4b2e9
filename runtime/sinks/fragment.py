"""Fragments of an MP4 file (ISO/IEC 14496-12, 8.8), each of one picture, and pictures as such files store them."""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

TRACK = 1
_DATA_OFFSET, _DURATION, _SIZE, _FLAGS = 0x1, 0x100, 0x200, 0x400  # what the run says of its one sample
_BASE_IS_MOOF = 0x020000
_KEY_FLAGS, _OTHER_FLAGS = 0x02000000, 0x01010000  # depends on no other; depends on others and cannot be sought to
_START_CODE = re.compile(rb"\x00\x00\x01")


@dataclass(frozen=True)
class Fragment:
    """A picture's fragment.

    Attributes:
        data: Its bytes.
        duration_at: Where in them the picture's duration stands, which the next picture decides.
    """

    data: bytes
    duration_at: int


def fragment(sequence: int, time: int, duration: int, sample: bytes, is_key: bool) -> Fragment:
    """The fragment of one picture.

    Args:
        sequence: Its number in the file, from 1.
        time: When the picture is shown, in units of the track.
        duration: How long, in the same units.
        sample: The picture as the file stores it.
        is_key: Whether it can be decoded alone.
    """
    header = _box(b"mfhd", struct.pack(">II", 0, sequence))
    track = _box(b"tfhd", struct.pack(">II", _BASE_IS_MOOF, TRACK))
    begin = _box(b"tfdt", struct.pack(">IQ", 0x01000000, time))
    of_sample = duration, len(sample), _KEY_FLAGS if is_key else _OTHER_FLAGS
    run_bytes = 8 + 4 * 6  # a box's head and the six numbers below
    moof_bytes = 16 + len(header) + len(track) + len(begin) + run_bytes
    flags = _DATA_OFFSET | _DURATION | _SIZE | _FLAGS
    run = _box(b"trun", struct.pack(">IIiIII", flags, 1, moof_bytes + 8, *of_sample))
    moof = _box(b"moof", header + _box(b"traf", track + begin + run))
    return Fragment(moof + _box(b"mdat", sample), moof_bytes - 12)


def packed_duration(duration: int) -> bytes:
    """What stands at :attr:`Fragment.duration_at`."""
    return struct.pack(">I", duration)


def with_lengths(annex_b: bytes) -> bytes:
    """H.264 units, each after its length instead of a start code (ISO/IEC 14496-15, 5.3.4.2; ITU-T H.264, annex B)."""
    # What is before a start code may be one zero more; no unit ends in one (7.4.1).
    units = (unit.rstrip(b"\0") for unit in _START_CODE.split(annex_b))
    return b"".join(struct.pack(">I", len(unit)) + unit for unit in units if unit)


def _box(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", 8 + len(content), kind) + content
