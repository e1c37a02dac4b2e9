"""CSV: one row a detection, for spreadsheets and databases."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import numpy as np

from babelrs.boxes import to_corners
from runtime.pipeline import FrameResult
from runtime.sinks.appending import AppendedFile
from runtime.sinks.geojson import DECIMALS, ground_record
from runtime.sinks.resumable import Mark

HEADER = (
    *("source", "frame", "time", "sensor", "label", "score"),
    *("cx", "cy", "w", "h", "theta"),
    *(f"{axis}{corner}" for corner in range(1, 5) for axis in "xy"),
    *(f"{axis}{corner}" for corner in range(1, 5) for axis in ("lon", "lat")),
    *("length_m", "width_m", "heading_deg"),
)
"""Pixels, radians (``theta``), degrees and metres; the last eleven are empty where no place on Earth is known."""


class CsvSink:
    """Writes ``detections.SENSOR.csv`` after RFC 4180, with :data:`HEADER`; whole rows are there after every image.

    Args:
        path: The file; an older one is replaced.
        mark: Where an earlier run's file goes on; ``None``: it begins anew.

    Raises:
        BabelRSError: The file cannot be written.
    """

    def __init__(self, path: Path, mark: Mark | None = None) -> None:
        self._file = AppendedFile(path, _lines([list(HEADER)]), end=None if mark is None else mark["end"])

    def write(self, result: FrameResult) -> None:
        """Add one image's rows."""
        if len(result.detections):
            self._file.append(_lines(result_rows(result)))

    def mark(self) -> Mark:
        """Where the file ends."""
        return {"end": self._file.end}

    def sync(self) -> None:
        """Bring the file to the disk itself."""
        self._file.sync()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def result_rows(result: FrameResult) -> list[list[str]]:
    """One image's detections, a row each, as :data:`HEADER` names them."""
    found, head = result.detections, [result.source, str(result.frame), result.time, result.sensor.value]
    rows = []
    for index, (box, corners) in enumerate(zip(found.boxes, to_corners(found.boxes), strict=True)):
        label, score = found.classes[found.labels[index]], f"{found.scores[index]:.6f}"
        pixels = [*(f"{side:.3f}" for side in box[:4]), f"{box[4]:.6f}", *(f"{value:.3f}" for value in corners.flat)]
        rows.append([*head, label, score, *pixels, *_ground(result, index)])
    return rows


def _ground(result: FrameResult, index: int) -> list[str]:
    places = result.places
    if places is None or not np.isfinite(places.lonlat[index]).all():
        return [""] * 11
    degrees = [f"{value:.{DECIMALS}f}" for value in places.lonlat[index].flat]
    return [*degrees, *(f"{value:.2f}" for value in ground_record(places, index).values())]


def _lines(rows: list[list[str]]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    return text.getvalue().encode()
