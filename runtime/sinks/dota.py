"""DOTA result text: one file an image, one detection a line."""

from __future__ import annotations

from pathlib import Path

from babelrs.boxes import to_corners
from runtime.pipeline import FrameResult
from runtime.sinks.resumable import Mark
from runtime.sinks.whole import WholeFiles


class DotaSink:
    """Writes ``dota.SENSOR/IMAGE.txt``: ``x1 y1 x2 y2 x3 y3 x4 y4 class score``.

    Corners are pixels, clockwise on screen, as in DOTA's annotations, with the score where those have ``difficult``.
    Blanks in class names become hyphens. An image without detections gives an empty file.

    Args:
        folder: Where the files go.
        mark: Of an earlier run, or none: files of the same names are replaced in either case.
    """

    def __init__(self, folder: Path, mark: Mark | None = None) -> None:
        self._files = WholeFiles(folder)

    def write(self, result: FrameResult) -> None:
        """Write one image's file."""
        found = result.detections
        lines = [
            " ".join([*(f"{value:.2f}" for value in corners.reshape(-1)), _word(found.classes[label]), f"{score:.6f}"])
            for corners, label, score in zip(to_corners(found.boxes), found.labels, found.scores, strict=True)
        ]
        self._files.write(f"{result.name}.txt", "".join(line + "\n" for line in lines).encode())

    def mark(self) -> Mark:
        """Nothing: a file that is written again is the same."""
        return {}

    def sync(self) -> None:
        """Bring the files to the disk itself."""
        self._files.sync()

    def close(self) -> None:
        """Nothing is left to do."""


def _word(name: str) -> str:
    return "-".join(name.split())
