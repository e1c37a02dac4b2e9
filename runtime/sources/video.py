"""Video files: every frame in order, and what is left of files that were cut or damaged."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from babelrs.images import ImageError
from babelrs.sensors import Sensor
from runtime.raster import FrameRaster
from runtime.sources import Capture, Unusable
from runtime.sources.clock import Clock, utc_text
from runtime.sources.libav import frame_of, reason, require_av
from runtime.sources.past import Past, unlike

VIDEO_SUFFIXES = (".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".ts", ".m2ts", ".mts", ".mpg", ".mpeg", ".mjpeg")

_COPY_AGAIN = "Copy the file again, or repair it with `ffmpeg -i FILE -c copy NEW_FILE`."


@dataclass(frozen=True)
class VideoFile:
    """A video to process.

    Attributes:
        path: The file.
        prefix: What names of files about its frames begin with.
        begin: The first frame that is given; those before are decoded and left out.
    """

    path: Path
    prefix: str
    begin: int = 0

    @property
    def key(self) -> str:
        """What tells it from all other files, wherever a later run is started."""
        return os.path.abspath(self.path)


class VideoSource:
    """Video files, one after the other. What cannot be decoded is reported, and the rest is given.

    Frames may change their size within a file; each comes with its own. Rotation that a file asks viewers for is not
    applied: boxes are in pixels of the picture as stored.

    Args:
        name: As the command line called it.
        sensor: What took the videos.
        files: The files, in the order in which they are read.
        clock: Tells the time.

    Raises:
        BabelRSError: PyAV is not installed.
    """

    live = False
    dropped = 0

    def __init__(self, name: str, sensor: Sensor, files: Sequence[VideoFile], clock: Clock | None = None) -> None:
        require_av()
        self.name = name
        self.sensor = sensor
        self._files = tuple(files)
        self._clock = clock or Clock()
        self._first = 0

    def resumed(self, past: Past) -> VideoSource:
        """See :meth:`Source.resumed`; only the file whose frames were the last is looked into."""
        taken = set(past.stems.values())  # a file that came since may be called like one of them
        files = []
        for file in self._files:
            if file.key not in past.counts:
                files.append(replace(file, prefix=unlike(file.prefix, taken, "_")))
            elif file.key == past.last_key and not past.is_over:
                files.append(replace(file, prefix=past.stems[file.key], begin=past.counts[file.key]))
        source = VideoSource(self.name, self.sensor, files, self._clock)
        source._first = past.next_sequence
        return source

    def captures(self, stop: threading.Event) -> Iterator[Capture | Unusable]:
        """See :meth:`Source.captures`."""
        sequence = self._first
        for file in self._files:
            for number, item in enumerate(self._frames(file), file.begin):
                if isinstance(item, ImageError):
                    yield Unusable(str(file.path), item, sequence, file.key, file.prefix)
                else:
                    picture, read_ms = item
                    yield self._capture(file, number, sequence, picture, read_ms)
                sequence += 1
                if stop.is_set():
                    return

    def close(self) -> None:
        """Files are closed as each ends."""

    def _capture(self, file: VideoFile, number: int, sequence: int, picture: _Picture, read_ms: float) -> Capture:
        time = self._clock.now() if picture.taken_at is None else picture.taken_at
        name = f"{file.prefix}{number:06d}"
        return Capture(
            picture.raster,
            str(file.path),
            name,
            self.sensor,
            sequence,
            utc_text(time),
            read_ms,
            picture.offset_s,
            file.key,
            file.prefix,
        )

    def _frames(self, file: VideoFile) -> Iterator[tuple[_Picture, float] | ImageError]:
        """Every picture with the milliseconds it took; errors where something is wrong."""
        start = self._clock.monotonic()
        try:
            container = _opened(file.path)
        except ImageError as error:
            if file.begin != 1:  # else it was said before; a file with frames has become another since
                yield error
            return
        with closing(container):
            for item in islice(_decoded(container, file.path), file.begin, None):
                if isinstance(item, ImageError):
                    yield item
                    continue
                source = f"{file.path}, {_at(item)}"
                raster = FrameRaster(frame_of(item, self.sensor, source))
                yield _Picture(raster, item.time, _taken_at(container, item)), self._clock.ms_since(start)
                start = self._clock.monotonic()


@dataclass(frozen=True)
class _Picture:
    raster: FrameRaster
    offset_s: float | None
    taken_at: float | None


def _opened(path: Path) -> Any:
    """An ``av`` container with a video stream.

    Raises:
        ImageError: There is none.
    """
    av = require_av()
    try:
        if path.stat().st_size == 0:
            raise ImageError("empty", path, "an empty file (0 bytes).", "Copy the file again, or leave it out.")
        container = av.open(f"file:{path}")  # a colon in the name is no protocol then
    except FileNotFoundError:
        raise ImageError("missing", path, "no such file.", "Check the path.") from None
    except (OSError, av.FFmpegError) as error:
        what = f"no video that can be read ({reason(error)})."
        raise ImageError("undecodable", path, what, f"Where it was cut, its index is missing. {_COPY_AGAIN}") from None
    if not container.streams.video:
        kinds = ", ".join(sorted({stream.type for stream in container.streams})) or "nothing"
        container.close()
        raise ImageError("format", path, f"no video stream; it holds {kinds}.", "Name a video file.")
    container.streams.video[0].thread_type = "AUTO"
    return container


def _decoded(container: Any, path: Path) -> Iterator[Any]:
    """``av.VideoFrame`` objects, and an :class:`ImageError` for each that is broken and for an early end."""
    av = require_av()
    stream, end, num_frames = container.streams.video[0], 0.0, 0
    packets = container.demux(stream)
    while True:
        try:
            packet = next(packets)
            pictures = packet.decode()
        except StopIteration:
            break
        except av.FFmpegError as error:
            yield _damaged(path, f"after {end:.3f} s: {reason(error)}")
            continue
        for picture in pictures:
            num_frames += 1
            end = _end_of(picture, stream, end)
            yield _damaged(path, _at(picture)) if picture.is_corrupt else picture
    yield from _missing_end(container, stream, path, end, num_frames)


def _end_of(picture: Any, stream: Any, end: float) -> float:
    if picture.time is None:
        return end
    length = getattr(picture, "duration", None)  # newer versions of PyAV tell it
    duration = float(length * picture.time_base) if length else 0.0
    return max(end, float(picture.time) + duration)


def _missing_end(container: Any, stream: Any, path: Path, end: float, num_frames: int) -> Iterator[ImageError]:
    """An error where the file promises more than it holds."""
    if num_frames == 0:
        yield ImageError("empty", path, "a video without a picture.", _COPY_AGAIN)
        return
    promised = _promised_s(container, stream)
    frame_s = 1 / float(stream.average_rate) if stream.average_rate else 0.5
    if promised is not None and end < promised - 2 * frame_s:
        what = f"a truncated video: its pictures end after {end:.3f} of {promised:.3f} s (frame {num_frames})."
        yield ImageError("truncated", path, what, f"What came before was used. {_COPY_AGAIN}")


def _promised_s(container: Any, stream: Any) -> float | None:
    """When the last picture should end, in seconds, where the file says so."""
    begin = float((stream.start_time or 0) * stream.time_base)
    if stream.duration:
        return begin + float(stream.duration * stream.time_base)
    alone = len(container.streams) == 1  # else the sound may be what lasts
    return container.duration / 1e6 + begin if container.duration and alone else None


def _taken_at(container: Any, picture: Any) -> float | None:
    """Seconds since 1970, from the time of creation that cameras record."""
    text = container.metadata.get("creation_time")
    try:
        begin = datetime.fromisoformat(text.replace("Z", "+00:00")) if text else None
    except ValueError:
        return None
    if begin is None or begin.year < 1980 or picture.time is None:  # 1970 and 1904 are clocks that were never set
        return None
    return begin.timestamp() + float(picture.time)


def _at(picture: Any) -> str:
    return "a frame without time" if picture.time is None else f"frame at {picture.time:.3f} s"


def _damaged(path: Path, where: str) -> ImageError:
    return ImageError("damaged", path, f"damaged video data ({where}).", _COPY_AGAIN)
