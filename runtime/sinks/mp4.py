"""An MP4 file that grows picture by picture and can be played at any moment, also after the process was killed."""

from __future__ import annotations

from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from babelrs.errors import BabelRSError
from babelrs.images import quiet_opencv
from runtime.sinks import unwritable
from runtime.sinks.appending import AppendedFile
from runtime.sinks.fragment import fragment, packed_duration, with_lengths
from runtime.sinks.resumable import Mark
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
    # How a file of fragments begins, and nothing else: the fragments are made here, since the muxer holds each back
    # until the next picture comes, and a picture whose result is there could be lost.
    "movflags": "empty_moov+default_base_moof+skip_trailer",
    "flush_packets": "1",
}
_LIMITED_RANGE, _BT601 = 1, 6  # ITU-T H.273, what OpenCV's conversion gives


class Mp4File:
    """Writes pictures of one size.

    Every picture is a fragment of the file (ISO/IEC 14496-12, 8.8), appended whole or not at all, and there when
    :meth:`add` returns. How long a picture is shown is put right when the next one comes.

    Args:
        path: The file.
        width: Columns, even.
        height: Rows, even.
        mark: Where an earlier run's file goes on; ``None``: an older file is replaced.

    Raises:
        BabelRSError: PyAV is not installed, or has no encoder for pictures of this size.
        OtherEncoder: The earlier run's encoder was another, so that its file cannot go on.
    """

    def __init__(self, path: Path, width: int, height: int, mark: Mark | None = None) -> None:
        self._path, self._written = path, _Written()
        self._container, self._stream = _opened(path, self._written, width, height)
        self._head = self._written.taken()
        self._units = self._stream.time_base.denominator // _TIME_BASE.denominator
        self._file: AppendedFile | None = None
        self._last, self._sequence, self._duration_at = -1, 0, 0
        if mark is not None:
            self._go_on(mark)

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
        frame.pts, frame.time_base = max(self._last + 1, round(time_s / _TIME_BASE)), _TIME_BASE
        try:
            (packet,) = self._stream.encode(frame)  # none of the encoders holds a picture back
        except av.FFmpegError as error:
            what = f"{self._path}: a picture cannot be encoded ({reason(error)})."
            raise BabelRSError(what, "Leave out --save-video.") from None
        self._append(bytes(packet), frame.pts, bool(packet.is_keyframe))

    def mark(self) -> Mark:
        """Where it stands; only after the first picture."""
        assert self._file is not None
        last = {"last": self._last, "sequence": self._sequence, "duration_at": self._duration_at}
        return {"end": self._file.end, **last}

    def sync(self) -> None:
        """Bring it to the disk itself."""
        if self._file is not None:
            self._file.sync()

    def close(self) -> None:
        """Close the file."""
        self._container.close()
        if self._file is not None:
            self._file.close()

    def _append(self, picture: bytes, time: int, is_key: bool) -> None:
        if self._file is None:
            self._file = AppendedFile(self._path)
        if self._sequence:
            self._file.overwrite(self._duration_at, packed_duration((time - self._last) * self._units))
        sample = with_lengths(picture) if "264" in self._stream.codec_context.name else picture
        shown = round(INTERVAL_S / _TIME_BASE) * self._units
        one = fragment(self._sequence + 1, time * self._units, shown, sample, is_key)
        head = b"" if self._sequence else self._head  # no file is there without a picture
        at = self._file.end + len(head) + one.duration_at
        self._file.append(head + one.data)
        self._last, self._sequence, self._duration_at = time, self._sequence + 1, at

    def _go_on(self, mark: Mark) -> None:
        self._last, self._sequence, self._duration_at = mark["last"], mark["sequence"], mark["duration_at"]
        try:
            self._file = AppendedFile(self._path, end=mark["end"])
            with self._path.open("rb") as file:
                is_same = file.read(len(self._head)) == self._head
        except OSError as error:
            self.close()
            raise unwritable(self._path, error) from None
        except BabelRSError:
            self.close()
            raise
        if not is_same:
            self.close()
            raise OtherEncoder


class OtherEncoder(Exception):
    """An MP4 file describes its encoder once, at its beginning: pictures of another cannot follow."""


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
    """A muxer that has written how the file begins, and its stream, by the first encoder that opens.

    Raises:
        BabelRSError: None does.
    """
    av, faults = require_av(), []
    for codec, options in CODECS.items():
        container = av.open(written, "w", format="mp4", options=_MUXER)
        try:
            stream = _stream(container, codec, options, width, height)
            container.start_encoding()  # writes how the file begins
            return container, stream
        except (av.FFmpegError, ValueError) as error:  # an encoder that is not there is a ValueError
            faults.append(f"{codec}: {reason(error)}")
            container.close()
            written.taken()
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
