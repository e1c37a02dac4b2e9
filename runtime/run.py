"""Takes images from sources through the stages to the sinks; a bad image is reported, counted and skipped.

A thread for every source and every stage, lanes between them, the sinks in the calling thread. Sources may have a few
images under way each: that bounds memory and, for live sources, how old a result is.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack

from babelrs.images import quiet_opencv
from babelrs.sensors import Sensor
from runtime.health.metrics import Metrics
from runtime.health.monitor import Monitor
from runtime.lanes import Lanes
from runtime.pipeline import Detector
from runtime.recorder import Recorder, Unrecorded
from runtime.sinks import Sink
from runtime.sources import Source
from runtime.stages import Failed, Found, Job, finished, inferred, prepared
from runtime.standing import Ended
from runtime.summary import Summary
from runtime.threads import Threads

SAID = 10
"""Unusable images of one cause and source that are named; of more, ever fewer: a camera may send nothing else."""
_LOGGER = logging.getLogger(__name__)


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
    stop, monitor, record = stop or threading.Event(), monitor or Monitor(), recorder or Unrecorded()
    summaries = record.summaries(len(sources))
    start = time.perf_counter()
    with ExitStack() as stack:
        stack.enter_context(monitor.pulses.own("writing"))  # also while sinks are closed
        for sink in (sink for group in sinks.values() for sink in group):
            stack.callback(sink.close)
        for source in sources:
            stack.callback(source.close)
        threads = Threads(stack, stop, monitor)
        numbers = {sensor: record.numbers(sensor) for sensor in detectors}
        stack.callback(record.close)
        record.begin(sinks)
        for one in _started(threads, sources, detectors, numbers, monitor, with_pictures, progress):
            _write(one, sinks, summaries[one.taken.origin], monitor.metrics)
            record.ended(_ended(one))  # the last of all, so that what it says is true
            one.taken.release()
        record.finish(is_over=not stop.is_set())
    for summary, source in zip(summaries, sources, strict=True):
        summary.num_dropped, summary.elapsed_s = source.dropped, time.perf_counter() - start
    return summaries


def _started(
    threads: Threads,
    sources: Sequence[Source],
    detectors: Mapping[Sensor, Detector],
    numbers: Mapping[Sensor, Iterator[int]],
    monitor: Monitor,
    with_pictures: bool,
    progress: Callable[[Job], None],
) -> Lanes[Found | Failed]:
    """Start every source and stage; what comes out of the last."""
    taken = [threads.reading(sources, place) for place in range(len(sources))]
    preparing = [
        prepared(lanes, detectors[source.sensor], numbers[source.sensor], monitor.shaped)
        for lanes, source in zip(taken, sources, strict=True)
    ]
    work = threads.between("preparing", preparing)
    outputs = threads.between("inferring", [inferred(work)])
    found = threads.between("finishing", [finished(outputs, with_pictures, progress)])
    monitor.begin(sources, {"taken": taken, "prepared": [work], "inferred": [outputs], "finished": [found]})
    return found


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
