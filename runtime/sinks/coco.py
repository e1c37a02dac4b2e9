"""COCO results: one JSON list for the whole run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from babelrs.boxes import to_coco, to_corners
from runtime.pipeline import FrameResult
from runtime.sinks.appending import AppendedFile
from runtime.sinks.resumable import Mark

_HEAD = b"["


class CocoSink:
    """Writes ``detections.SENSOR.coco.json``, a COCO results list.

    Each entry has ``image_id`` (place of the image in the run, from 1, skipped images included), ``file_name``,
    ``category_id`` (place of the class in the bundle, from 1), ``category_name``, ``bbox`` (``x, y, w, h`` of the
    enclosing horizontal box), ``segmentation`` (the four corners) and ``score``. The file is valid after every image.

    Args:
        path: The file; an older one is replaced.
        mark: Where an earlier run's file goes on; ``None``: it begins anew.

    Raises:
        BabelRSError: The file cannot be written.
    """

    def __init__(self, path: Path, mark: Mark | None = None) -> None:
        self._file = AppendedFile(path, _HEAD, b"]\n", end=None if mark is None else mark["end"])

    def write(self, result: FrameResult) -> None:
        """Add one frame's entries."""
        entries = [json.dumps(entry, ensure_ascii=False, allow_nan=False) for entry in result_entries(result)]
        if entries:
            joined = ",\n".join(entries)
            self._file.append((joined if self._file.end == len(_HEAD) else f",\n{joined}").encode())

    def mark(self) -> Mark:
        """Where the file ends."""
        return {"end": self._file.end}

    def sync(self) -> None:
        """Bring the file to the disk itself."""
        self._file.sync()

    def close(self) -> None:
        """Close the file."""
        self._file.close()


def result_entries(result: FrameResult) -> list[dict[str, Any]]:
    """One frame's detections as COCO results."""
    found = result.detections
    rows = zip(to_coco(found.boxes), to_corners(found.boxes), found.scores, found.labels, strict=True)
    return [
        {
            "image_id": result.frame + 1,
            "file_name": Path(result.source).name,
            "category_id": int(label) + 1,
            "category_name": found.classes[label],
            "bbox": [round(float(value), 3) for value in box],
            "segmentation": [[round(float(value), 3) for value in corners.reshape(-1)]],
            "score": round(float(score), 6),
        }
        for box, corners, score, label in rows
    ]
