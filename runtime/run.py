"""Takes images one by one through a detector to the sinks; a bad image is reported, counted and skipped."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime, timezone

from babelrs.images import ImageError, quiet_opencv, read_frame
from runtime.pipeline import Detector, FrameResult, Stopwatch
from runtime.sinks import Sink
from runtime.sources.files import ImageFile
from runtime.summary import Summary

_LOGGER = logging.getLogger(__name__)


def run_images(images: Sequence[ImageFile], detector: Detector, sinks: Sequence[Sink]) -> Summary:
    """Detect in all images and write the results.

    Args:
        images: The files.
        detector: The sensor's model.
        sinks: Each gets every result; all are closed at the end, whatever happens.

    Raises:
        BabelRSError: A result cannot be written.
        DeviceError: The engine failed.
    """
    quiet_opencv()  # loading it is no part of the first image's latency
    summary = Summary()
    start = time.perf_counter()
    with ExitStack() as stack:
        for sink in sinks:
            stack.callback(sink.close)
        for number, image in enumerate(images):
            try:
                result = _process(number, image, detector)
            except ImageError as error:
                _LOGGER.warning("skipped %s", error)
                summary.skip(error.cause)
                continue
            for sink in sinks:
                sink.write(result)
            summary.add(result)
            _LOGGER.info("%s: %d detections", image.path, len(result.detections))
    summary.elapsed_s = time.perf_counter() - start
    return summary


def _process(number: int, image: ImageFile, detector: Detector) -> FrameResult:
    watch = Stopwatch()
    with watch.stage("read"):
        frame = read_frame(image.path)
    now = datetime.now(timezone.utc).isoformat(timespec="milliseconds")
    detections, pixels = detector.detect(frame, watch)
    return FrameResult(
        source=str(image.path),
        name=image.name,
        frame=number,
        time=now,
        detections=detections,
        image=pixels,
        engine=detector.engine.name,
        precision=detector.engine.precision,
        latency_ms=watch.elapsed_ms,
    )
