"""Keeps a run's journal while it goes, so that ``--resume`` continues it after a crash or a loss of power.

An image is over when its results are in every sink; its record is the last thing that is written. A later run cuts the
sinks back to the last record and takes all images without one again, so that each is in the output exactly once. About
every second another thread brings the outputs to the disk itself, and then the journal with a record that says so.
"""

from __future__ import annotations

import itertools
import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from babelrs.errors import BabelRSError
from babelrs.sensors import Sensor
from runtime.journal import BOOT, SYNCED, Journal, boot_id, line_of, read_journal, records_in
from runtime.sinks import Sink
from runtime.sinks.resumable import Resumable
from runtime.sinks.whole import sync_path
from runtime.sources import Source
from runtime.standing import OVER, Ended, Standing, head_of, record_of, records_for, standing_after
from runtime.summary import Summary

NAME = "run.journal"
SYNC_S = 1.0
"""Pause between two times that outputs are brought to the disk itself: what a loss of power may undo."""
SHORTEN_BYTES = 4 << 20
"""A journal of this size is written anew with what it comes to; of a live source that is next to nothing."""
_LOGGER = logging.getLogger(__name__)


class Recorder:
    """The journal of a run that is under way.

    Args:
        folder: The output folder.
        journal: The run's journal.
        standing: What was done before.
        pause_s: Seconds between two times that outputs are brought to the disk itself.
    """

    def __init__(self, folder: Path, journal: Journal, standing: Standing, pause_s: float = SYNC_S) -> None:
        self.standing = standing
        self._folder, self._journal, self._pause_s = folder, journal, pause_s
        self._sinks: dict[str, list[Sink]] = {}
        self._last_keys = {source: past.last_key for source, past in standing.pasts.items()}
        self._clean_end, self._shorten_at = 0, SHORTEN_BYTES
        self._fault: Exception | None = None
        self._closing, self._thread = threading.Event(), threading.Thread(target=self._keep_synced, daemon=True)
        self._is_closed = False

    def resumed(self, sources: Sequence[Source]) -> list[Source]:
        """The sources without what was taken of them before."""
        return [source.resumed(self.standing.past(place)) for place, source in enumerate(sources)]

    def numbers(self, sensor: Sensor) -> Iterator[int]:
        """Numbers for the images of a sensor."""
        return self.standing.numbers_of(sensor.value).free()

    def summaries(self, num_sources: int) -> list[Summary]:
        """Counts for every source that begin with what was done before."""
        pasts = [self.standing.past(place) for place in range(num_sources)]
        return [Summary(num_before=past.num_images, num_skipped_before=past.num_skipped) for past in pasts]

    def begin(self, sinks: Mapping[Sensor, Sequence[Sink]]) -> None:
        """Take the sinks, which stand where they were left, and bring them to the disk itself from time to time.

        Raises:
            BabelRSError: The disk does not take them.
        """
        self._sinks = {sensor.value: list(group) for sensor, group in sinks.items()}
        if self.standing.num_images:  # the run before may have been killed with files that are not on the disk itself
            os.sync()
        sync_path(self._folder)
        self.sync()
        self._thread.start()

    def ended(self, one: Ended) -> None:
        """Record an image of which all is written.

        Raises:
            BabelRSError: The journal, or what was written before, cannot be written.
        """
        if self._fault is not None:
            raise self._fault
        marks = [_mark(sink) for sink in self._sinks[one.sensor]] if one.is_used else None
        self._journal.append(record_of(one, marks, self._last_keys.get(one.source, "")))
        self._last_keys[one.source] = one.key

    def sync(self) -> None:
        """Bring all that was recorded before to the disk itself.

        Raises:
            BabelRSError: The disk does not take it.
        """
        sure = self._journal.end
        if sure == self._clean_end:
            return
        for sink in (sink for group in self._sinks.values() for sink in group):
            if isinstance(sink, Resumable):
                sink.sync()
        self._clean_end = self._journal.sync(sure)
        if self._clean_end > self._shorten_at:
            self._journal.replace(lambda data: shortened(data, sure))
            self._shorten_at = max(SHORTEN_BYTES, 4 * self._journal.end)

    def finish(self, is_over: bool) -> None:
        """End the run: all is brought to the disk itself.

        Args:
            is_over: Whether the sources came to their end.

        Raises:
            BabelRSError: The disk does not take it.
        """
        self._stop()
        if self._fault is not None:
            raise self._fault
        if is_over:
            self._journal.append({OVER: True})
        self.sync()

    def close(self) -> None:
        """Close the journal, before the sinks; what cannot be brought to the disk any more is said. May be repeated."""
        if self._is_closed:
            return
        self._is_closed = True
        self._stop()
        try:
            if self._fault is None:
                self.sync()
        except BabelRSError as error:
            _LOGGER.warning("what was done last would not survive a loss of power: %s", error)
        finally:
            self._journal.close()

    def _stop(self) -> None:
        self._closing.set()
        if self._thread.is_alive():
            self._thread.join()

    def _keep_synced(self) -> None:
        while not self._closing.wait(self._pause_s):
            try:
                self.sync()
            except Exception as error:  # a full disk or a defect: raised where the next image ends
                self._fault = error
                return


class Unrecorded:
    """Stands in for a :class:`Recorder` where a run has no journal: numbers and counts begin anew, nothing is kept."""

    def numbers(self, sensor: Sensor) -> Iterator[int]:
        """Numbers for the images of a sensor."""
        return itertools.count()

    def summaries(self, num_sources: int) -> list[Summary]:
        """Counts for every source."""
        return [Summary() for _ in range(num_sources)]

    def begin(self, sinks: Mapping[Sensor, Sequence[Sink]]) -> None:
        """Nothing is brought to the disk itself."""

    def ended(self, one: Ended) -> None:
        """Nothing is recorded."""

    def finish(self, is_over: bool) -> None:
        """Nothing is to be done."""

    def close(self) -> None:
        """Nothing is open."""


def open_recorder(folder: Path, settings: Mapping[str, Any], resume: bool) -> Recorder:
    """Begin a run's journal in its output folder, or go on with that of an earlier run.

    Args:
        folder: The output folder, which this process alone writes to.
        settings: What decides the outputs, as plain JSON values; no secrets.
        resume: Whether an earlier run is to go on, where there is one.

    Raises:
        BabelRSError: The earlier run had other settings, or the journal cannot be read or written.
    """
    path = folder / NAME
    found = read_journal(path, boot_id())
    standing = None if found is None else standing_after(found.records)
    if resume and found is not None and standing is not None:
        _check_same(path, standing.settings, settings)
        return Recorder(folder, Journal(path, found), standing)
    if resume and found is not None:
        _LOGGER.warning("%s: nothing in it is whole, so that all begins anew", path)
    elif standing is not None and standing.num_images and not standing.is_over:
        what = "%s: an unfinished run of %d images is replaced; with --resume, it would have gone on"
        _LOGGER.warning(what, folder, standing.num_images)
    journal = Journal(path)
    journal.append(head_of(settings))
    return Recorder(folder, journal, Standing(settings))


def shortened(data: bytes, sure: int) -> bytes:
    """A journal of the same meaning.

    Args:
        data: The journal.
        sure: Bytes of it whose records describe what is on the disk itself.
    """
    standing = standing_after(_others(data[:sure]))
    assert standing is not None  # it was begun with a head
    head = b"".join(map(line_of, [{BOOT: boot_id()}, *records_for(standing)]))
    return head + line_of({SYNCED: len(head)}) + b"".join(map(line_of, _others(data[sure:])))


def _others(data: bytes) -> Iterator[Mapping[str, Any]]:
    return (record for record, _ in records_in(data) if not record.keys() & {BOOT, SYNCED})


def _mark(sink: Sink) -> Mapping[str, Any]:
    return sink.mark() if isinstance(sink, Resumable) else {}


def _check_same(path: Path, then: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    unlike = [name for name in {**then, **now} if then.get(name) != now.get(name)]
    if unlike:
        listed = "; ".join(f"{name}: then {then.get(name)}, now {now.get(name)}" for name in unlike)
        remedy = "Give the same again, name another --out, or leave out --resume to begin anew."
        raise BabelRSError(f"{path}: the run that is to go on had other settings ({listed}).", remedy)
