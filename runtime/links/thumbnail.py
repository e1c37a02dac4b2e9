"""A small picture of a detection."""

from __future__ import annotations

import numpy as np

from babelrs.images import quiet_opencv
from runtime.pipeline import FrameResult

SIDE_PX = 64
MOST_BYTES = 1200
"""In base64 it still fits half of the least budget."""
MARGIN = 1.5
_QUALITIES = (75, 50, 30, 15)


def thumbnail(result: FrameResult, index: int) -> bytes | None:
    """A JPEG of one detection and what is around it, at most :data:`SIDE_PX` wide and high; ``None`` without a picture.

    Args:
        result: The frame; its picture may be thinned.
        index: Place of the detection in it.
    """
    image = result.image
    if image is None:
        return None
    cv2 = quiet_opencv()
    scale = image.shape[1] / result.width
    cx, cy, width, height = (float(value) * scale for value in result.detections.boxes[index, :4])
    half = max(4.0, MARGIN * max(width, height) / 2)
    left, top = (int(np.clip(value - half, 0, side)) for value, side in ((cx, image.shape[1]), (cy, image.shape[0])))
    right, bottom = (
        int(np.clip(np.ceil(value + half), 0, side)) for value, side in ((cx, image.shape[1]), (cy, image.shape[0]))
    )
    crop = image[top:bottom, left:right]
    if crop.size == 0:
        return None
    factor = min(1.0, SIDE_PX / max(crop.shape[:2]))
    size = tuple(max(1, round(side * factor)) for side in crop.shape[1::-1])
    small = cv2.resize(crop, size, interpolation=cv2.INTER_AREA)
    shown = small if small.ndim == 2 else cv2.cvtColor(small, cv2.COLOR_RGB2BGR)
    for quality in _QUALITIES:
        done, data = cv2.imencode(".jpg", shown, [cv2.IMWRITE_JPEG_QUALITY, quality])
        if done and data.size <= MOST_BYTES:
            return data.tobytes()  # type: ignore[no-any-return]
    return None
