"""A real drone clip is read to its end."""

from __future__ import annotations

import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from babelrs.sensors import Sensor
from runtime.sources.video import VideoFile, VideoSource
from tests.runtime.sources.builders import faults, usable

pytest.importorskip("av", reason="videos are read with PyAV, the video extra")
pytestmark = pytest.mark.realdata


def test_every_frame_comes_as_opencv_decodes_it(shared_data: Path) -> None:
    path = shared_data / "scenes" / "thermal_drone_heatmap_clip1.mp4"
    items = list(VideoSource("x", Sensor.RGB, [VideoFile(path, "clip_")]).captures(threading.Event()))
    assert faults(items) == []
    capture = cv2.VideoCapture(str(path))
    count = 0
    for item in usable(items):
        whole, expected = capture.read()
        assert whole
        found = item.raster.read(0, 0, 640, 512).pixels
        assert np.abs(found.astype(int) - expected[..., ::-1]).mean() < 1.0  # they round chroma differently
        assert item.offset_s == pytest.approx(count / 30, abs=1e-3)
        count += 1
    assert count == 420 and not capture.read()[0]


def test_a_real_clip_that_was_cut_says_so(shared_data: Path, tmp_path: Path) -> None:
    data = (shared_data / "scenes" / "thermal_drone_heatmap_clip1.mp4").read_bytes()
    (tmp_path / "cut.mp4").write_bytes(data[: len(data) // 2])
    source = VideoSource("x", Sensor.RGB, [VideoFile(tmp_path / "cut.mp4", "cut_")])
    assert faults(list(source.captures(threading.Event()))) == [("undecodable", 0)]
