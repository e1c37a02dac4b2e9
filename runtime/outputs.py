"""The sinks that a command line asks for, by sensor."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from babelrs.sensors import Sensor
from runtime.sinks import Sink, make_folder
from runtime.sinks.coco import CocoSink
from runtime.sinks.csv import CsvSink
from runtime.sinks.dota import DotaSink
from runtime.sinks.geojson import GeoJsonSink
from runtime.sinks.image import ImageSink
from runtime.sinks.jsonl import JsonLinesSink
from runtime.sinks.resumable import Mark
from runtime.sinks.video import VideoSink

if TYPE_CHECKING:
    from runtime.links.options import LinkOptions

SINKS: Mapping[str, tuple[str, Callable[[Path, Mark | None], Sink]]] = {
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
    folder: Path,
    sensors: Iterable[Sensor],
    formats: Sequence[str],
    marks: Mapping[str, Sequence[Mark]] | None = None,
    link: LinkOptions | None = None,
) -> dict[Sensor, list[Sink]]:
    """Sinks of every sensor.

    Args:
        folder: Where they write; made where it is not there.
        sensors: Of the sources.
        formats: Keys of :data:`SINKS`.
        marks: Where an earlier run's sinks stand that are to go on, by sensor and in the order of ``formats``.
        link: Where results are sent too.

    Raises:
        BabelRSError: A file or folder cannot be written, or is not as the earlier run left it.
    """
    make_folder(folder)
    wanted = set(sensors)
    sinks = {sensor: _sinks_of(folder, sensor, formats, (marks or {}).get(sensor.value)) for sensor in wanted}
    if link is not None:
        from runtime.links.link import open_link_sinks

        for sensor, sender in open_link_sinks(folder, wanted, link).items():
            sinks[sensor].append(sender)
    return sinks


def _sinks_of(folder: Path, sensor: Sensor, formats: Sequence[str], marks: Sequence[Mark] | None) -> list[Sink]:
    places = [None] * len(formats) if marks is None else marks
    chosen = zip((SINKS[name] for name in formats), places, strict=False)  # links behind the files may have marks, too
    return [sink(folder / name.format(sensor.value), mark) for (name, sink), mark in chosen]


def link_status(sinks: Mapping[Sensor, Sequence[Sink]]) -> Callable[[], dict[str, Any]]:
    """What asks the link of these sinks how it fares."""
    return next(sink.status for group in sinks.values() for sink in group if isinstance(sink, Reporting))


@runtime_checkable
class Reporting(Protocol):
    """A sink that tells how it fares."""

    def status(self) -> dict[str, Any]:
        """JSON values; from any thread."""
