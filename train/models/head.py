"""The dense anchor-free head of one sensor, and how its raw maps become oriented boxes.

Every box parameter is continuous where the box is: centre offset ``(dx, dy)`` in the image's axes, sizes ``(w, h)``,
and the direction as the vector ``(cos 2theta, sin 2theta)``, which has no jump where ``le90`` wraps. Offsets and sizes
are expectations of distributions over fixed bins (Generalized Focal Loss, Li et al. 2020, eq. 5), in strides.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from train.models.layers import LevelsUnit, flat_map

NUM_BINS = 17
MAX_OFFSET_STRIDES = 4.0
MAX_SIZE_STRIDES = 16.0
MIN_SIDE_PX = 1.0


def offset_bins() -> Tensor:
    """Bin values of the centre offset in strides, ``(NUM_BINS,)``, evenly from -4 to 4."""
    return torch.linspace(-MAX_OFFSET_STRIDES, MAX_OFFSET_STRIDES, NUM_BINS)


def size_bins() -> Tensor:
    """Bin values of width and height in strides, ``(NUM_BINS,)``: quadratic, with fine steps for small objects."""
    return torch.linspace(0, 1, NUM_BINS).square() * MAX_SIZE_STRIDES


@dataclass(frozen=True)
class RawOutputs:
    """A head's raw outputs over all A anchor points of the pyramid, finest level first.

    Attributes:
        logits: ``(B, A, num_classes)``.
        distributions: ``(B, A, 4 * NUM_BINS)`` logits of dx, dy, w, h.
        directions: ``(B, A, 2)`` unnormalised ``cos 2theta, sin 2theta``; ``None`` for a horizontal head.
    """

    logits: Tensor
    distributions: Tensor
    directions: Tensor | None

    @property
    def oriented(self) -> bool:
        """Whether the head predicts directions."""
        return self.directions is not None


class DenseHead(nn.Module):
    """Class, box-distribution and direction maps from the pyramid, weights shared over levels.

    Args:
        in_channels: Channels of the pyramid.
        channels: Channels of the towers.
        num_classes: Classes of the sensor.
        oriented: Whether to predict a direction; SAR's annotations are horizontal.
        num_levels: Levels of the pyramid.
    """

    def __init__(self, in_channels: int, channels: int, num_classes: int, oriented: bool) -> None:
        super().__init__()
        self.oriented = oriented
        self.num_classes = num_classes
        self.shared = LevelsUnit(in_channels, channels)
        self.class_tower = LevelsUnit(channels, channels)
        self.box_tower = LevelsUnit(channels, channels)
        self.classify = nn.Conv2d(channels, num_classes, 1)
        self.regress = nn.Conv2d(channels, 4 * NUM_BINS + (2 if oriented else 0), 1)
        nn.init.constant_(self.classify.bias, -math.log((1 - 0.01) / 0.01))  # type: ignore[arg-type]
        nn.init.zeros_(self.regress.weight)
        nn.init.zeros_(self.regress.bias)  # type: ignore[arg-type]
        if oriented:
            nn.init.normal_(self.regress.weight[-2:], std=0.01)

    def forward(self, pyramid: Sequence[Tensor]) -> RawOutputs:
        """Raw outputs of maps ``(B, C, H, W)``, levels joined in order."""
        shared = self.shared.on_levels(pyramid)
        logits = [flat_map(self.classify(level)) for level in self.class_tower.on_levels(shared)]
        boxes = [flat_map(self.regress(level)) for level in self.box_tower.on_levels(shared)]
        joined = torch.cat(boxes, 2).transpose(1, 2)  # (B, C, A) -> (B, A, C)
        distributions = joined[..., : 4 * NUM_BINS]
        directions = joined[..., 4 * NUM_BINS :] if self.oriented else None
        return RawOutputs(torch.cat(logits, 2).transpose(1, 2), distributions, directions)


def decode_geometry(distributions: Tensor, points: Tensor, strides: Tensor) -> Tensor:
    """Centre and size from distributions.

    Args:
        distributions: ``(B, A, 4 * NUM_BINS)`` logits.
        points: ``(..., A, 2)`` anchor points, pixels.
        strides: ``(..., A)`` pixels.

    Returns:
        ``(B, A, 4)`` cx, cy, w, h in pixels, float32.
    """
    count = int(distributions.shape[-2])
    probabilities = distributions.float().reshape(-1, count, 4, NUM_BINS).softmax(-1)
    bins = torch.stack([offset_bins(), offset_bins(), size_bins(), size_bins()]).to(probabilities)  # (4, NUM_BINS)
    expected = (probabilities * bins).sum(-1) * strides[..., None]
    return torch.cat([points + expected[..., :2], expected[..., 2:].clamp(min=MIN_SIDE_PX)], -1)


def unit_directions(directions: Tensor | None, like: Tensor) -> Tensor:
    """Unit vectors ``(cos 2theta, sin 2theta)``, ``(..., 2)`` float32; ``(1, 0)`` for a horizontal head."""
    if directions is None:
        return torch.stack([torch.ones_like(like[..., 0]), torch.zeros_like(like[..., 0])], -1).float()
    raw = directions.float()
    return raw / (raw.square().sum(-1, keepdim=True) + 1e-6).sqrt()


def to_oriented(geometry: Tensor, directions: Tensor) -> Tensor:
    """``le90`` boxes ``(..., 5)`` from ``(..., 4)`` centre and size and ``(..., 2)`` directions.

    Where the second side is the longer one, sides are swapped and the direction is turned by a right angle
    (``2theta`` by pi: both components change sign).
    """
    centre, sides = geometry[..., :2], geometry[..., 2:]
    swap = (sides[..., :1] < sides[..., 1:]).to(sides.dtype)
    long, short = sides.amax(-1, keepdim=True), sides.amin(-1, keepdim=True)
    direction = directions * (1.0 - 2.0 * swap)
    theta = 0.5 * torch.atan2(direction[..., 1:], direction[..., :1])
    theta = torch.where(theta >= math.pi / 2, theta - math.pi, theta)
    return torch.cat([centre, long, short, theta], -1)
