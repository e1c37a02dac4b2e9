"""What a head learns from one batch: quality-focal classes, box overlap, box distributions and direction.

With several processes each normalises by the whole batch's positives, so that their losses add up to the batch's.

The total over sensors is the plain sum of the heads' losses, with no alignment term (BabelRS, fine-tuning).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from babelrs.sensors import Sensor
from train.assigner import Assignment, Targets, assign
from train.config import AssignerConfig, LossConfig
from train.gaussian import box_gaussian, overlap_loss
from train.models.head import RawOutputs, decode_geometry, offset_bins, size_bins, unit_directions
from train.processes import summed


@dataclass(frozen=True)
class HeadLoss:
    """Losses of one head, each a scalar; ``total`` is their weighted sum."""

    classes: Tensor
    overlap: Tensor
    distributions: Tensor
    direction: Tensor
    total: Tensor


@dataclass(frozen=True)
class _Positives:
    """Matched pairs over a batch: rows of the flattened ``(B * A)`` outputs and what they should become."""

    rows: Tensor
    quality: Tensor
    boxes: Tensor


def quality_focal(logits: Tensor, targets: Tensor, beta: float) -> Tensor:
    """Quality focal loss per entry (Generalized Focal Loss, eq. 1): cross-entropy times ``|target - p| ** beta``."""
    weight = (targets - logits.sigmoid()).abs().pow(beta)
    return functional.binary_cross_entropy_with_logits(logits, targets, reduction="none") * weight


def distribution_focal(logits: Tensor, values: Tensor, bins: Tensor) -> Tensor:
    """Distribution focal loss (Generalized Focal Loss, eq. 6) on rising, not necessarily even bins.

    Args:
        logits: ``(K, 4, NUM_BINS)``.
        values: ``(K, 4)`` targets in the bins' unit.
        bins: ``(4, NUM_BINS)``.

    Returns:
        ``(K, 4)``.
    """
    values = torch.maximum(torch.minimum(values, bins[:, -1]), bins[:, 0])
    right = torch.searchsorted(bins, values.T.contiguous()).T.clamp(1, bins.shape[1] - 1)  # (K, 4)
    low, high = (torch.gather(bins.T, 0, index) for index in (right - 1, right))
    share = (values - low) / (high - low)
    log_probabilities = logits.log_softmax(-1)
    left_log = log_probabilities.gather(-1, (right - 1)[..., None]).squeeze(-1)
    right_log = log_probabilities.gather(-1, right[..., None]).squeeze(-1)
    return -(left_log * (1 - share) + right_log * share)


def target_geometry(boxes: Tensor, oriented: bool) -> tuple[Tensor, Tensor]:
    """Objects in the head's terms: ``(M, 4)`` centre and size, ``(M, 2)`` directions.

    A horizontal head takes the sides along x and y, so a ``le90`` box at -pi/2 has them swapped.
    """
    theta = boxes[:, 4]
    if oriented:
        return boxes[:, :4], torch.stack([(2 * theta).cos(), (2 * theta).sin()], -1)
    upright = (theta.abs() > torch.pi / 4)[:, None]
    sides = torch.where(upright, boxes[:, [3, 2]], boxes[:, [2, 3]])
    return torch.cat([boxes[:, :2], sides], -1), torch.stack([torch.ones_like(theta), torch.zeros_like(theta)], -1)


def head_loss(
    raw: RawOutputs,
    targets: Sequence[Targets],
    points: Tensor,
    strides: Tensor,
    config: LossConfig,
    assigner: AssignerConfig,
) -> HeadLoss:
    """The loss of one sensor's head over its images of the batch.

    Args:
        raw: Outputs over ``(B, A)``.
        targets: One for each of the B images.
        points: ``(A, 2)`` pixels.
        strides: ``(A,)`` pixels.
        config: Weights of the parts.
        assigner: Parameters of the assignment.
    """
    logits = raw.logits.float()
    geometry = decode_geometry(raw.distributions, points, strides)
    directions = unit_directions(raw.directions, geometry)
    matched = [
        _assigned(logits[image], geometry[image], directions[image], target, points, strides, assigner, raw.oriented)
        for image, target in enumerate(targets)
    ]
    class_targets, weights = torch.zeros_like(logits), torch.ones_like(logits)
    for image, (target, assignment) in enumerate(zip(targets, matched, strict=True)):
        class_targets[image, assignment.points, target.labels[assignment.objects]] = assignment.quality
        weights[image, assignment.ignored] = 0.0
    positives = _joined(targets, matched, points.shape[0])
    normaliser = summed(positives.quality.sum()).clamp(min=1.0)
    class_loss = (quality_focal(logits, class_targets, config.focal_beta) * weights).sum() / normaliser
    parts = [part / normaliser for part in _box_losses(raw, geometry, directions, positives, points, strides)]
    total = (
        config.class_weight * class_loss
        + config.overlap_weight * parts[0]
        + config.distribution_weight * parts[1]
        + config.direction_weight * parts[2]
    )
    return HeadLoss(class_loss, parts[0], parts[1], parts[2], total)


def sensor_losses(
    outputs: Mapping[Sensor, RawOutputs],
    targets: Mapping[Sensor, Sequence[Targets]],
    points: Tensor,
    strides: Tensor,
    config: LossConfig,
    assigner: AssignerConfig,
) -> dict[Sensor, HeadLoss]:
    """The loss of every sensor's head; arguments by sensor, otherwise as :func:`head_loss` takes them."""
    return {
        sensor: head_loss(raw, targets[sensor], points, strides, config, assigner) for sensor, raw in outputs.items()
    }


def _assigned(
    logits: Tensor,
    geometry: Tensor,
    directions: Tensor,
    target: Targets,
    points: Tensor,
    strides: Tensor,
    config: AssignerConfig,
    oriented: bool,
) -> Assignment:
    """One image's assignment from its ``(A, num_classes)``, ``(A, 4)`` and ``(A, 2)`` outputs, without gradients."""
    predicted = box_gaussian(geometry.detach(), directions.detach())
    wanted = box_gaussian(*target_geometry(target.boxes, oriented))
    return assign(logits.detach().sigmoid(), predicted, target, wanted, points, strides, config)


def _joined(targets: Sequence[Targets], matched: Sequence[Assignment], num_points: int) -> _Positives:
    pairs = list(zip(targets, matched, strict=True))
    return _Positives(
        torch.cat([found.points + image * num_points for image, found in enumerate(matched)]),
        torch.cat([found.quality for found in matched]),
        torch.cat([target.boxes[found.objects] for target, found in pairs]),
    )


def _box_losses(
    raw: RawOutputs,
    geometry: Tensor,
    directions: Tensor,
    positives: _Positives,
    points: Tensor,
    strides: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Overlap, distribution and direction losses, summed over positives with their quality as weight."""
    rows, weight = positives.rows, positives.quality
    anchor = rows % points.shape[0]
    own_geometry, own_direction = geometry.flatten(0, 1)[rows], directions.flatten(0, 1)[rows]
    wanted, wanted_direction = target_geometry(positives.boxes, raw.oriented)
    if raw.oriented:
        wanted, wanted_direction = _nearest_form(wanted, wanted_direction, own_direction.detach())
    apart = overlap_loss(box_gaussian(own_geometry, own_direction), box_gaussian(wanted, wanted_direction))
    overlap = (apart * weight).sum()
    scale = strides[anchor][:, None]
    values = torch.cat([wanted[:, :2] - points[anchor], wanted[:, 2:]], -1) / scale
    bins = torch.stack([offset_bins(), offset_bins(), size_bins(), size_bins()]).to(values)
    focal = distribution_focal(raw.distributions.flatten(0, 1)[rows].float().unflatten(-1, (4, -1)), values, bins)
    distribution = (focal.mean(-1) * weight).sum()
    elongation = 1.0 - wanted[:, 2:].amin(-1) / wanted[:, 2:].amax(-1).clamp(min=1e-6)
    direction = ((own_direction - wanted_direction).square().sum(-1) * elongation * weight).sum()
    return overlap, distribution, direction


def _nearest_form(geometry: Tensor, directions: Tensor, predicted: Tensor) -> tuple[Tensor, Tensor]:
    """Of a near-square box's two descriptions (sides swapped, direction negated) the one nearer to the prediction.

    Without this a square whose sides differ by noise would have targets that jump by a right angle.
    """
    sides = geometry[:, 2:]
    near_square = sides.amin(-1) > 0.8 * sides.amax(-1)
    turn = (near_square & ((directions * predicted).sum(-1) < 0))[:, None]
    swapped = torch.where(turn, geometry[:, [0, 1, 3, 2]], geometry)
    return swapped, torch.where(turn, -directions, directions)
