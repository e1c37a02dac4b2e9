"""Self-tests of a bundle: a known input of every graph, and the outputs it must give."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from babelrs.bundle import SelfTest
from babelrs.images import read_frame
from babelrs.manifest import SensorEntry
from babelrs.radiometry import to_uint8
from babelrs.sensors import Sensor
from babelrs.tiling import cut_tile, plan_tiles
from compress.config import QuantizeConfig
from compress.entries import sensor_entry
from runtime.engines import Engine
from train.checkpoint import Checkpoint
from train.data.soi_det import read_split
from train.models.detector import Detector, SensorDetector

FLOAT_TOLERANCES = (1e-3, 0.05)
"""How far an exported float32 graph's scores and boxes, pixels, may lie from PyTorch's."""
ROUNDED_TOLERANCES = (0.05, 4.0)
"""The same from one engine to another, of float16 and INT8 graphs: each rounds on its own way."""
ROUNDED_MIN_SCORE = 0.25
"""Candidates of such graphs below this score are not compared."""


def selftest_pixels(config: QuantizeConfig, checkpoint: Checkpoint, sensor: Sensor) -> np.ndarray[Any, Any]:
    """The self-test's input ``(1, H, W, C)`` uint8: the middle of a real image on black, or noise."""
    height, width = checkpoint.model.input_px.of(sensor)
    root = config.selftest_root or config.data.root
    if root is None:
        shape = (1, height, width, sensor.num_channels)
        return np.random.default_rng([config.seed, list(Sensor).index(sensor)]).integers(0, 256, shape, dtype=np.uint8)
    samples = read_split(root, [sensor], "eval")[sensor]
    sample = max(samples, key=lambda each: len(each.names))  # the fullest image tests most
    image = to_uint8(read_frame(sample.path), checkpoint.profiles[sensor])
    side = config.selftest_px
    top, left = max(0, (image.shape[0] - side) // 2), max(0, (image.shape[1] - side) // 2)
    part = image[top : top + side, left : left + side]
    tile = plan_tiles(part.shape[1], part.shape[0], width, height, 0.0)[0]
    return cut_tile(part, tile, width, height)[None]


def from_pytorch(detector: Detector, sensor: Sensor, pixels: np.ndarray[Any, Any], rounded: bool = False) -> SelfTest:
    """PyTorch's float32 outputs for ``(N, H, W, C)`` uint8 pixels, with the tolerances of float or rounded graphs."""
    model = SensorDetector(detector, sensor, detector.config.max_detections).eval()
    with torch.inference_mode():
        boxes, scores, labels = (output.numpy() for output in model(torch.from_numpy(pixels)))
    limits = (*ROUNDED_TOLERANCES, ROUNDED_MIN_SCORE) if rounded else FLOAT_TOLERANCES
    return SelfTest(pixels, boxes, scores, labels, *limits)


def from_engine(engine: Engine, pixels: np.ndarray[Any, Any]) -> SelfTest:
    """What the shipped graph itself gives here, for other engines to be compared with."""
    return SelfTest(pixels, *engine.infer(pixels), *ROUNDED_TOLERANCES, ROUNDED_MIN_SCORE)


def entry_of(config: QuantizeConfig, checkpoint: Checkpoint, sensor: Sensor) -> SensorEntry:
    """A sensor's entry in the manifest."""
    return sensor_entry(checkpoint, sensor, config.precision, config.score_threshold)
