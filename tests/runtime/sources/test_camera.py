"""Camera addresses are parsed and cameras that cannot be used are explained.

A real camera is used where the machine has one at /dev/video0.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

import cv2
import numpy as np
import pytest

from babelrs.errors import BabelRSError
from runtime.sources.camera import CameraAddress, CameraStream, parse_camera
from runtime.sources.live import Patience, StreamFault


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("/dev/video0", CameraAddress("/dev/video0")),
        ("/dev/video2?format=Y16&size=640x512&fps=8.6", CameraAddress("/dev/video2", "Y16 ", (640, 512), 8.6)),
        (
            "/dev/v4l/by-id/usb-FLIR_Boson-video?format=MJPG",
            CameraAddress("/dev/v4l/by-id/usb-FLIR_Boson-video", "MJPG"),
        ),
    ],
)
def test_an_address_names_a_camera_and_its_settings(address: str, expected: CameraAddress) -> None:
    assert parse_camera(address) == expected


@pytest.mark.parametrize(
    "settings", ["sise=3x3", "size=640", "size=0x4", "fps=fast", "fps=0", "format=TOOLONG", "format="]
)
def test_wrong_settings_are_refused_with_the_right_form(settings: str) -> None:
    with pytest.raises(BabelRSError, match=r"/dev/video0\?format=Y16&size=640x512&fps=30"):
        parse_camera(f"/dev/video0?{settings}")


def test_a_camera_that_cannot_be_used_is_a_fault_in_words(tmp_path: Path) -> None:
    with pytest.raises(StreamFault, match="plugged in"):
        CameraStream(CameraAddress("/dev/video94"), Patience())
    with pytest.raises(StreamFault, match="a file of another kind"):
        CameraStream(CameraAddress(str(tmp_path)), Patience())
    with pytest.raises(StreamFault, match="cannot be opened"):
        CameraStream(CameraAddress("/dev/null"), Patience())


class FakeCapture:
    """What OpenCV gives for a V4L2 camera."""

    def __init__(self, fourcc: str, frames: list[np.ndarray]) -> None:
        self.settings: dict[int, float] = {
            cv2.CAP_PROP_FOURCC: float(int.from_bytes(fourcc.encode(), "little")),
            cv2.CAP_PROP_FRAME_WIDTH: 640,
            cv2.CAP_PROP_FRAME_HEIGHT: 480,
        }
        self._frames = iter(frames)
        self.released = False

    def set(self, key: int, value: float) -> bool:
        if key == cv2.CAP_PROP_CONVERT_RGB:
            self.settings[key] = value
        return True

    def get(self, key: int) -> float:
        return self.settings[key]

    def grab(self) -> bool:
        self._frame = next(self._frames, None)
        return self._frame is not None

    def retrieve(self) -> tuple[bool, np.ndarray | None]:
        return self._frame is not None and self._frame.size > 0, self._frame

    def release(self) -> None:
        self.released = True


def stream(monkeypatch: pytest.MonkeyPatch, capture: FakeCapture, address: CameraAddress) -> CameraStream:
    monkeypatch.setattr(CameraStream, "_open", lambda self: capture)
    return CameraStream(address, Patience())


def test_gray_formats_keep_their_counts_and_others_become_rgb(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = np.arange(12, dtype=np.uint16).reshape(3, 4, 1) * 4000
    thermal = FakeCapture("Y16 ", [np.empty((0, 0)), counts])
    frame = stream(monkeypatch, thermal, CameraAddress("/dev/null", "Y16 ")).receive().frame
    assert np.array_equal(frame.pixels, counts[..., 0]) and thermal.settings[cv2.CAP_PROP_CONVERT_RGB] == 0
    colour = FakeCapture("YUYV", [np.full((2, 2, 3), (10, 20, 30), np.uint8)])
    visible = stream(monkeypatch, colour, CameraAddress("/dev/null"))
    assert visible.receive().frame.pixels[0, 0].tolist() == [30, 20, 10]
    with pytest.raises(StreamFault, match="gives no frame"):
        visible.receive()
    visible.close()
    assert colour.released


@pytest.mark.parametrize("address", [CameraAddress("/dev/null", "Y16 "), CameraAddress("/dev/null", size=(320, 240))])
def test_a_camera_that_does_not_do_what_is_asked_says_what_it_does(
    monkeypatch: pytest.MonkeyPatch, address: CameraAddress
) -> None:
    capture = FakeCapture("YUYV", [])
    with pytest.raises(StreamFault, match="YUYV of 640x480 px"):
        stream(monkeypatch, capture, address)
    assert capture.released


def test_a_real_camera_gives_frames() -> None:
    device = "/dev/video0"
    if not (os.path.exists(device) and stat.S_ISCHR(os.stat(device).st_mode)):
        pytest.skip(f"no camera at {device}")
    camera = CameraStream(parse_camera(device), Patience())
    assert camera.receive().frame.pixels.size > 0
    camera.close()
