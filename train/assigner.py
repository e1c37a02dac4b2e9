"""Which anchor points learn which object: task-aligned assignment (TOOD, Feng et al. 2021) for oriented boxes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from train.config import AssignerConfig
from train.gaussian import bhattacharyya_similarity
from train.models.head import MAX_OFFSET_STRIDES, MAX_SIZE_STRIDES


@dataclass(frozen=True)
class Targets:
    """Objects of one image, on the model's device.

    Attributes:
        boxes: ``(M, 5)`` float32 ``le90`` pixels.
        labels: ``(M,)`` int64.
        ignore_boxes: ``(G, 5)``: regions where nothing is learned (difficult or cut objects).
    """

    boxes: Tensor
    labels: Tensor
    ignore_boxes: Tensor


@dataclass(frozen=True)
class Assignment:
    """The outcome for one image.

    Attributes:
        points: ``(K,)`` int64 indices of the positive anchor points.
        objects: ``(K,)`` int64 index of the object each one learns.
        quality: ``(K,)`` float32 classification target in ``(0, 1]``.
        ignored: ``(A,)`` bool: points whose classification is left out of the loss.
    """

    points: Tensor
    objects: Tensor
    quality: Tensor
    ignored: Tensor


def inside_boxes(points: Tensor, boxes: Tensor) -> Tensor:
    """Whether each point lies in each oriented box: ``(M, A)`` bool from ``(A, 2)`` and ``(M, 5)``."""
    delta = points[None] - boxes[:, None, :2]  # (M, A, 2)
    cos, sin = boxes[:, 4].cos()[:, None], boxes[:, 4].sin()[:, None]
    along = (delta[..., 0] * cos + delta[..., 1] * sin).abs()
    across = (delta[..., 1] * cos - delta[..., 0] * sin).abs()
    return (along <= boxes[:, 2, None] / 2) & (across <= boxes[:, 3, None] / 2)


def _candidates(points: Tensor, strides: Tensor, boxes: Tensor, radius_strides: float) -> Tensor:
    """Points ``(M, A)`` that may learn a box: near its centre or in it, where the head can represent it."""
    offset = (points[None] - boxes[:, None, :2]).abs().amax(-1) / strides  # (M, A), in strides
    near = offset <= radius_strides
    representable = (offset < MAX_OFFSET_STRIDES) & (boxes[:, 2, None] < MAX_SIZE_STRIDES * strides)
    coarsest = strides == strides.max()  # objects too large for every level still go to the coarsest
    return (inside_boxes(points, boxes) | near) & (representable | (coarsest & near))


@torch.no_grad()
def assign(
    scores: Tensor,
    covariances: tuple[Tensor, Tensor],
    targets: Targets,
    target_gaussians: tuple[Tensor, Tensor],
    points: Tensor,
    strides: Tensor,
    config: AssignerConfig,
) -> Assignment:
    """Assign one image's anchor points.

    Args:
        scores: ``(A, num_classes)`` class probabilities.
        covariances: Gaussians of the predicted boxes: means ``(A, 2)`` and covariances ``(A, 3)``.
        targets: The image's objects.
        target_gaussians: The same of the objects, ``(M, 2)`` and ``(M, 3)``.
        points: ``(A, 2)`` pixels.
        strides: ``(A,)`` pixels.
        config: Exponents, number of points per object, centre radius.
    """
    ignored = inside_boxes(points, targets.ignore_boxes).any(0)
    if not len(targets.boxes):
        empty = torch.zeros(0, dtype=torch.long, device=points.device)
        return Assignment(empty, empty, points.new_zeros(0), ignored)
    candidates = _candidates(points, strides, targets.boxes, config.centre_radius_strides)
    overlaps = bhattacharyya_similarity(
        (target_gaussians[0][:, None], target_gaussians[1][:, None]), (covariances[0][None], covariances[1][None])
    )
    metric = scores[:, targets.labels].T.pow(config.score_exponent) * overlaps.pow(config.overlap_exponent)
    metric = torch.where(candidates, metric + 1e-9, torch.zeros_like(metric))  # (M, A)
    count = min(config.points_per_object, metric.shape[1])
    top = metric.topk(count, dim=1)
    metric = torch.zeros_like(metric).scatter(1, top.indices, top.values)  # by index: ties must not exceed the count
    best, owner = (metric * (1 + overlaps)).max(0)  # a point wanted by several objects learns the best fitting one
    chosen = (best > 0).nonzero().squeeze(1)
    objects = owner[chosen]
    quality = _quality(metric, overlaps, chosen, objects)
    ignored = ignored.clone()
    ignored[chosen] = False
    return Assignment(chosen, objects, quality, ignored)


def _quality(metric: Tensor, overlaps: Tensor, chosen: Tensor, objects: Tensor) -> Tensor:
    """TOOD's normalised alignment: an object's best point gets its best overlap as target, the others in proportion."""
    own_metric, own_overlap = metric[objects, chosen], overlaps[objects, chosen]
    most_metric = torch.zeros(len(metric), device=metric.device).scatter_reduce(0, objects, own_metric, "amax")
    most_overlap = torch.zeros(len(metric), device=metric.device).scatter_reduce(0, objects, own_overlap, "amax")
    return (own_metric / most_metric[objects].clamp(min=1e-12) * most_overlap[objects]).clamp(0.0, 1.0)
