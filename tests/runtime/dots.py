"""Images with bright dots, which the toy bundle finds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

Dot = tuple[int, int, int]  # x, y, counts


def dots_image(width: int, height: int, dots: Sequence[Dot]) -> npt.NDArray[np.uint8]:
    """``(height, width)``, dark but for the dots."""
    pixels = np.full((height, width), 20, np.uint8)
    for x, y, counts in dots:
        pixels[y, x] = counts
    return pixels


def write_dots(path: Path, width: int, height: int, dots: Sequence[Dot]) -> Path:
    """Write a lossless image of dots."""
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), dots_image(width, height, dots))
    return path
