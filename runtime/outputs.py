"""The sinks that a command line asks for, by sensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from babelrs.sensors import Sensor
from runtime.sinks import Sink, make_folder
from runtime.sinks.coco import CocoSink
from runtime.sinks.csv import CsvSink
from runtime.sinks.dota import DotaSink
from runtime.sinks.geojson import GeoJsonSink
from runtime.sinks.image import ImageSink
from runtime.sinks.jsonl import JsonLinesSink
from runtime.sinks.video import VideoSink

if TYPE_CHECKING:
    from runtime.links.options import LinkOptions

SINKS: Mapping[str, tuple[str, Callable[[Path], Sink]]] = {
    "jsonl": ("detections.{}.jsonl", JsonLinesSink),
    "geojson": ("detections.{}.geojson", GeoJsonSink),
    "dota": ("dota.{}", DotaSink),
    "coco": ("detections.{}.coco.json", CocoSink),
    "csv": ("detections.{}.csv", CsvSink),
    "images": ("images.{}", ImageSink),
    "video": ("video.{}.mp4", VideoSink),
}
"""Formats, what they are called in the output folder with the sensor's name, and what writes them."""


def open_sinks(
    folder: Path, sensors: Iterable[Sensor], formats: Sequence[str], link: LinkOptions | None = None
) -> dict[Sensor, list[Sink]]:
    """Sinks of every sensor.

    Args:
        folder: Where they write; made where it is not there.
        sensors: Of the sources.
        formats: Keys of :data:`SINKS`.
        link: Where results are sent too.

    Raises:
        BabelRSError: A file or folder cannot be written.
    """
    make_folder(folder)
    chosen = [SINKS[name] for name in formats]
    wanted = set(sensors)
    sinks = {sensor: [sink(folder / name.format(sensor.value)) for name, sink in chosen] for sensor in wanted}
    if link is not None:
        from runtime.links.link import open_link_sinks

        for sensor, sender in open_link_sinks(folder, wanted, link).items():
            sinks[sensor].append(sender)
    return sinks
