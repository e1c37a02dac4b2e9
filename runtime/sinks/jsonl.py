"""JSON Lines: one object a frame, on disk as soon as the frame is done."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from babelrs.boxes import to_corners
from runtime.pipeline import FrameResult
from runtime.sinks.appending import AppendedFile
from runtime.sinks.geojson import DECIMALS
from runtime.sinks.resumable import Mark

SCHEMA = "babelrs.detections/1"


class JsonLinesSink:
    """Writes ``detections.SENSOR.jsonl``.

    Args:
        path: The file; an older one is replaced.
        mark: Where an earlier run's file goes on; ``None``: it begins anew.

    Raises:
        BabelRSError: The file cannot be written.
    """

    def __init__(self, path: Path, mark: Mark | None = None) -> None:
        self._file = AppendedFile(path, end=None if mark is None else mark["end"])

    def write(self, result: FrameResult) -> None:
        """Append one line; where the disk takes only a part of it, none of it stays."""
        self._file.append((json.dumps(frame_record(result), ensure_ascii=False, allow_nan=False) + "\n").encode())

    def mark(self) -> Mark:
        """Where the file ends."""
        return {"end": self._file.end}

    def sync(self) -> None:
        """Bring the file to the disk itself."""
        self._file.sync()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def frame_record(result: FrameResult) -> dict[str, Any]:
    """One frame as plain values, schema ``babelrs.detections/1``: pixels, radians, milliseconds."""
    return {
        "schema": SCHEMA,
        "source": result.source,
        "frame": result.frame,
        "time": result.time,
        "sensor": result.sensor.value,
        "width": result.width,
        "height": result.height,
        "engine": result.engine,
        "precision": result.precision,
        "latency_ms": {stage: round(value, 3) for stage, value in result.latency_ms.items()},
        "detections": detection_records(result),
    }


def detection_records(result: FrameResult) -> list[dict[str, Any]]:
    """The frame's detections as plain values; coordinates to a thousandth of a pixel, angles to 1e-6 rad.

    ``lonlat``, longitude and latitude of the corners to 1e-7 degrees, where they are known.
    """
    found = result.detections
    records: list[dict[str, Any]] = [
        {
            "label": found.classes[label],
            "score": round(score, 6),
            "obb": [*(round(value, 3) for value in box[:4]), round(box[4], 6)],
            "polygon": [[round(x, 3), round(y, 3)] for x, y in corners],
        }
        for box, score, label, corners in zip(
            found.boxes.tolist(),
            found.scores.tolist(),
            found.labels.tolist(),
            to_corners(found.boxes).tolist(),
            strict=True,
        )
    ]
    if result.places is not None:
        for record, corners, known in zip(records, result.places.lonlat.tolist(), result.places.known, strict=True):
            if known:
                record["lonlat"] = [[round(value, DECIMALS) for value in corner] for corner in corners]
    return records
