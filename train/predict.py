"""Running a detector over images on the ground, by the same steps as on board."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from babelrs.detections import Detections
from babelrs.images import read_frame
from babelrs.postprocess import detections_from_outputs
from babelrs.radiometry import RadiometryProfile, to_uint8
from babelrs.sensors import Sensor
from babelrs.tiling import cut_tile, merge_tiles, plan_tiles
from train.models.detector import Detector, SensorDetector

EVALUATION_SCORE = 0.02
"""Detections below this score are left out of an evaluation, as on COCO's and DOTA's servers."""


class Predictor:
    """One sensor's detector over whole images.

    Args:
        detector: In evaluation mode.
        profile: The sensor's radiometry.
        sensor: The sensor.
        score_threshold: Detections below it are dropped.
        device: Where to run.
        batch_size: Tiles at a time.
    """

    def __init__(
        self,
        detector: Detector,
        profile: RadiometryProfile,
        sensor: Sensor,
        score_threshold: float = EVALUATION_SCORE,
        device: torch.device | None = None,
        batch_size: int = 4,
    ) -> None:
        self.config, self.profile, self.sensor = detector.config, profile, sensor
        self.score_threshold, self.batch_size = score_threshold, batch_size
        self.device = device or torch.device("cpu")
        self.classes = detector.classes[sensor]
        self.model = SensorDetector(detector, sensor, self.config.max_detections).to(self.device).eval()

    def from_file(self, path: Path) -> Detections:
        """Detections of an image file, in pixels of the image."""
        return self(to_uint8(read_frame(path), self.profile))

    def __call__(self, image: npt.NDArray[np.uint8]) -> Detections:
        """Detections of a ``(H, W, C)`` uint8 image of any size."""
        height, width = self.config.input_px.of(self.sensor)
        tiles = plan_tiles(image.shape[1], image.shape[0], width, height, self.config.tile_overlap)
        cut = np.stack([cut_tile(image, tile, width, height) for tile in tiles])
        return merge_tiles(list(zip(tiles, self._tiles(cut), strict=True)), self.config.nms_iou)

    def _tiles(self, pixels: npt.NDArray[np.uint8]) -> Iterator[Detections]:
        for start in range(0, len(pixels), self.batch_size):
            with torch.inference_mode():
                outputs = self.model(torch.from_numpy(pixels[start : start + self.batch_size]).to(self.device))
            for boxes, scores, labels in zip(*(output.cpu().numpy() for output in outputs), strict=True):
                yield detections_from_outputs(
                    boxes, scores, labels, self.classes, self.sensor, self.score_threshold, self.config.nms_iou
                )
