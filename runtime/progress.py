"""A line on the terminal that says how far a run is; nothing where standard error is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TextIO

from runtime.stages import Job

INTERVAL_S = 0.2
_ERASE = "\r\x1b[K"


@dataclass
class ProgressLine:
    """Shows the image under way and, of a scene of many tiles, how many are done and the time that is left.

    Attributes:
        stream: The terminal.
        clock: Seconds.
    """

    stream: TextIO
    clock: Callable[[], float] = time.monotonic
    _shown_s: float = -1e9
    _begun: tuple[tuple[str, int], float] = (("", -1), 0.0)

    def __call__(self, job: Job) -> None:
        """Tiles of an image are done."""
        now = self.clock()
        if self._begun[0] != (job.taken.sensor, job.number):
            self._begun = ((job.taken.sensor, job.number), now)
        if now - self._shown_s >= INTERVAL_S:
            self._shown_s = now
            self._write(f"{_ERASE}{self._text(job, now)}")

    def clear(self) -> None:
        """Take the line away."""
        if self._shown_s > 0:
            self._write(_ERASE)

    def _text(self, job: Job, now: float) -> str:
        total = job.scene.num_tiles if job.scene is not None else 1
        text = f"{job.capture.sensor}: {job.number + 1} images, {job.capture.name}"
        spent = now - self._begun[1]
        if total > 1 and spent > 0:
            rate = job.num_tiles / spent
            text += (
                f": {job.num_tiles} of {total} tiles, {rate:.1f} tiles/s, {(total - job.num_tiles) / rate:.0f} s left"
            )
        return text

    def _write(self, text: str) -> None:
        self.stream.write(text)
        self.stream.flush()


def progress_line(quiet: bool) -> ProgressLine | None:
    """The line, where standard error is a terminal and somebody wants to see it."""
    return None if quiet or not sys.stderr.isatty() else ProgressLine(sys.stderr)
