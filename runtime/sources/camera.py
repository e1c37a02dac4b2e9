"""V4L2 cameras (``/dev/video0``) through OpenCV, which waits for a frame with a limit and keeps 16-bit counts."""

from __future__ import annotations

import os
import re
import stat
from dataclasses import dataclass
from typing import Any

import numpy as np

from babelrs.errors import BabelRSError
from babelrs.images import Frame, quiet_opencv
from runtime.sources.clock import Clock
from runtime.sources.live import Patience, Received, StreamFault

ADDRESS = re.compile(r"(/dev/(?:video\d+|v4l/[^?]+))(?:\?(.*))?")
"""A device, and settings after a question mark: ``/dev/video0?format=Y16&size=640x512&fps=30``."""

_GRAY = ("GREY", "Y10 ", "Y12 ", "Y14 ", "Y16 ")
_FORM = "Write it as in /dev/video0?format=Y16&size=640x512&fps=30; `v4l2-ctl --list-formats-ext` lists what it has."


@dataclass(frozen=True)
class CameraAddress:
    """A camera and how it is to be set.

    Attributes:
        device: The device file.
        fourcc: Pixel format as V4L2 calls it, four characters; ``None``: the driver's.
        size: Columns and rows; ``None``: what the driver makes of 640 x 480, which OpenCV asks for.
        fps: Frames a second; ``None``: the driver's.
    """

    device: str
    fourcc: str | None = None
    size: tuple[int, int] | None = None
    fps: float | None = None


def parse_camera(address: str) -> CameraAddress:
    """The camera that :data:`ADDRESS` means.

    Raises:
        BabelRSError: A setting is unknown or has no such value.
    """
    found = ADDRESS.fullmatch(address)
    if found is None:
        raise BabelRSError(f"{address}: no camera.", _FORM)
    device, text = found.groups()
    settings = dict(part.partition("=")[::2] for part in (text or "").split("&") if part)
    unknown = sorted(settings.keys() - {"format", "size", "fps"})
    if unknown:
        raise BabelRSError(f"{address}: unknown setting {', '.join(unknown)}.", _FORM)
    size = re.fullmatch(r"([1-9]\d{0,4})x([1-9]\d{0,4})", settings.get("size", "1x1"))
    fps = re.fullmatch(r"\d{1,4}(\.\d+)?", settings.get("fps", "1"))
    fourcc = settings.get("format", "GREY")
    if size is None or fps is None or float(fps.group()) <= 0 or not re.fullmatch(r"[ -~]{1,4}", fourcc):
        raise BabelRSError(f"{address}: a setting has no such value.", _FORM)
    return CameraAddress(
        device,
        fourcc.ljust(4) if "format" in settings else None,
        (int(size.group(1)), int(size.group(2))) if "size" in settings else None,
        float(fps.group()) if "fps" in settings else None,
    )


class CameraStream:
    """An open camera. Gray formats of 8 to 16 bits keep their counts, all others become R, G, B.

    Args:
        address: The camera and its settings.
        patience: When to give up.
        clock: Tells the time.

    Raises:
        StreamFault: It is not there, busy, or does not do what the settings ask.
    """

    def __init__(self, address: CameraAddress, patience: Patience, clock: Clock | None = None) -> None:
        self._cv2 = quiet_opencv()
        self._address = address
        self._patience = patience
        self._clock = clock or Clock()
        _check_device(address.device)
        self._capture = self._open()
        try:
            self._gray = self._configure()
        except StreamFault:
            self._capture.release()
            raise

    def receive(self) -> Received:
        """See :meth:`Stream.receive`."""
        begin = self._clock.monotonic()
        while self._clock.monotonic() - begin <= self._patience.stall_s:
            if not self._capture.grab():  # waits, at most for stall_s
                raise StreamFault("the camera gives no frame")
            start = self._clock.monotonic()
            whole, pixels = self._capture.retrieve()
            if whole and pixels is not None and pixels.size:
                return Received(Frame(self._counts(pixels), None, self._address.device), self._clock.ms_since(start))
        raise StreamFault(f"data comes, but no picture for {self._patience.stall_s:g} s")

    def close(self) -> None:
        """See :meth:`Stream.close`."""
        self._capture.release()

    def _open(self) -> Any:
        cv2 = self._cv2
        device = os.path.realpath(self._address.device)
        # read by OpenCV when it first waits for a frame; its own limit is 10 s
        os.environ.setdefault("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", str(max(1, round(self._patience.stall_s))))
        capture = cv2.VideoCapture(device, cv2.CAP_V4L2)
        if not capture.isOpened():
            capture.release()
            raise StreamFault(
                "the camera cannot be opened; another program may be using it, or it is no capture device"
            )
        return capture

    def _configure(self) -> bool:
        """Set the camera; whether it gives gray counts."""
        cv2, capture, address = self._cv2, self._capture, self._address
        if address.fourcc is not None:
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*address.fourcc))
        if address.size is not None:
            capture.set(cv2.CAP_PROP_FRAME_WIDTH, address.size[0])
            capture.set(cv2.CAP_PROP_FRAME_HEIGHT, address.size[1])
        if address.fps is not None:
            capture.set(cv2.CAP_PROP_FPS, address.fps)
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 2)  # more would be latency
        fourcc = int(capture.get(cv2.CAP_PROP_FOURCC)).to_bytes(4, "little").decode("latin-1")
        size = (int(capture.get(cv2.CAP_PROP_FRAME_WIDTH)), int(capture.get(cv2.CAP_PROP_FRAME_HEIGHT)))
        if address.fourcc not in (None, fourcc) or address.size not in (None, size):
            raise StreamFault(f"the camera gives {fourcc.strip()} of {size[0]}x{size[1]} px, not what was asked for")
        if fourcc in _GRAY:
            capture.set(cv2.CAP_PROP_CONVERT_RGB, 0)
        return fourcc in _GRAY

    def _counts(self, pixels: Any) -> Any:
        if self._gray:
            return np.ascontiguousarray(pixels.reshape(pixels.shape[:2]))
        return self._cv2.cvtColor(pixels, self._cv2.COLOR_BGR2RGB)


def _check_device(device: str) -> None:
    """Raises :class:`StreamFault` in words where OpenCV only says no."""
    try:
        mode = os.stat(device).st_mode
    except FileNotFoundError:
        raise StreamFault("no such camera; is it plugged in?") from None
    except OSError as error:
        raise StreamFault(f"the camera cannot be looked at ({error.strerror})") from None
    if not stat.S_ISCHR(mode):
        raise StreamFault("not a camera but a file of another kind")
    if not os.access(device, os.R_OK | os.W_OK):
        raise StreamFault("no permission to use the camera; add the user to the group `video`")
