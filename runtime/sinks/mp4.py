"""An MP4 file that grows picture by picture and can be played at any moment, also after the process was killed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from babelrs.errors import BabelRSError
from babelrs.images import quiet_opencv
from runtime.sinks.appending import AppendedFile
from runtime.sources.libav import reason, require_av

CODECS: Mapping[str, Mapping[str, str]] = {
    "libx264": {"preset": "veryfast", "tune": "zerolatency", "crf": "23"},
    "libopenh264": {"b": "4M"},  # where libav was built without GPL parts
    "mpeg4": {"flags": "+qscale", "global_quality": str(4 * 118)},  # always there; a quantizer of 4
}
"""Encoders, best first, and their settings. None holds pictures back, and none reorders them."""
INTERVAL_S = 0.2
"""How long the last picture is shown."""
KEY_INTERVAL = 25
"""Pictures from one that can be sought to the next."""

_TIME_BASE = Fraction(1, 1000)  # MPEG-4 Part 2 knows nothing finer than 1/65535 s
_MUXER = {
    # A fragment for every picture, written whole, and nothing that grows with their number: no index is kept.
    "movflags": "empty_moov+default_base_moof+frag_every_frame+skip_trailer",
    "flush_packets": "1",
}
_LIMITED_RANGE, _BT601 = 1, 6  # ITU-T H.273, what OpenCV's conversion gives


class Mp4File:
    """Writes pictures of one size.

    Every picture is a fragment of the file (ISO/IEC 14496-12, 8.8), appended whole or not at all. The muxer holds a
    fragment back until the next picture comes: the file is there from the second picture on, and has all but the last.

    Args:
        path: The file; an older one is replaced.
        width: Columns, even.
        height: Rows, even.

    Raises:
        BabelRSError: PyAV is not installed, or has no encoder for pictures of this size.
    """

    def __init__(self, path: Path, width: int, height: int) -> None:
        self._path, self._written = path, _Written()
        self._file: AppendedFile | None = None
        self._container, self._stream = _opened(path, self._written, width, height)
        self._num_packets, self._last, self._broken = 0, -1, False

    def add(self, picture: npt.NDArray[np.uint8], time_s: float) -> None:
        """Add a picture.

        Args:
            picture: ``(H, W, 3)`` blue, green, red.
            time_s: When it is shown, seconds since the start; at least a millisecond after the one before.

        Raises:
            BabelRSError: It cannot be encoded or written; the file plays up to the picture before.
        """
        av, cv2 = require_av(), quiet_opencv()
        frame = av.VideoFrame.from_ndarray(cv2.cvtColor(picture, cv2.COLOR_BGR2YUV_I420), format="yuv420p")
        self._last = frame.pts = max(self._last + 1, round(time_s / _TIME_BASE))
        frame.time_base = _TIME_BASE
        self._mux(frame)
        if self._num_packets > 1:
            self._append()

    def close(self) -> None:
        """Bring the last picture to disk and close the file.

        Raises:
            BabelRSError: It cannot be written.
        """
        try:
            if not self._broken:
                self._mux(None)
            self._container.close()
            if self._num_packets and not self._broken:
                self._append()
        finally:
            if self._file is not None:
                self._file.close()

    def _mux(self, frame: Any) -> None:
        try:
            for packet in self._packets(frame):
                self._container.mux(packet)
        except require_av().FFmpegError as error:
            self._broken = True
            what = f"{self._path}: a picture cannot be encoded ({reason(error)})."
            raise BabelRSError(what, "Leave out --save-video.") from None

    def _packets(self, frame: Any) -> Iterator[Any]:
        for packet in self._stream.encode(frame):
            self._num_packets += 1
            yield packet

    def _append(self) -> None:
        try:
            if self._file is None:
                self._file = AppendedFile(self._path)
            self._file.append(self._written.taken())
        except BabelRSError:
            self._broken = True
            raise


class _Written:
    """What the muxer takes for a file that cannot be sought in; keeps what is written until it is taken."""

    def __init__(self) -> None:
        self._bytes = bytearray()

    def write(self, data: bytes) -> int:
        """Keep some bytes; their number."""
        self._bytes += data
        return len(data)

    def taken(self) -> bytes:
        """All that was written since the last time."""
        data = bytes(self._bytes)
        self._bytes.clear()
        return data


def _opened(path: Path, written: _Written, width: int, height: int) -> tuple[Any, Any]:
    """A muxer and its stream, by the first encoder that opens.

    Raises:
        BabelRSError: None does.
    """
    av, faults = require_av(), []
    for codec, options in CODECS.items():
        container = av.open(written, "w", format="mp4", options=_MUXER)
        try:
            return container, _stream(container, codec, options, width, height)
        except (av.FFmpegError, ValueError) as error:  # an encoder that is not there is a ValueError
            faults.append(f"{codec}: {reason(error)}")
            container.close()
    what = f"{path}: no encoder takes pictures of {width}x{height} px ({'; '.join(faults)})."
    raise BabelRSError(what, "Install PyAV's own wheel, or leave out --save-video.")


def _stream(container: Any, codec: str, options: Mapping[str, str], width: int, height: int) -> Any:
    stream = container.add_stream(codec, rate=round(1 / INTERVAL_S))  # how long the last picture is shown
    stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
    stream.time_base, stream.options = _TIME_BASE, dict(options)
    context = stream.codec_context
    context.time_base, context.gop_size, context.max_b_frames = _TIME_BASE, KEY_INTERVAL, 0
    context.thread_count = 1  # the cores are the engine's
    context.color_range, context.colorspace = _LIMITED_RANGE, _BT601
    context.open()
    return stream
