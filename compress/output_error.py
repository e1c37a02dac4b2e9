"""How far a compressed model's outputs are from the float model's, where the float model sees something.

Faster than measuring accuracy, and fine enough to tell which part of a model suffers: at the points that the float
model scores highest, the change of the score plus what is lost of the boxes' overlap (as Gaussians), weighted by the
float model's score. 0 where nothing changed, towards 2 where nothing is left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from babelrs.sensors import Sensor
from compress.calibration import CalibrationSet
from train.data.read_ahead import ahead
from train.gaussian import bhattacharyya_similarity, box_gaussian
from train.models.detector import Detector, normalise
from train.models.head import RawOutputs, decode_geometry, unit_directions
from train.models.pyramid import anchor_points

Raw = Callable[[Sensor, Tensor], RawOutputs]
"""A model: raw outputs of a sensor's head for ``(N, H, W, C)`` uint8 pixels."""
POINTS = 100
"""Points of an image that are compared: those of highest score."""
BATCH = 4


@dataclass(frozen=True)
class _Reference:
    """What the float model gives for a batch: index of the points ``(B, K)``, their class, score and box."""

    pixels: Tensor
    index: Tensor
    labels: Tensor
    scores: Tensor
    boxes: tuple[Tensor, Tensor]


class OutputErrors:
    """The float model's outputs on a few images of every sensor, to compare with.

    Args:
        model: The float model.
        strides: Of its pyramid, pixels.
        images: The images.
        count: How many of each sensor are used.
        threads: Batches at a time; no error depends on it.
    """

    def __init__(
        self, model: Raw, strides: Sequence[int], images: CalibrationSet, count: int, threads: int = 1
    ) -> None:
        self._strides, self._threads = tuple(strides), threads
        self._references: dict[Sensor, list[_Reference]] = {}
        for sensor in images.images:
            batches = (torch.from_numpy(pixels) for _, pixels in images.batches(sensor, BATCH, count))
            self._references[sensor] = list(ahead(partial(self._reference, model, sensor), batches, threads))

    def of(self, model: Raw, sensor: Sensor) -> float:
        """The error of a compressed model."""
        parts = list(ahead(partial(self._part, model, sensor), self._references[sensor], self._threads))
        return sum(error for error, _ in parts) / max(sum(weight for _, weight in parts), 1e-12)

    @torch.no_grad()
    def _part(self, model: Raw, sensor: Sensor, reference: _Reference) -> tuple[float, float]:
        """The summed error and weight of a batch."""
        raw = model(sensor, reference.pixels)
        scores = _at(raw.logits, reference.index).sigmoid().gather(2, reference.labels[..., None])[..., 0]
        overlap = bhattacharyya_similarity(self._boxes(raw, reference.pixels, reference.index), reference.boxes)
        change = (scores - reference.scores).abs() + (1.0 - overlap)
        return float((reference.scores * change).sum()), float(reference.scores.sum())

    @torch.no_grad()
    def _reference(self, model: Raw, sensor: Sensor, pixels: Tensor) -> _Reference:
        raw = model(sensor, pixels)
        best, labels = raw.logits.float().max(-1)  # (B, A)
        top, index = best.topk(min(POINTS, best.shape[1]), dim=1)
        return _Reference(pixels, index, labels.gather(1, index), top.sigmoid(), self._boxes(raw, pixels, index))

    def _boxes(self, raw: RawOutputs, pixels: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Gaussians of the boxes at points ``index`` ``(B, K)``."""
        height, width = int(pixels.shape[1]), int(pixels.shape[2])
        points, strides = anchor_points(height, width, self._strides, pixels.device)
        geometry = decode_geometry(_at(raw.distributions, index), points[index], strides[index])
        directions = None if raw.directions is None else _at(raw.directions, index)
        return box_gaussian(geometry, unit_directions(directions, geometry))


def raw_outputs_of(detector: Detector) -> Raw:
    """A detector in evaluation mode as a model to compare."""

    def run(sensor: Sensor, pixels: Tensor) -> RawOutputs:
        found: RawOutputs = detector.heads[sensor.value](detector.features(normalise(pixels)))
        return found

    return run


def _at(values: Tensor, index: Tensor) -> Tensor:
    """Rows ``(B, K, C)`` of ``(B, A, C)`` at ``(B, K)``."""
    return values.float().gather(1, index[..., None].expand(-1, -1, values.shape[-1]))


def worst(errors: Mapping[Sensor, float]) -> float:
    """The error of the sensor that suffers most: none is given up for the others."""
    return max(errors.values())
