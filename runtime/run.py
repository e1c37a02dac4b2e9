"""Takes images from sources through the stages to the sinks; a bad image is reported, counted and skipped.

A thread for every source and every stage, lanes between them, the sinks in the calling thread. Sources may have a few
images under way each: that bounds memory and, for live sources, how old a result is.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from typing import TypeVar

from babelrs.images import quiet_opencv
from babelrs.sensors import Sensor
from runtime.health.metrics import Metrics
from runtime.health.monitor import Monitor
from runtime.health.pulses import beat
from runtime.lanes import Abandoned, Lanes
from runtime.pipeline import Detector
from runtime.recorder import Recorder
from runtime.sinks import Sink
from runtime.sources import Capture, Source
from runtime.stages import Failed, Found, Job, Taken, finished, inferred, prepared
from runtime.standing import Ended
from runtime.summary import Summary

UNDER_WAY = {True: 2, False: 4}
"""Images that a source may have under way: of a live one the engine's and the next, of files a few more."""
SAID = 10
"""Unusable images of one cause and source that are named; of more, ever fewer: a camera may send nothing else."""
BETWEEN = 2
"""Items that wait between two stages."""
_LOGGER = logging.getLogger(__name__)

T = TypeVar("T")


def run_sources(
    sources: Sequence[Source],
    detectors: Mapping[Sensor, Detector],
    sinks: Mapping[Sensor, Sequence[Sink]],
    stop: threading.Event | None = None,
    with_pictures: bool = False,
    progress: Callable[[Job], None] = lambda job: None,
    recorder: Recorder | None = None,
    monitor: Monitor | None = None,
) -> list[Summary]:
    """Detect in all that the sources give and write the results.

    Args:
        sources: Several at once take turns at the engines.
        detectors: The model of every source's sensor.
        sinks: Each gets every result of its sensor; all are closed at the end, whatever happens.
        stop: Once set, no further image is begun; those under way are finished and written. Set at the end.
        with_pictures: Whether a sink wants pictures of images that are too large to be held.
        progress: Called whenever tiles of an image are done.
        recorder: Records what is done; closed at the end. The sources and sinks go on where it says.
        monitor: Is told of everything, and says how much is to be done.

    Returns:
        What came of each source.

    Raises:
        BabelRSError: A result cannot be written, or a source cannot go on; the results of what was under way are
            written all the same where they can be.
        DeviceError: An engine failed.
    """
    quiet_opencv()  # loading it is no part of the first image's latency
    stop, monitor = stop or threading.Event(), monitor or Monitor()
    summaries = [Summary() for _ in sources] if recorder is None else recorder.summaries(len(sources))
    start = time.perf_counter()
    with ExitStack() as stack:
        stack.enter_context(monitor.pulses.own("writing"))  # also while sinks are closed
        for sink in (sink for group in sinks.values() for sink in group):
            stack.callback(sink.close)
        for source in sources:
            stack.callback(source.close)
        threads = _Threads(stack, stop, monitor)
        numbers = {s: itertools.count() if recorder is None else recorder.numbers(s) for s in detectors}
        if recorder is not None:
            stack.callback(recorder.close)
            recorder.begin(sinks)
        taken = [threads.reading(sources, lane) for lane in range(len(sources))]
        work = threads.between(
            "preparing",
            [
                prepared(lanes, detectors[source.sensor], numbers[source.sensor], monitor.shaped)
                for lanes, source in zip(taken, sources, strict=True)
            ],
        )
        outputs = threads.between("inferring", [inferred(work)])
        found = threads.between("finishing", [finished(outputs, with_pictures, progress)])
        monitor.begin(sources, {"taken": taken, "prepared": [work], "inferred": [outputs], "finished": [found]})
        for one in found:
            _write(one, sinks, summaries[one.taken.origin], monitor.metrics)
            if recorder is not None:  # the last of all, so that what it says is true
                recorder.ended(_ended(one))
            one.taken.release()
        if recorder is not None:
            recorder.finish(is_over=not stop.is_set())
    for summary, source in zip(summaries, sources, strict=True):
        summary.num_dropped, summary.elapsed_s = source.dropped, time.perf_counter() - start
    return summaries


def _write(one: Found | Failed, sinks: Mapping[Sensor, Sequence[Sink]], summary: Summary, metrics: Metrics) -> None:
    if isinstance(one, Failed):
        metrics.skip(one.error.cause)
        count = summary.skip(one.error.cause)
        if count <= SAID or count & (count - 1) == 0:  # then the 16th, the 32nd, ...
            again = f" ({count} of this cause so far)" if count > SAID else ""
            _LOGGER.warning("skipped %s%s", one.error, again)
        return
    for sink in sinks[one.taken.sensor]:
        sink.write(one.result)
    total_ms = 1e3 * (time.perf_counter() - one.taken.taken_s)
    summary.add(one.result, total_ms)
    metrics.add(one.result.latency_ms, total_ms, len(one.result.detections))
    _LOGGER.info("%s: %d detections", one.result.source, len(one.result.detections))


def _ended(one: Found | Failed) -> Ended:
    taken, item = one.taken, one.taken.item
    number, is_used = (one.number, False) if isinstance(one, Failed) else (one.result.frame, True)
    return Ended(taken.origin, taken.sensor.value, number, item.sequence, item.key, item.stem, is_used)


class _Threads:
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
            release = pacing.taken(item.sequence, self._monitor.metrics.begun(free.release))
            lanes.put(Taken(item, source.sensor, place, stream, time.perf_counter(), release))

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
