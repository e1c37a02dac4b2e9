"""The live benchmark reads back what its server draws, and says which limit was missed."""

from __future__ import annotations

import cv2
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.live import missed_limits
from benchmarks.stamps import draw, pack, read, unpack


@given(st.integers(0, 2**16 - 1), st.integers(0, 2**48 - 1), st.sampled_from([64, 160, 640]))
def test_a_stamp_survives_hard_compression(sequence: int, time_us: int, side_px: int) -> None:
    picture = np.frombuffer(draw(pack(sequence, time_us), side_px), np.uint8).reshape(side_px, side_px)
    jpeg = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 20])[1]
    decoded = cv2.imdecode(jpeg, cv2.IMREAD_GRAYSCALE)
    assert unpack(read(decoded, side_px)) == (sequence, time_us)


def entry(p99: float, growth_mb: float, most: float = 2.0) -> dict[str, object]:
    segments = [{"late_frames": {"p99": 1.0}}, {"late_frames": {"p99": p99}}]
    return {
        "receiver": "libav",
        "consumer_ms": 20.0,
        "most_frames_late": most,
        "memory_growth_mb": growth_mb,
        "segments": segments,
    }


def test_late_frames_and_growing_memory_are_missed_limits() -> None:
    assert missed_limits([entry(1.9, 3.0), entry(2.5, 0.0, most=3.0)]) == []
    late, grown = missed_limits([entry(2.5, 30.0)])
    assert "libav, consumer of 20 ms, segment 1" in late and "2.50 frames" in late and "30.0 MB" in grown
