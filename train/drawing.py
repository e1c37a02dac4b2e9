"""Outlines on images, to a fraction of a pixel."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from babelrs.images import quiet_opencv

_FRACTION_BITS = 3
_FARTHEST = 200_000
"""Of a corner, in eighths of a pixel: OpenCV overflows beyond."""


def outline(
    canvas: npt.NDArray[np.uint8], polygons: npt.NDArray[np.floating], colour: tuple[int, int, int], width_px: int
) -> None:
    """Draw closed polygons on an image, in place.

    Args:
        canvas: ``(H, W, 3)`` uint8.
        polygons: Corners ``(N, K, 2)`` x, y in pixels; pixel ``i`` covers ``[i, i + 1]``.
        colour: In the canvas' order of channels.
        width_px: Of the line.
    """
    cv2 = quiet_opencv()
    fixed = np.clip((polygons - 0.5) * 2**_FRACTION_BITS, -_FARTHEST, _FARTHEST)  # OpenCV counts from pixel centres
    for polygon in np.rint(fixed).astype(np.int32):
        cv2.polylines(canvas, [polygon], True, colour, width_px, cv2.LINE_AA, _FRACTION_BITS)
