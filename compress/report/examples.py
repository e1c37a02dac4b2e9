"""Detections to look at: the same image twice, with what float found and with what INT8 found."""

from __future__ import annotations

import base64
from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from babelrs.boxes import rotated_iou, to_corners
from babelrs.detections import Detections
from babelrs.images import quiet_opencv
from babelrs.sensors import Sensor
from compress.report.record import DetectedObject, ExampleRecord
from runtime.sinks.image import PALETTE, draw
from train.drawing import outline

LARGEST_PX = 640
SAME_IOU = 0.5
_MOST_CAPTIONS = 14
_MOST_SCALE = 4.0
_JPEG_QUALITY = 78
_FRAME_PX = 6


@dataclass(frozen=True)
class Example:
    """One image and what both models found in it.

    Attributes:
        image: Its name, without a folder.
        pixels: ``(H, W, C)`` uint8, what the models saw.
        float32: In pixels of the image, like ``int8``.
        int8: Of the quantized model.

    Raises:
        ValueError: The two are of different sensors or class lists, or the image is none.
    """

    image: str
    pixels: npt.NDArray[np.uint8]
    float32: Detections
    int8: Detections

    def __post_init__(self) -> None:
        if self.float32.sensor != self.int8.sensor or self.float32.classes != self.int8.classes:
            raise ValueError(f"{self.image}: detections of different sensors or class lists cannot be compared")
        if self.pixels.dtype != np.uint8 or self.pixels.ndim != 3 or self.pixels.shape[2] not in (1, 3):
            raise ValueError(f"{self.image}: (H, W, 1 or 3) uint8 expected, not {self.pixels.shape}")

    @property
    def sensor(self) -> Sensor:
        """The sensor that took the image."""
        return self.float32.sensor

    def record(self) -> ExampleRecord:
        """Both sets of detections for ``report.json``, coordinates to a thousandth of a pixel."""
        return ExampleRecord(self.sensor, self.image, _found(self.float32), _found(self.int8))

    def pictures(self) -> tuple[str, str]:
        """Float's and INT8's picture, at most 640 px wide, as data addresses (JPEG in base64).

        What only one of them found has a second, white frame.
        """
        height, width = self.pixels.shape[:2]
        scale = min(LARGEST_PX / max(width, height), _MOST_SCALE)
        before, after = self.same()
        captions = max(len(before), len(after)) <= _MOST_CAPTIONS
        return (
            _encoded(_drawn(self.pixels, self.float32, before, scale, captions)),
            _encoded(_drawn(self.pixels, self.int8, after, scale, captions)),
        )

    def same(self) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
        """Which of float's ``(N,)`` and of INT8's ``(M,)`` detections the other found too.

        That is one of the same class with an IoU of 0.5 or more, each at most once, float's surest first.
        """
        overlap = rotated_iou(self.float32.boxes, self.int8.boxes)  # (N, M)
        overlap[self.float32.labels[:, None] != self.int8.labels[None]] = 0
        before, after = np.zeros(len(self.float32), bool), np.zeros(len(self.int8), bool)
        for row in np.argsort(-self.float32.scores, kind="stable"):
            column = int(np.where(after, 0.0, overlap[row]).argmax()) if len(after) else 0
            if len(after) and not after[column] and overlap[row, column] >= SAME_IOU:
                before[row] = after[column] = True
        return before, after

    def legend(self) -> list[tuple[str, str, int, int]]:
        """Name, colour (``#rrggbb``) and both counts of every class that either found."""
        before, after = Counter(self.float32.labels.tolist()), Counter(self.int8.labels.tolist())
        return [
            (self.float32.classes[label], _hex(label), before[label], after[label]) for label in sorted(before | after)
        ]


def _hex(label: int) -> str:
    blue, green, red = PALETTE[label % len(PALETTE)]
    return f"#{red:02x}{green:02x}{blue:02x}"


def _drawn(
    pixels: npt.NDArray[np.uint8], found: Detections, same: npt.NDArray[np.bool_], scale: float, captions: bool
) -> npt.NDArray[np.uint8]:
    """The enlarged or reduced image with all detections; a white frame around those that are not the ``same``."""
    canvas = draw(pixels, found.select(np.zeros(len(found), bool)), scale)
    boxes = found.boxes * np.array([scale, scale, scale, scale, 1], np.float32)
    frames = to_corners(boxes[~same] + np.array([0, 0, 2, 2, 0]) * _FRAME_PX)
    outline(canvas, frames, (0, 0, 0), 4)
    outline(canvas, frames, (255, 255, 255), 2)
    return draw(np.ascontiguousarray(canvas[..., ::-1]), replace(found, boxes=boxes), 1.0, captions)


def _encoded(picture: npt.NDArray[np.uint8]) -> str:
    cv2 = quiet_opencv()
    done, data = cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, _JPEG_QUALITY])
    assert done, "a picture of at most 640 px can be encoded"
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def _found(detections: Detections) -> tuple[DetectedObject, ...]:
    return tuple(
        DetectedObject(detections.classes[label], round(float(score), 6), _obb(box))
        for box, score, label in zip(detections.boxes, detections.scores, detections.labels, strict=True)
    )


def _obb(box: npt.NDArray[np.float32]) -> tuple[float, float, float, float, float]:
    cx, cy, w, h = (round(float(value), 3) for value in box[:4])
    return cx, cy, w, h, round(float(box[4]), 6)
