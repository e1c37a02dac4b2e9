"""A small data set and calibration images for the tiny detector."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from babelrs.boxes import to_corners
from babelrs.sensors import Sensor
from compress.calibration import CalibrationImage, CalibrationSet
from tests.train.builders import (
    SAR_IMAGES,
    coco,
    dota_line,
    random_pixels,
    tiny_model,
    write_all_sensors,
    write_sar,
    write_text_image,
)

SIZE = (64, 80)
"""Rows and columns of a drawn image."""


def write_data(root: Path, train: int = 4, held_out: int = 2) -> Path:
    """Train and eval split of all sensors; no image is in both."""
    write_all_sensors(root, "train", train)
    write_all_sensors(root, "eval", held_out, (72, 84))
    return root


def calibration_images(count: int = 4, seed: int = 0) -> CalibrationSet:
    """Random images of every sensor, of the tiny model's inputs."""
    images = {}
    for number, sensor in enumerate(Sensor):
        height, width = tiny_model().input_px.of(sensor)
        pixels = random_pixels((count, height, width, sensor.num_channels), seed + number).numpy()
        images[sensor] = tuple(
            CalibrationImage(f"{sensor}{index}", f"{index:064x}", np.ascontiguousarray(image))
            for index, image in enumerate(pixels)
        )
    return CalibrationSet(images)


def draw_data(root: Path, train: int = 24, held_out: int = 8, seed: int = 5) -> Path:
    """Images of all sensors with bright oriented bars on noise, which a small model learns in a few hundred steps."""
    rng = np.random.default_rng(seed)
    for split, count in (("train", train), ("eval", held_out)):
        boxes: dict[str, list[list[float]]] = {}
        for index in range(count):
            for sensor, name in ((Sensor.RGB, "ship"), (Sensor.IR, "Car")):
                found = _bars(rng, oriented=True)
                lines = [dota_line(box, name) for box in found]
                image, _ = write_text_image(root, sensor, split, f"{split}{index}", lines, SIZE)
                cv2.imwrite(str(image), _drawn(rng, found, 3 if sensor is Sensor.RGB else 1))
            boxes[f"{split}{index}.png"] = [
                [x - w / 2, y - h / 2, w, h] for x, y, w, h, _ in _bars(rng, oriented=False)
            ]
        write_sar(root, split, coco(boxes), SIZE)
        for name, corners in boxes.items():
            horizontal = [[x + w / 2, y + h / 2, w, h, 0.0] for x, y, w, h in corners]
            cv2.imwrite(str(root / SAR_IMAGES / name), _drawn(rng, horizontal, 1))
    return root


def _bars(rng: np.random.Generator, oriented: bool) -> list[list[float]]:
    """Two boxes that do not touch, one in either half of the image."""
    height, width = SIZE
    return [
        [
            width * (0.27 + 0.46 * half) + rng.uniform(-3, 3),
            height / 2 + rng.uniform(-12, 12),
            rng.uniform(18, 24),
            rng.uniform(8, 11),
            rng.uniform(-0.7, 0.7) if oriented else 0.0,
        ]
        for half in (0, 1)
    ]


def _drawn(rng: np.random.Generator, boxes: Sequence[Sequence[float]], channels: int) -> npt.NDArray[np.uint8]:
    image = rng.normal(60, 12, (*SIZE, channels)).clip(0, 255).astype(np.uint8)
    for corners in to_corners(np.array(boxes, np.float32)):
        points = np.rint(corners * 16 - 8).astype(np.int32)  # OpenCV's fixed point; its pixel centres are integers
        cv2.fillPoly(image, [points], (210,) * channels, shift=4)
    return image
