"""A folder that is being written to: each image is taken once it is whole."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from babelrs.errors import BabelRSError
from babelrs.images import IMAGE_SUFFIXES
from babelrs.sensors import Sensor
from runtime.sources import Capture, Unusable
from runtime.sources.clock import Clock
from runtime.sources.files import ImageFile, OpenRaster, natural_key, read_capture, whole_frame
from runtime.sources.naming import safe_stem
from runtime.sources.past import Past

_LOGGER = logging.getLogger(__name__)
_UNFINISHED = (".part", ".partial", ".tmp", ".temp", ".crdownload", ".filepart")  # before the image's own suffix, too
_REMEMBERED = 100_000  # files that left the folder and may come back with it

State = tuple[int, int]
"""Bytes and time of the last change in nanoseconds: a file that differs in either is another image."""


@dataclass(frozen=True)
class SpoolTiming:
    """When a spool's files are looked at.

    Attributes:
        poll_s: Pause between two looks.
        settle_s: A file that has not changed for so long is whole.
        empty_s: The same for files of 0 bytes, which most writers begin with.
        share: Largest share of the time that looking takes; the pause grows with the folder.
    """

    poll_s: float = 0.2
    settle_s: float = 0.5
    empty_s: float = 10.0
    share: float = 0.05


class SpoolSource:
    """The images that come into a folder, in the order in which they were written. Nothing is lost.

    Files that are there at the start are taken too. A file that changes after it was taken is taken again. Hidden files
    and names of unfinished files (``x.png.part``, ``x.part.png``) are left alone, as are folders in the folder. It goes
    on until it is stopped, also while the folder is gone.

    Args:
        name: As the command line called it.
        sensor: What takes the images.
        prefix: What names of files about its images begin with.
        folder: The folder.
        open_raster: Opens a file; raises :class:`ImageError`.
        timing: When files are looked at.
        clock: Tells the time and waits.

    Raises:
        BabelRSError: The folder is missing or no folder.
    """

    live = False
    dropped = 0

    def __init__(
        self,
        name: str,
        sensor: Sensor,
        prefix: str,
        folder: Path,
        open_raster: OpenRaster = whole_frame,
        timing: SpoolTiming | None = None,
        clock: Clock | None = None,
    ) -> None:
        if not folder.is_dir():
            what = "no folder but a file" if folder.exists() else "no such folder"
            raise BabelRSError(f"{folder}: {what}.", "Name the folder that the camera writes images to.")
        self.name = name
        self.sensor = sensor
        self._prefix = prefix
        self._folder = folder
        self._open_raster = open_raster
        self._timing = timing or SpoolTiming()
        self._clock = clock or Clock()
        self._taken: dict[Path, State] = {}
        self._seen: dict[Path, tuple[State, float]] = {}  # not taken yet: as they were, and since when
        self._fault: str | None = None
        self._first = 0

    def resumed(self, past: Past) -> SpoolSource:
        """See :meth:`Source.resumed`; a file that changed since is another image."""
        for key in past.counts:
            size, changed_ns, name = key.split(":", 2)
            self._taken[self._folder / name] = int(size), int(changed_ns)
        self._first = past.next_sequence
        return self

    def captures(self, stop: threading.Event) -> Iterator[Capture | Unusable]:
        """See :meth:`Source.captures`."""
        sequence = self._first
        while not stop.is_set():
            start = self._clock.monotonic()
            whole = self._look()
            looking_s = self._clock.monotonic() - start
            for path, state in whole:
                if stop.is_set():
                    return
                item = self._read(path, state, sequence)
                if item is None or _is_changed(path, state, item):
                    continue  # where the whole folder is away, it comes back with it
                self._taken[path] = state
                yield item
                sequence += 1
            if self._clock.wait(stop, max(self._timing.poll_s, looking_s / self._timing.share)):
                return

    def close(self) -> None:
        """Nothing is open between images."""

    def _read(self, path: Path, state: State, sequence: int) -> Capture | Unusable | None:
        """The image; ``None`` where it vanished before anybody read it."""
        name = f"{self._prefix}{sequence:06d}_{safe_stem(path.stem)}"
        key = f"{state[0]}:{state[1]}:{path.name}"
        item = read_capture(ImageFile(path, name), self.sensor, sequence, self._open_raster, self._clock, key)
        if isinstance(item, Unusable) and item.error.cause == "missing":
            _LOGGER.info("%s: gone before it was read", path)
            return None
        return item

    def _look(self) -> list[tuple[Path, State]]:
        """Files that became whole, oldest change first."""
        states = self._states()
        if states is None:
            return []
        now = self._clock.monotonic()
        fresh = {path: state for path, state in states.items() if self._taken.get(path) != state}
        self._seen = {path: self._since(path, state, now) for path, state in fresh.items()}
        whole = [(path, state) for path, (state, since) in self._seen.items() if now - since >= self._settle_s(state)]
        if len(self._taken) > len(states) + _REMEMBERED:
            self._taken = {path: state for path, state in self._taken.items() if path in states}
        return sorted(whole, key=lambda item: (item[1][1], natural_key(item[0])))

    def _since(self, path: Path, state: State, now: float) -> tuple[State, float]:
        before = self._seen.get(path)
        return before if before is not None and before[0] == state else (state, now)

    def _settle_s(self, state: State) -> float:
        return self._timing.settle_s if state[0] else self._timing.empty_s

    def _states(self) -> dict[Path, State] | None:
        """What is in the folder; ``None`` where it cannot be listed, which is logged once."""
        states: dict[Path, State] = {}
        try:
            with os.scandir(self._folder) as entries:
                for entry in entries:
                    if _is_image_name(entry.name) and (state := _state(entry)) is not None:
                        states[Path(entry.path)] = state
        except OSError as error:
            if self._fault != error.strerror:
                self._fault = error.strerror
                _LOGGER.warning("%s: cannot be listed (%s); looking again until it is back", self._folder, self._fault)
            return None
        if self._fault is not None:
            self._fault = None
            _LOGGER.warning("%s: back", self._folder)
        return states


def _is_image_name(name: str) -> bool:
    path = Path(name.lower())
    whole = path.suffix in IMAGE_SUFFIXES and Path(path.stem).suffix not in _UNFINISHED
    return whole and not name.startswith((".", "~"))


def _is_changed(path: Path, state: State, item: Capture | Unusable) -> bool:
    """Whether the file was written to while it was read: what was read may be of both, and is let go of.

    It comes again once it rests; taken now as well, it would be there twice.
    """
    if _state(path) in (state, None):  # None: it is gone, after it was read
        return False
    if isinstance(item, Capture):
        item.raster.close()
    return True


def _state(entry: os.DirEntry[str] | Path) -> State | None:
    try:
        status = entry.stat()
        return (status.st_size, status.st_mtime_ns) if entry.is_file() else None
    except OSError:  # gone between listing and looking
        return None
