"""Where frames come from: files in order and without loss, live sensors with the newest frame first."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

from babelrs.images import ImageError
from babelrs.sensors import Sensor
from runtime.raster import Raster
from runtime.sources.past import Past


@dataclass(frozen=True)
class Capture:
    """One image that a source gave.

    Attributes:
        raster: Its pixels; whoever takes the capture closes it.
        source: The file, or the address of the stream.
        name: A name without suffix, unique in the run, for files written about the image.
        sensor: What took it.
        sequence: Its number in its source, from 0; a gap is a frame that was dropped or could not be used.
        time: When it was taken, or read where that is not known; ISO 8601 in UTC.
        read_ms: Milliseconds that opening, decoding or receiving it took, waiting left out.
        offset_s: Seconds since the start of its recording, where the recording says so; of a live source since its
            first frame.
        key: What tells it from the source's other images in a later run, too; a video's frames share one, as they have
            an order. Empty where nothing can be read again.
        stem: What names of files about images of this key begin with, where the other images of a run decide it.
    """

    raster: Raster
    source: str
    name: str
    sensor: Sensor
    sequence: int
    time: str
    read_ms: float
    offset_s: float | None = None
    key: str = ""
    stem: str = ""


@dataclass(frozen=True)
class Unusable:
    """An image of a source that cannot be used; the source goes on after it.

    Attributes:
        source: The file, or the address of the stream.
        error: What is wrong and what to do.
        sequence: As in :class:`Capture`.
        key: As in :class:`Capture`.
        stem: As in :class:`Capture`.
    """

    source: str
    error: ImageError
    sequence: int
    key: str = ""
    stem: str = ""


class Source(Protocol):
    """Gives one sensor's images."""

    @property
    def name(self) -> str:
        """As the command line called it."""

    @property
    def sensor(self) -> Sensor:
        """What takes its images."""

    @property
    def live(self) -> bool:
        """Whether the world does not wait: newest frame wins, and those it replaces are counted as dropped."""

    @property
    def dropped(self) -> int:
        """Frames that were replaced by newer ones before anybody took them."""

    def captures(self, stop: threading.Event) -> Iterator[Capture | Unusable]:
        """All images, waiting for the next where the source is live; ends with the source, or soon after ``stop``.

        Raises:
            BabelRSError: The source cannot go on, and no retry would help.
        """

    def resumed(self, past: Past) -> Source:
        """The source without what an earlier run took of it; numbers go on. To be asked for before the captures."""

    def close(self) -> None:
        """Let go of files, connections and processes; called once, also after an error."""
