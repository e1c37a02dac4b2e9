"""JSON Lines: one object a frame, on disk as soon as the frame is done."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

from babelrs.boxes import to_corners
from runtime.pipeline import FrameResult
from runtime.sinks import unwritable

SCHEMA = "babelrs.detections/1"


class JsonLinesSink:
    """Writes ``detections.SENSOR.jsonl``.

    Args:
        path: The file; an older one is replaced.

    Raises:
        BabelRSError: The file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._stream = path.open("wb", buffering=0)
        except OSError as error:
            raise unwritable(path, error) from None

    def write(self, result: FrameResult) -> None:
        """Append one line; where the disk takes only a part of it, none of it stays."""
        line = (json.dumps(frame_record(result), ensure_ascii=False, allow_nan=False) + "\n").encode()
        start = self._stream.tell()
        try:
            if self._stream.write(line) != len(line):
                raise OSError(errno.ENOSPC, "no space for the whole line")
        except OSError as error:
            self._stream.truncate(start)
            raise unwritable(self._path, error) from None

    def close(self) -> None:
        """Close the file."""
        self._stream.close()


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
    """The frame's detections as plain values; coordinates to a thousandth of a pixel, angles to 1e-6 rad."""
    found = result.detections
    return [
        {
            "label": found.classes[label],
            "score": round(float(score), 6),
            "obb": [*(round(float(value), 3) for value in box[:4]), round(float(box[4]), 6)],
            "polygon": [[round(float(x), 3), round(float(y), 3)] for x, y in corners],
        }
        for box, score, label, corners in zip(
            found.boxes, found.scores, found.labels, to_corners(found.boxes), strict=True
        )
    ]
