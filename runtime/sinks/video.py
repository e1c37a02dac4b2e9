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
from runtime.sinks.mp4 import INTERVAL_S, Mp4File, OtherEncoder
from runtime.sinks.resumable import Mark
from runtime.sources.libav import require_av

LONGEST_PX = 1920
"""A longer side of a picture is reduced to this: decoders of small devices take no more, and encoding costs time."""
_PART = "part-"

Picture = npt.NDArray[np.uint8]


class VideoSink:
    """Writes ``video.SENSOR.mp4``; of a sensor's second source ``video.SENSOR.2.mp4``, and so on.

    The size is that of the first annotated picture; later pictures of another size are fitted into it, with black
    around them. Pictures are shown when they were taken, where that is known (streams, cameras, video files), else for
    a fifth of a second each. A run that goes on with another encoder than before (of another PyAV) begins a further
    file, ``video.SENSOR.part-2.mp4``.

    Args:
        path: The file of the first source.
        mark: Where an earlier run's files go on; ``None``: an older file is removed.

    Raises:
        BabelRSError: PyAV is not installed, or the older file cannot be removed or cannot go on.
    """

    def __init__(self, path: Path, mark: Mark | None = None) -> None:
        require_av()
        self._path = path
        self._movies: dict[int, _Movie] = {}
        self._marks: dict[str, Mark] = {}
        try:
            if mark is None:
                for older in (path, *path.parent.glob(f"{path.stem}*.{_PART}*{path.suffix}")):
                    older.unlink(missing_ok=True)
        except OSError as error:
            raise unwritable(path, error) from None
        for number, of_movie in (mark or {}).items():
            self._movies[int(number)] = _Movie.going_on(self._path_of(int(number)), of_movie)
            self._marks[number] = of_movie

    def write(self, result: FrameResult) -> None:
        """Draw and add one picture."""
        if result.image is None:
            raise BabelRSError(f"{result.source}: no image was kept to draw on.", "Leave out --save-video.")
        number = result.stream
        if number not in self._movies:
            self._movies[number] = _Movie(self._path_of(number), _fitted(*result.image.shape[1::-1]))
        self._movies[number].add(result)
        self._marks[str(number)] = self._movies[number].mark()

    def mark(self) -> Mark:
        """Where the file of every source stands."""
        return dict(self._marks)

    def sync(self) -> None:
        """Bring the files to the disk itself."""
        for movie in list(self._movies.values()):
            movie.sync()

    def close(self) -> None:
        """Close the files."""
        with ExitStack() as stack:
            for movie in self._movies.values():
                stack.callback(movie.close)

    def _path_of(self, number: int) -> Path:
        return self._path if number == 0 else self._path.with_suffix(f".{number + 1}{self._path.suffix}")


class Timeline:
    """When pictures are shown, in seconds from the first, each after the one before.

    Args:
        last_s: Time of the last picture that was shown; negative where none was.
        shift_s: From its recording's time to the video's.
    """

    def __init__(self, last_s: float = -INTERVAL_S, shift_s: float = 0.0) -> None:
        self._last_s, self._shift_s = last_s, shift_s

    @property
    def state(self) -> tuple[float, float]:
        """What another timeline goes on with."""
        return self._last_s, self._shift_s

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
        fit: Columns and rows that pictures are fitted into.
        part: Of how many files of this source it is the last: an earlier run's encoder may have been another.
        timeline: When its pictures are shown.
        mark: Where the file goes on; ``None``: it is new.
    """

    def __init__(
        self,
        path: Path,
        fit: tuple[int, int],
        part: int = 1,
        timeline: Timeline | None = None,
        mark: Mark | None = None,
    ) -> None:
        self._fit, self._part, self._timeline = fit, part, timeline or Timeline()
        self._size = fit[0] + fit[0] % 2, fit[1] + fit[1] % 2
        own = path if part == 1 else path.with_suffix(f".{_PART}{part}{path.suffix}")
        self._file = Mp4File(own, *self._size, mark)

    @classmethod
    def going_on(cls, path: Path, mark: Mark) -> _Movie:
        """The file of an earlier run, or a further one where its encoder was another.

        Raises:
            BabelRSError: The file is not as it was left.
        """
        fit, part = (mark["fit"][0], mark["fit"][1]), mark["part"]
        try:
            return cls(path, fit, part, Timeline(*mark["timeline"]), mark["file"])
        except OtherEncoder:
            return cls(path, fit, part + 1)

    def add(self, result: FrameResult) -> None:
        """Draw and add one picture."""
        assert result.image is not None  # the sink saw to it
        height, width = result.image.shape[:2]
        scale = min(self._fit[0] / width, self._fit[1] / height)
        self._file.add(letterboxed(annotate(result, scale), *self._size), self._timeline.place(result.offset_s))

    def mark(self) -> Mark:
        """Where it stands; only after a picture."""
        return {"fit": self._fit, "part": self._part, "timeline": self._timeline.state, "file": self._file.mark()}

    def sync(self) -> None:
        """Bring it to the disk itself."""
        self._file.sync()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def _fitted(width: int, height: int) -> tuple[int, int]:
    """Columns and rows of the pictures of a video whose first image has so many."""
    scale = min(display_scale(width, height), LONGEST_PX / max(width, height))
    return max(1, round(width * scale)), max(1, round(height * scale))


def letterboxed(picture: Picture, width: int, height: int) -> Picture:
    """A picture ``(h, w, 3)`` in the middle of a black one ``(height, width, 3)`` that is at least as large."""
    if picture.shape[:2] == (height, width):
        return picture
    canvas: Picture = np.zeros((height, width, 3), np.uint8)
    x, y = (width - picture.shape[1]) // 2, (height - picture.shape[0]) // 2
    canvas[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    return canvas
