"""Running a detector over images on the ground, by the same steps as on board."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch

from babelrs.detections import Detections
from babelrs.errors import BabelRSError
from babelrs.images import read_frame
from babelrs.postprocess import detections_from_outputs
from babelrs.radiometry import RadiometryProfile, to_uint8
from babelrs.seams import merge_tiles
from babelrs.sensors import Sensor
from babelrs.tiling import Tile, cut_tile, plan_tiles
from train.data.read_ahead import ahead
from train.models.detector import Detector, SensorDetector

EVALUATION_SCORE = 0.02
"""Detections below this score are left out of an evaluation, as on COCO's and DOTA's servers."""

Pixels = npt.NDArray[np.uint8]


@dataclass
class _Waiting:
    """An image whose tiles are not all through the model yet."""

    name: str
    width: int
    height: int
    tiles: list[Tile]
    done: list[Detections]


@dataclass(frozen=True)
class Prediction:
    """What was found in an image of that size.

    Attributes:
        detections: In pixels of the image.
        width: Columns of the image.
        height: Rows of the image.
    """

    detections: Detections
    width: int
    height: int


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
        (prediction,) = self.stream([path])
        return prediction.detections

    def __call__(self, image: Pixels) -> Detections:
        """Detections of a ``(H, W, C)`` uint8 image of any size."""
        (prediction,) = self._batched([("the image", image.shape[1], image.shape[0], *self._cut(image))])
        return prediction.detections

    def stream(self, paths: Sequence[Path]) -> Iterator[Prediction]:
        """Predictions of image files, in their order; tiles of several images share a batch.

        Raises:
            ImageError: A file cannot be used.
            BabelRSError: The model's outputs are not finite; the image is named.
        """
        yield from self._batched(ahead(self._read, paths))

    def _read(self, path: Path) -> tuple[str, int, int, list[Tile], list[Pixels]]:
        image = to_uint8(read_frame(path), self.profile)
        return str(path), image.shape[1], image.shape[0], *self._cut(image)

    def _cut(self, image: Pixels) -> tuple[list[Tile], list[Pixels]]:
        height, width = self.config.input_px.of(self.sensor)
        tiles = plan_tiles(image.shape[1], image.shape[0], width, height, self.config.tile_overlap)
        return tiles, [cut_tile(image, tile, width, height) for tile in tiles]

    def _batched(self, images: Iterable[tuple[str, int, int, list[Tile], list[Pixels]]]) -> Iterator[Prediction]:
        waiting: deque[_Waiting] = deque()
        batch: list[tuple[_Waiting, Pixels]] = []
        for name, width, height, tiles, cut in images:
            waiting.append(_Waiting(name, width, height, tiles, []))
            for pixels in cut:
                batch.append((waiting[-1], pixels))
                if len(batch) == self.batch_size:
                    self._run(batch)
                    batch = []
            while waiting and len(waiting[0].done) == len(waiting[0].tiles):
                yield self._merged(waiting.popleft())
        if batch:
            self._run(batch)
        for image in waiting:
            yield self._merged(image)

    def _merged(self, image: _Waiting) -> Prediction:
        found = merge_tiles(list(zip(image.tiles, image.done, strict=True)), self.config.nms_iou)
        return Prediction(found, image.width, image.height)

    def _run(self, batch: list[tuple[_Waiting, Pixels]]) -> None:
        pixels = torch.from_numpy(np.stack([pixels for _, pixels in batch]))
        with torch.inference_mode():
            outputs = [output.cpu().numpy() for output in self.model(pixels.to(self.device))]
        for (image, _), boxes, scores, labels in zip(batch, *outputs, strict=True):
            if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
                raise BabelRSError(
                    f"{image.name}: the {self.sensor} outputs of the model hold NaN or infinity.",
                    "The weights are damaged or training diverged: take an earlier checkpoint.",
                )
            image.done.append(
                detections_from_outputs(
                    boxes, scores, labels, self.classes, self.sensor, self.score_threshold, self.config.nms_iou
                )
            )
