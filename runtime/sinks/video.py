"""Annotated pictures as a video, one for every source."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import numpy as np
import numpy.typing as npt

from babelrs.errors import BabelRSError
from runtime.pipeline import FrameResult
from runtime.sinks import unwritable
from runtime.sinks.image import annotate, display_scale
from runtime.sinks.mp4 import INTERVAL_S, Mp4File
from runtime.sources.libav import require_av

LONGEST_PX = 1920
"""A longer side of a picture is reduced to this: decoders of small devices take no more, and encoding costs time."""

Picture = npt.NDArray[np.uint8]


class VideoSink:
    """Writes ``video.SENSOR.mp4``; of a sensor's second source ``video.SENSOR.2.mp4``, and so on.

    The size is that of the first annotated picture; later pictures of another size are fitted into it, with black
    around them. Pictures are shown when they were taken, where that is known (streams, cameras, video files), else for
    a fifth of a second each.

    Args:
        path: The file of the first source; an older one is removed.

    Raises:
        BabelRSError: PyAV is not installed, or the older file cannot be removed.
    """

    def __init__(self, path: Path) -> None:
        require_av()
        self._path = path
        self._movies: dict[int, _Movie] = {}
        try:
            path.unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(path, error) from None

    def write(self, result: FrameResult) -> None:
        """Draw and add one picture."""
        if result.image is None:
            raise BabelRSError(f"{result.source}: no image was kept to draw on.", "Leave out --save-video.")
        number = result.stream
        if number not in self._movies:
            path = self._path if number == 0 else self._path.with_suffix(f".{number + 1}{self._path.suffix}")
            self._movies[number] = _Movie(path, *result.image.shape[1::-1])
        self._movies[number].add(result)

    def close(self) -> None:
        """Bring the last pictures to disk."""
        with ExitStack() as stack:
            for movie in self._movies.values():
                stack.callback(movie.close)


class Timeline:
    """When pictures are shown, in seconds from the first, each after the one before."""

    def __init__(self) -> None:
        self._last_s, self._shift_s = -INTERVAL_S, 0.0

    def place(self, offset_s: float | None) -> float:
        """The time of the next picture.

        Args:
            offset_s: When it was taken, seconds since the start of its recording. What is not later than the picture
                before begins another recording, which follows after a picture's interval; so does a picture of which
                it is not known.
        """
        after_s = self._last_s + INTERVAL_S
        if offset_s is None:
            self._last_s = after_s
        elif self._last_s < 0 or offset_s + self._shift_s <= self._last_s:
            self._last_s, self._shift_s = after_s, after_s - offset_s
        else:
            self._last_s = offset_s + self._shift_s
        return self._last_s


class _Movie:
    """One file.

    Args:
        path: The file.
        width: Columns of the first image.
        height: Its rows.
    """

    def __init__(self, path: Path, width: int, height: int) -> None:
        scale = min(display_scale(width, height), LONGEST_PX / max(width, height))
        self._fit = max(1, round(width * scale)), max(1, round(height * scale))
        self._size = self._fit[0] + self._fit[0] % 2, self._fit[1] + self._fit[1] % 2
        self._file, self._timeline = Mp4File(path, *self._size), Timeline()

    def add(self, result: FrameResult) -> None:
        """Draw and add one picture."""
        assert result.image is not None  # the sink saw to it
        height, width = result.image.shape[:2]
        scale = min(self._fit[0] / width, self._fit[1] / height)
        self._file.add(letterboxed(annotate(result, scale), *self._size), self._timeline.place(result.offset_s))

    def close(self) -> None:
        """Bring the last picture to disk."""
        self._file.close()


def letterboxed(picture: Picture, width: int, height: int) -> Picture:
    """A picture ``(h, w, 3)`` in the middle of a black one ``(height, width, 3)`` that is at least as large."""
    if picture.shape[:2] == (height, width):
        return picture
    canvas: Picture = np.zeros((height, width, 3), np.uint8)
    x, y = (width - picture.shape[1]) // 2, (height - picture.shape[0]) // 2
    canvas[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    return canvas
