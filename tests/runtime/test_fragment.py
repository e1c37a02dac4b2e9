"""What is written of a picture is what a muxer would write: times, durations, and units after their lengths."""

from __future__ import annotations

import struct
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.sinks.fragment import fragment, with_lengths
from runtime.sinks.video import VideoSink
from tests.runtime.test_sinks import BOXES, result

av = pytest.importorskip("av", reason="videos are read with PyAV, the video extra")

UNIT = st.binary(min_size=1, max_size=40).map(lambda data: data.replace(b"\0", b"\1"))  # none looks like a start code


@given(st.lists(st.tuples(UNIT, st.booleans()), min_size=1, max_size=5))
def test_units_stand_after_their_lengths_instead_of_start_codes(units: list[tuple[bytes, bool]]) -> None:
    stream = b"".join((b"\0" if is_long else b"") + b"\0\0\1" + unit for unit, is_long in units)
    left, found = with_lengths(stream), []
    while left:
        (size,) = struct.unpack(">I", left[:4])
        found.append(left[4 : 4 + size])
        left = left[4 + size :]
    assert found == [unit for unit, _ in units]


@given(
    st.integers(1, 2**32 - 1), st.integers(0, 2**62), st.integers(0, 2**32 - 1), st.binary(max_size=30), st.booleans()
)
def test_a_fragment_is_two_boxes_and_says_where_its_duration_and_its_picture_are(
    sequence: int, time: int, duration: int, sample: bytes, is_key: bool
) -> None:
    one = fragment(sequence, time, duration, sample, is_key)
    (size,) = struct.unpack(">I", one.data[:4])
    assert one.data[4:8] == b"moof" and one.data[size + 4 : size + 8] == b"mdat"
    assert one.data[size + 8 :] == sample and len(one.data) == size + 8 + len(sample)
    assert one.data[one.duration_at : one.duration_at + 4] == struct.pack(">I", duration)
    (offset,) = struct.unpack(">i", one.data[one.duration_at - 4 : one.duration_at])
    assert offset == size + 8


def test_each_picture_is_shown_until_the_next(tmp_path: Path) -> None:
    sink = VideoSink(tmp_path / "v.mp4")
    for number, offset_s in enumerate([0.0, 0.04, 0.1, 1.1]):
        sink.write(replace(result(BOXES, number), offset_s=offset_s))
    sink.close()
    with av.open(str(tmp_path / "v.mp4")) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
        shown = [float(packet.duration * packet.time_base) for packet in packets]
    assert shown == pytest.approx([0.04, 0.06, 1.0, 0.2]) and [packet.is_keyframe for packet in packets][:2] == [
        True,
        False,
    ]
