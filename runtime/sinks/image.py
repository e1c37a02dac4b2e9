"""Annotated images: every detection's oriented box, class and score, legible on small images too."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from babelrs.boxes import to_corners
from babelrs.detections import Detections
from babelrs.errors import BabelRSError
from babelrs.images import quiet_opencv
from runtime.pipeline import FrameResult
from runtime.sinks.resumable import Mark
from runtime.sinks.whole import WholeFiles

# Blue, green, red; apart from each other and from gray, water and vegetation.
PALETTE = (
    (60, 220, 255),
    (255, 160, 40),
    (80, 255, 80),
    (230, 90, 255),
    (60, 130, 255),
    (255, 255, 70),
    (150, 120, 255),
    (40, 230, 190),
)
LEGIBLE_PX = 1000
"""A longer side below this is enlarged by a whole factor, so that text takes up less of the scene."""

_MAX_SCALE = 4
_JPEG_MAX_PX = 65_500
_PNG_MAX_PX = 1_000_000  # of libpng, as OpenCV builds it
_LOGGER = logging.getLogger(__name__)
_FONT_SCALE = 0.42
_PAD_PX = 2

Image = npt.NDArray[np.uint8]
Rect = tuple[int, int, int, int]


class ImageSink:
    """Writes ``images.SENSOR/IMAGE.jpg`` (``.png`` beyond JPEG's size limit).

    Args:
        folder: Where the files go.
        mark: Of an earlier run, or none: files of the same names are replaced in either case.
    """

    def __init__(self, folder: Path, mark: Mark | None = None) -> None:
        self._files = WholeFiles(folder)

    def write(self, result: FrameResult) -> None:
        """Draw and write one image."""
        if max(result.width, result.height) > _PNG_MAX_PX:
            _LOGGER.warning("%s: a side of over %d pixels: no annotated image", result.source, _PNG_MAX_PX)
            return
        cv2 = quiet_opencv()
        drawn = annotate(result)
        small = max(drawn.shape[:2]) <= _JPEG_MAX_PX
        suffix, options = (".jpg", [cv2.IMWRITE_JPEG_QUALITY, 92]) if small else (".png", [])
        done, data = cv2.imencode(suffix, drawn, options)
        if not done:
            raise BabelRSError(f"{result.source}: the annotated image cannot be encoded.", "Leave out --save-images.")
        self._files.write(f"{result.name}{suffix}", data.tobytes())

    def mark(self) -> Mark:
        """Nothing: a file that is written again is the same."""
        return {}

    def sync(self) -> None:
        """Bring the files to the disk itself."""
        self._files.sync()

    def close(self) -> None:
        """Nothing is left to do."""


def display_scale(width: int, height: int) -> int:
    """The whole factor by which an image is enlarged for display."""
    return int(np.clip(np.ceil(LEGIBLE_PX / max(width, height)), 1, _MAX_SCALE))


def annotate(result: FrameResult, scale: float | None = None) -> Image:
    """The image the model saw, in colour, with the detections drawn.

    Args:
        result: What was found, with an image.
        scale: Factor ``s`` by which the image is enlarged or reduced; ``None``: :func:`display_scale`.

    Returns:
        ``(s H, s W, 3)`` uint8 in OpenCV's blue, green, red order, ``H`` and ``W`` of the result's image.

    Raises:
        BabelRSError: The result has no image.
    """
    image = result.image
    if image is None:
        raise BabelRSError(f"{result.source}: no image was kept to draw on.", "Leave out --save-images.")
    shrunk = np.array([image.shape[1] / result.width, image.shape[0] / result.height], np.float32)
    found = replace(result.detections, boxes=result.detections.boxes * [*shrunk, shrunk[0], shrunk[0], 1])
    return draw(image, found, display_scale(image.shape[1], image.shape[0]) if scale is None else scale)


def draw(image: Image, found: Detections, scale: float, captions: bool = True) -> Image:
    """An image, enlarged or reduced, with detections drawn on it.

    Args:
        image: ``(H, W, 3)`` red, green, blue, or ``(H, W, 1)``, uint8.
        found: In pixels of the image.
        scale: Factor of both sides; lines and letters keep their size.
        captions: Whether class and score are written beside each box.

    Returns:
        ``(s H, s W, 3)`` uint8 in OpenCV's blue, green, red order, both sides rounded.
    """
    cv2 = quiet_opencv()
    canvas: Image = cv2.cvtColor(image, cv2.COLOR_GRAY2BGR if image.shape[2] == 1 else cv2.COLOR_RGB2BGR)
    if scale != 1:
        size = (max(1, round(image.shape[1] * scale)), max(1, round(image.shape[0] * scale)))
        canvas = cv2.resize(canvas, size, interpolation=cv2.INTER_CUBIC if scale > 1 else cv2.INTER_AREA)
    corners = to_corners(found.boxes) * scale - 0.5  # a pixel spans [x, x + 1); OpenCV draws on pixel centres
    colours = [PALETTE[label % len(PALETTE)] for label in found.labels]
    for polygon, colour in zip(corners, colours, strict=True):
        points = np.rint(np.clip(polygon, -32_000, 32_000) * 8).astype(np.int32)  # fixed point, 3 bits
        cv2.polylines(canvas, [points], True, (0, 0, 0), 4, cv2.LINE_AA, 3)
        cv2.polylines(canvas, [points], True, colour, 2, cv2.LINE_AA, 3)
    if captions:
        _write_labels(canvas, found, corners, colours)
    return canvas


def _write_labels(
    canvas: Image, found: Detections, corners: npt.NDArray[np.float64], colours: list[tuple[int, int, int]]
) -> None:
    """Write class and score of every box with ``corners`` ``(N, 4, 2)``, in pixels of the canvas."""
    taken = np.concatenate([corners.min(axis=1), corners.max(axis=1)], axis=1)  # (N, 4) x0, y0, x1, y1
    for polygon, colour, label, score in zip(corners, colours, found.labels, found.scores, strict=True):
        plate = _write_label(canvas, f"{found.classes[label]} {score:.2f}", polygon, colour, taken)
        taken = np.concatenate([taken, [plate, plate]])  # covering a label is worse than covering a box


def _write_label(
    canvas: Image,
    text: str,
    polygon: npt.NDArray[np.float64],
    colour: tuple[int, int, int],
    taken: npt.NDArray[np.float64],
) -> Rect:
    """Write ``text`` on a plate beside a box, where it covers least of the rectangles ``taken``."""
    cv2 = quiet_opencv()
    (text_width, text_height), baseline = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, _FONT_SCALE, 1)
    width, height = text_width + 2 * _PAD_PX, text_height + baseline + 2 * _PAD_PX
    places = [_inside(place, (width, height), canvas) for place in _places(polygon, (width, height))]
    x, y = min(places, key=lambda place: _covered((*place, place[0] + width, place[1] + height), taken))
    cv2.rectangle(canvas, (x, y), (x + width - 1, y + height - 1), colour, cv2.FILLED)
    at = (x + _PAD_PX, y + _PAD_PX + text_height)
    cv2.putText(canvas, text, at, cv2.FONT_HERSHEY_SIMPLEX, _FONT_SCALE, (0, 0, 0), 1, cv2.LINE_AA)
    return x, y, x + width, y + height


def _places(polygon: npt.NDArray[np.float64], plate: tuple[int, int]) -> list[tuple[float, float]]:
    """Top left corners of the plate, best first: above, below, right and left of the box."""
    (left, top), (right, bottom) = polygon.min(axis=0), polygon.max(axis=0)
    width, height = plate
    middle = (top + bottom - height) / 2
    return [
        (left, top - height - 2),
        (left, bottom + 3),
        (right + 3, middle),
        (left - width - 3, middle),
        (right - width, top - height - 2),
        (right - width, bottom + 3),
    ]


def _inside(place: tuple[float, float], plate: tuple[int, int], canvas: Image) -> tuple[int, int]:
    high: Any = np.maximum(np.array(canvas.shape[1::-1]) - plate, 0)
    x, y = np.clip(np.rint(place), 0, high).astype(int)
    return int(x), int(y)


def _covered(plate: Rect, taken: npt.NDArray[np.float64]) -> float:
    """Area, px^2, that ``plate`` shares with the rectangles ``taken`` ``(N, 4)``."""
    sides = np.minimum(plate[2:], taken[:, 2:]) - np.maximum(plate[:2], taken[:, :2])
    return float(np.prod(np.maximum(sides, 0.0), axis=1).sum())
