"""Frames on standard input, one after the other: PNG, JPEG or binary Netpbm."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Iterator

from babelrs.errors import BabelRSError
from babelrs.images import ImageError
from babelrs.sensors import Sensor
from runtime.raster import FrameRaster
from runtime.sources import Capture, Unusable
from runtime.sources.clock import Clock, utc_text
from runtime.sources.concatenated import frames
from runtime.sources.past import Past
from runtime.sources.pipe import LookAhead, Stopped

SOURCE = "standard input"
_LOGGER = logging.getLogger(__name__)


class PipedSource:
    """Images in a stream of bytes. Nothing is lost: who writes them waits where they are not taken.

    Args:
        name: As the command line called it.
        sensor: What takes the images.
        prefix: What names of files about its frames begin with.
        descriptor: The file descriptor to read; stays open. ``None``: standard input.
        clock: Tells the time.

    Raises:
        BabelRSError: Standard input is closed or a terminal.
    """

    live = False
    dropped = 0

    def __init__(
        self, name: str, sensor: Sensor, prefix: str, descriptor: int | None = None, clock: Clock | None = None
    ) -> None:
        self.name = name
        self.sensor = sensor
        self._prefix = prefix
        self._descriptor = _standard_input() if descriptor is None else descriptor
        self._clock = clock or Clock()
        self._first = 0

    def resumed(self, past: Past) -> PipedSource:
        """See :meth:`Source.resumed`; what was piped in cannot be read again, so that only the numbers go on."""
        if past.next_sequence:
            _LOGGER.warning("%s cannot be read again: what comes now is taken for what follows", SOURCE)
        self._first = past.next_sequence
        return self

    def captures(self, stop: threading.Event) -> Iterator[Capture | Unusable]:
        """See :meth:`Source.captures`."""
        ahead = LookAhead(self._descriptor, stop)
        images = frames(ahead, SOURCE)
        sequence = self._first
        while True:
            start, waited_s = self._clock.monotonic(), ahead.waited_s
            try:
                item = next(images)
            except (Stopped, StopIteration):
                return
            if isinstance(item, ImageError):
                yield Unusable(SOURCE, item, sequence)
            else:
                read_ms = self._clock.ms_since(start) - 1e3 * (ahead.waited_s - waited_s)
                name, time = f"{self._prefix}{sequence:06d}", utc_text(self._clock.now())
                yield Capture(FrameRaster(item), SOURCE, name, self.sensor, sequence, time, max(0.0, read_ms))
            sequence += 1

    def close(self) -> None:
        """Standard input stays open."""


def _standard_input() -> int:
    remedy = "Pipe images into it, as in `ffmpeg -i FILE -f image2pipe -c:v png - | babelrs-run ... -`."
    if sys.stdin is None or sys.stdin.closed:
        raise BabelRSError("-: standard input is closed.", remedy)
    if sys.stdin.isatty():
        raise BabelRSError("-: standard input is a terminal, not a pipe of images.", remedy)
    return sys.stdin.fileno()
