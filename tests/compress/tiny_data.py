"""A small data set and calibration images for the tiny detector."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from babelrs.sensors import Sensor
from compress.calibration import CalibrationImage, CalibrationSet
from tests.train.builders import random_pixels, tiny_model, write_all_sensors


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
