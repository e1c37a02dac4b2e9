"""Random similarity transforms and photometric changes of a training image.

A similarity (turn, mirror, zoom, shift) maps an oriented rectangle onto an oriented rectangle, so boxes stay exact. SAR
boxes are horizontal and only take quarter turns, under which they stay horizontal.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from babelrs.boxes import rotated_intersection, to_le90
from babelrs.sensors import Sensor
from train.config import AugmentConfig

MIN_SIDE_PX = 3.0
"""Objects whose longer side is below this in the crop are ignored: nothing of them can be seen."""


@dataclass(frozen=True)
class Similarity:
    """``p -> zoom * R(turn) * F * p + (dx, dy)``, F mirroring x when ``mirror`` is set; turn in radians, clockwise."""

    zoom: float
    turn: float
    mirror: bool
    dx: float
    dy: float

    def matrix(self) -> npt.NDArray[np.float64]:
        """The transform as a ``(2, 3)`` matrix."""
        cos, sin = self.zoom * math.cos(self.turn), self.zoom * math.sin(self.turn)
        sign = -1.0 if self.mirror else 1.0
        return np.array([[sign * cos, -sin, self.dx], [sign * sin, cos, self.dy]])

    def pixel_matrix(self) -> npt.NDArray[np.float64]:
        """The same between pixel indices, ``(2, 3)``: pixel i covers ``[i, i + 1)``, its centre lies at i + 0.5."""
        matrix = self.matrix()
        matrix[:, 2] += matrix[:, :2].sum(1) / 2 - 0.5
        return matrix

    def boxes(self, boxes: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """``le90`` boxes ``(M, 5)`` after the transform."""
        matrix = self.matrix()
        centres = boxes[:, :2].astype(np.float64) @ matrix[:, :2].T + matrix[:, 2]
        sides = boxes[:, 2:4] * self.zoom
        theta = (-boxes[:, 4] if self.mirror else boxes[:, 4]) + self.turn
        return to_le90(np.column_stack([centres, sides, theta]))


@dataclass(frozen=True)
class Crop:
    """An augmented training image.

    Attributes:
        pixels: ``(H, W, C)`` uint8.
        boxes: ``(M, 5)`` float32 ``le90``.
        kept: ``(M,)`` indices of the objects that are learned, into the sample's.
        ignore_boxes: ``(G, 5)`` objects that are not: difficult, mostly cut, or too small.
    """

    pixels: npt.NDArray[np.uint8]
    boxes: npt.NDArray[np.float32]
    kept: npt.NDArray[np.int64]
    ignore_boxes: npt.NDArray[np.float32]


def draw_similarity(
    width: int,
    height: int,
    boxes: npt.NDArray[np.float32],
    sensor: Sensor,
    config: AugmentConfig,
    rng: np.random.Generator,
    size: tuple[int, int],
) -> Similarity:
    """A random transform from a ``width`` x ``height`` image to a crop of ``size`` (width, height).

    Half of the crops with objects are placed around one of them; the others anywhere in the image.
    """
    zoom = math.exp(rng.uniform(math.log(config.scale_min), math.log(config.scale_max)))
    turn = math.pi / 2 * int(rng.integers(4)) if config.rotate else 0.0
    if sensor is not Sensor.SAR and rng.random() < config.rotate_free:
        turn = rng.uniform(-math.pi, math.pi)
    mirror = bool(config.flip and rng.random() < 0.5)
    side = max(size) / zoom
    if len(boxes) and rng.random() < 0.5:
        focus = boxes[rng.integers(len(boxes)), :2] + rng.uniform(-side / 2.5, side / 2.5, 2)
    else:
        focus = np.array([_centre(width, side, rng), _centre(height, side, rng)])
    linear = Similarity(zoom, turn, mirror, 0.0, 0.0).matrix()[:, :2]
    shift = np.array(size) / 2 - linear @ focus
    return Similarity(zoom, turn, mirror, float(shift[0]), float(shift[1]))


def _centre(size: int, side: float, rng: np.random.Generator) -> float:
    """Centre of a window of ``side`` that lies inside ``size`` where it fits, else covers it."""
    low, high = sorted((side / 2, size - side / 2))
    return float(rng.uniform(low, high))


def change_light(
    pixels: npt.NDArray[np.uint8], config: AugmentConfig, rng: np.random.Generator
) -> npt.NDArray[np.uint8]:
    """The image with random contrast about mid-grey and random brightness; uint8, same shape."""
    contrast = 1.0 + rng.uniform(-config.contrast, config.contrast)
    brightness = 255.0 * rng.uniform(-config.brightness, config.brightness)
    table = np.clip((np.arange(256) - 127.5) * contrast + 127.5 + brightness, 0, 255).astype(np.uint8)
    return table[pixels]


def augment(
    pixels: npt.NDArray[np.uint8],
    boxes: npt.NDArray[np.float32],
    ignore: npt.NDArray[np.bool_],
    sensor: Sensor,
    config: AugmentConfig,
    rng: np.random.Generator,
    size: tuple[int, int] | None = None,
) -> Crop:
    """One random crop of an image ``(H, W, C)`` with its boxes ``(M, 5)``.

    Args:
        pixels: The image.
        boxes: Its objects.
        ignore: ``(M,)`` bool: objects that are not learned.
        sensor: Its sensor.
        config: Settings.
        rng: Every random draw.
        size: Width and height of the crop; default: ``crop_px`` each.
    """
    height, width = pixels.shape[:2]
    size = size or (config.crop_px, config.crop_px)
    similarity = draw_similarity(width, height, boxes, sensor, config, rng, size)
    warped = cv2.warpAffine(change_light(pixels, config, rng), similarity.pixel_matrix(), size, flags=cv2.INTER_LINEAR)
    warped = np.asarray(warped, np.uint8).reshape(*size[::-1], pixels.shape[2])  # OpenCV drops a single channel's axis
    moved = similarity.boxes(boxes)
    frame = np.array([[size[0] / 2, size[1] / 2, *size, 0]], np.float32)
    visible = rotated_intersection(moved, frame)[:, 0] / np.maximum(moved[:, 2] * moved[:, 3], 1e-6)
    usable = (visible >= config.min_visible) & (moved[:, 2] >= MIN_SIDE_PX) & ~ignore
    unsure = ~usable & (visible > 0)
    return Crop(warped, moved[usable], np.flatnonzero(usable), moved[unsure])
