"""The threads of a run: one for every source and every stage, with lanes between them."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TypeVar

from runtime.health.monitor import Monitor
from runtime.health.pulses import beat
from runtime.lanes import Abandoned, Lanes
from runtime.raster import FrameRaster
from runtime.sources import Capture, Source, Unusable
from runtime.stages import Taken

UNDER_WAY = {True: 2, False: 4}
"""Images that a source may have under way: of a live one the engine's and the next, of files a few more."""
LARGE_BYTES = 64 << 20
"""An image that holds more memory than this is under way alone, as far as its source is concerned."""
BETWEEN = 2
"""Items that wait between two stages."""
_LOGGER = logging.getLogger(__name__)

T = TypeVar("T")


class Threads:
    """The threads of a run; at its end, however it comes, none is left.

    Args:
        stack: Ends them, all at once: one that waits for another's items must not be waited for first.
        stop: Set at the end.
        monitor: Where every thread answers.
    """

    def __init__(self, stack: ExitStack, stop: threading.Event, monitor: Monitor) -> None:
        self._stop, self._monitor = stop, monitor
        self._threads: list[threading.Thread] = []
        self._ends: list[Callable[[], None]] = []
        stack.callback(self._end)

    def _end(self) -> None:
        self._stop.set()
        for abandon in self._ends:
            abandon()
        for thread in self._threads:
            thread.join()

    def between(self, name: str, streams: Iterable[Iterable[T]]) -> Lanes[T]:
        """Run generators in a thread each; what they give is taken in turns, so that none starves."""
        running = list(streams)
        lanes: Lanes[T] = Lanes(len(running), BETWEEN)
        for lane, items in enumerate(running):
            self._start(name, partial(_put_all, items, lanes, lane), lanes, lane)
        return lanes

    def reading(self, sources: Sequence[Source], place: int) -> Lanes[Taken]:
        """Run one of the sources in a thread."""
        lanes: Lanes[Taken] = Lanes(1, max(UNDER_WAY.values()))
        self._start(f"reading {sources[place].name}", partial(self._read, sources, place, lanes), lanes, 0)
        return lanes

    def _read(self, sources: Sequence[Source], place: int, lanes: Lanes[Taken]) -> None:
        source, is_alone = sources[place], len(sources) == 1
        stream = sum(other.sensor == source.sensor for other in sources[:place])
        free = threading.Semaphore(UNDER_WAY[source.live])
        captures = iter(source.captures(self._stop))
        pacing = self._monitor.pacing()
        while _acquired(free, self._stop):
            try:
                item = next(captures, None)
            except Exception as error:
                if not is_alone:  # the others go on, maybe for days, and only then is it raised
                    _LOGGER.error("%s gives no more images: %s", source.name, error)
                raise
            if item is None:
                return
            if source.live and isinstance(item, Capture) and not pacing.wants(item.sequence):
                item.raster.close()
                free.release()
                continue
            release, is_large = pacing.taken(item.sequence, self._monitor.metrics.begun(free.release)), _is_large(item)
            lanes.put(Taken(item, source.sensor, place, stream, time.perf_counter(), release))
            item = None  # its pixels are the stages' alone, which let go of them
            if is_large and not _drained(free, UNDER_WAY[source.live], self._stop):
                return

    def _start(self, name: str, work: Callable[[], None], lanes: Lanes[T], lane: int) -> None:
        def guarded() -> None:
            error = None
            try:
                with self._monitor.pulses.own(name):
                    work()
            except Abandoned:
                pass
            except BaseException as raised:  # carried to where the lane is read, maybe long after
                error = raised
            lanes.close(lane, error)

        self._ends.append(lanes.abandon)
        thread = threading.Thread(target=guarded, daemon=True)
        thread.start()
        self._threads.append(thread)


def _put_all(items: Iterable[T], lanes: Lanes[T], lane: int) -> None:
    for item in items:
        lanes.put(item, lane)


def _acquired(free: threading.Semaphore, stop: threading.Event) -> bool:
    """Wait until the source may give another image; False once the run is to stop."""
    while not stop.is_set():
        beat()
        if free.acquire(timeout=0.05):
            return True
    return False


def _drained(free: threading.Semaphore, count: int, stop: threading.Event) -> bool:
    """Wait until none of the source's images is under way; False once the run is to stop."""
    if not all(_acquired(free, stop) for _ in range(count)):
        return False
    free.release(count)
    return True


def _is_large(item: Capture | Unusable) -> bool:
    held = item.raster if isinstance(item, Capture) else None
    return isinstance(held, FrameRaster) and held.frame.pixels.nbytes > LARGE_BYTES
