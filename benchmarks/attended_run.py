"""A sensor's images through the pipeline with all that watches over a run: journal, health, metrics and link."""

from __future__ import annotations

import tempfile
import threading
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

from benchmarks.pipeline_run import require_all_used
from benchmarks.rtsp_child import free_port
from runtime.arguments import Attention
from runtime.health.attendance import Attendance
from runtime.links.options import Broker, LinkOptions
from runtime.outputs import link_status, open_sinks
from runtime.pipeline import Detector
from runtime.rasters import open_raster
from runtime.recorder import open_recorder
from runtime.run import run_sources
from runtime.sources.files import FileSource, ImageFile
from runtime.summary import Summary

HEALTH_S = 1.0
"""Between health reports: sixty times as often as the default, as a measurement takes seconds."""


def attended_s(detector: Detector, images: Sequence[ImageFile], broker_port: int | None) -> tuple[float, Summary]:
    """Seconds from images in files to JSON Lines and to a broker, with a journal that is synced every second, health
    reports and metrics; and what the run says of itself.

    Args:
        detector: With its engine.
        images: Of its sensor.
        broker_port: Of an MQTT broker on this machine, which takes every message before this returns. ``None``: as
            files are run by default, with a journal and nothing else.

    Raises:
        BabelRSError: An image could not be used.
    """
    link, attention = None, Attention()
    if broker_port is not None:
        link = LinkOptions(Broker("127.0.0.1", broker_port, "babelrs/benchmark"))
        attention = Attention(interval_s=HEALTH_S, prometheus=("127.0.0.1", free_port()))
    with tempfile.TemporaryDirectory() as text:
        folder, stop = Path(text), threading.Event()
        source = FileSource("images", detector.sensor, images, open_raster)
        attendance = Attendance(attention, [source], folder)
        with (
            closing(open_recorder(folder, {"formats": ["jsonl"]}, resume=True)) as recorder,
            attendance.during(stop) as monitor,
        ):
            sinks = open_sinks(folder, [detector.sensor], ["jsonl"], None, link)
            if link is not None:
                monitor.also("link", link_status(sinks))
            detectors = {detector.sensor: detector}
            (summary,) = run_sources([source], detectors, sinks, stop, recorder=recorder, monitor=monitor)
    require_all_used(summary)
    return summary.elapsed_s, summary
