"""The whole detector: one shared backbone, aggregation and pyramid, one dense head per sensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from babelrs.errors import collected
from babelrs.sensors import Sensor
from train.config import ModelConfig
from train.models.aggregate import LayerwiseAggregate
from train.models.backbone import Features, build_backbone
from train.models.head import DenseHead, RawOutputs, decode_geometry, to_oriented, unit_directions
from train.models.pyramid import Pyramid, anchor_points

PIXEL_MEAN = (123.675, 116.28, 103.53)
PIXEL_STD = (58.395, 57.12, 57.375)
"""ImageNet's statistics, for all sensors (reference recipe)."""


def normalise(pixels: Tensor) -> Tensor:
    """Images as the backbone takes them, from uint8 counts.

    Args:
        pixels: ``(N, H, W, C)`` uint8, C = 3 or 1; one channel is used three times.

    Returns:
        ``(N, 3, H, W)`` float32.
    """
    images = pixels.float().permute(0, 3, 1, 2)  # cast first: TensorRT refuses to transpose uint8
    mean = torch.tensor(PIXEL_MEAN, device=pixels.device).view(1, 3, 1, 1)
    std = torch.tensor(PIXEL_STD, device=pixels.device).view(1, 3, 1, 1)
    return (images - mean) / std


class Detector(nn.Module):
    """BabelRS' detector.

    Args:
        config: Sizes and names of the parts.
        classes: Class names per sensor, from the data; one head is made for each sensor.

    Raises:
        BabelRSError: The backbone does not exist, or its patches fit neither the pyramid nor the inputs.
    """

    def __init__(self, config: ModelConfig, classes: Mapping[Sensor, Sequence[str]]) -> None:
        super().__init__()
        self.config = config
        self.classes = {sensor: tuple(names) for sensor, names in classes.items()}
        self.backbone = build_backbone(config.backbone)
        if config.backbone.name != "conv_vit" and (faults := config.patch_faults(self.backbone.stride)):
            raise collected(
                f"The settings do not fit the backbone {config.backbone.name}",
                faults,
                "Set model.backbone.patch_px, such as 16.",
            )
        self.aggregate = LayerwiseAggregate(
            len(self.backbone.taps), len(config.strides), self.backbone.channels, self.backbone.prefix_tokens
        )
        self.pyramid = Pyramid(
            self.backbone.channels,
            self.backbone.stride,
            self.backbone.prior_channels,
            config.strides,
            config.pyramid_channels,
        )
        self.heads = nn.ModuleDict(
            {
                sensor.value: DenseHead(
                    config.pyramid_channels, config.head_channels, len(names), sensor is not Sensor.SAR
                )
                for sensor, names in self.classes.items()
            }
        )

    def features(self, images: Tensor) -> list[Tensor]:
        """The pyramid of normalised images ``(B, 3, H, W)``: maps ``(B, C, H/s, W/s)``, finest first."""
        return self._pyramid_of(self._features_of(images))

    def forward(self, pixels: Mapping[Sensor, Tensor]) -> dict[Sensor, RawOutputs]:
        """Raw outputs per sensor; the sensors' images, of one size, pass the shared parts as one batch.

        Args:
            pixels: Per sensor ``(N, H, W, C)`` uint8.
        """
        return self.tapped(pixels)[0]

    def tapped(self, pixels: Mapping[Sensor, Tensor]) -> tuple[dict[Sensor, RawOutputs], Features]:
        """As :meth:`forward`, and the backbone's features of the sensors' images, one after the other in one batch."""
        features = self._features_of(torch.cat([normalise(images) for images in pixels.values()]))
        pyramid = self._pyramid_of(features)
        outputs, start = {}, 0
        for sensor, images in pixels.items():
            end = start + len(images)
            outputs[sensor] = self.heads[sensor.value]([level[start:end] for level in pyramid])
            start = end
        return outputs, features

    def _features_of(self, images: Tensor) -> Features:
        return self.backbone(images.to(next(self.backbone.parameters()).dtype))

    def _pyramid_of(self, features: Features) -> list[Tensor]:
        return self.pyramid(self.aggregate(features.taps, features.grid), features.prior)


def check_model(config: ModelConfig) -> None:
    """Build the model without memory for its weights, so that what cannot work is known before any data are read.

    Raises:
        BabelRSError: As :class:`Detector`.
    """
    with torch.device("meta"):
        Detector(config, {})


class SensorDetector(nn.Module):
    """One sensor's path from pixels to the top K boxes: what is evaluated, and what is exported.

    Args:
        detector: The trained model.
        sensor: Which head to take.
        max_detections: K.
    """

    def __init__(self, detector: Detector, sensor: Sensor, max_detections: int) -> None:
        super().__init__()
        self.detector, self.sensor, self.max_detections = detector, sensor, max_detections

    def forward(self, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes ``(N, K, 5)``, scores ``(N, K)`` descending, labels ``(N, K)`` int32 of ``(N, H, W, C)`` uint8 pixels.

        Only the K best points are decoded. With fewer than K points, K is their number.
        """
        raw = self.detector.heads[self.sensor.value](self.detector.features(normalise(pixels)))
        height, width = int(pixels.shape[1]), int(pixels.shape[2])  # plain integers: constants in the exported graph
        points, strides = anchor_points(height, width, self.detector.config.strides, pixels.device)
        best, labels = raw.logits.float().max(-1)  # (N, A)
        top, index = best.topk(min(self.max_detections, points.shape[0]), dim=1)  # (N, K)
        distributions = _gather(raw.distributions, index)
        directions = None if raw.directions is None else _gather(raw.directions, index)
        geometry = decode_geometry(distributions, points[index], strides[index])
        boxes = to_oriented(geometry, unit_directions(directions, geometry))
        return boxes, top.sigmoid(), labels.gather(1, index).int()


def _gather(values: Tensor, index: Tensor) -> Tensor:
    """Rows ``(N, K, C)`` of ``(N, A, C)`` at ``(N, K)``; tiled, not expanded: no shapes are traced."""
    return values.gather(1, index[..., None].repeat(1, 1, int(values.shape[-1])))
