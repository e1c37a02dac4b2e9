"""Oriented boxes as Gaussians: an overlap with gradients beyond contact and no boundary jump in the angle.

A box is the Gaussian with its centre as mean and the covariance of the uniform distribution over it (sides squared by
12). Source: ProbIoU, Llerena et al. 2021, eq. 2-9.
"""

from __future__ import annotations

import torch
from torch import Tensor

_EPSILON = 1e-3


def box_gaussian(geometry: Tensor, directions: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance of boxes.

    Args:
        geometry: ``(..., 4)`` cx, cy, w, h in pixels.
        directions: ``(..., 2)`` unit vectors ``cos 2theta, sin 2theta``.

    Returns:
        Means ``(..., 2)`` in px and covariances ``(..., 3)`` xx, yy, xy in px².
    """
    along, across = geometry[..., 2].square() / 12, geometry[..., 3].square() / 12
    half_sum, half_difference = (along + across) / 2, (along - across) / 2
    spread = half_difference * directions[..., 0]
    return geometry[..., :2], torch.stack(
        [half_sum + spread, half_sum - spread, half_difference * directions[..., 1]], -1
    )


def bhattacharyya_distance(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
    """Bhattacharyya distance of Gaussians, broadcast: 0 where boxes are equal, without bound where they part.

    It has no unit: moving a thin box by half its width counts as much as moving a wide one by half of its own.

    Args:
        first: Means ``(..., 2)`` and covariances ``(..., 3)``.
        second: The same, broadcastable.
    """
    delta = first[0] - second[0]
    dx, dy = delta[..., 0], delta[..., 1]
    mean = (first[1] + second[1]) / 2
    determinant = mean[..., 0] * mean[..., 1] - mean[..., 2].square() + _EPSILON
    mahalanobis = (mean[..., 1] * dx.square() + mean[..., 0] * dy.square() - 2 * mean[..., 2] * dx * dy) / determinant
    shape = determinant.log() - 0.5 * (_log_determinant(first[1]) + _log_determinant(second[1]))
    return (mahalanobis / 8 + shape / 2).clamp(min=1e-6)


def bhattacharyya_similarity(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
    """``1 - Hellinger distance`` of Gaussians, broadcast: 1 where boxes are equal, towards 0 where they part."""
    distance = bhattacharyya_distance(first, second).clamp(max=100.0)
    return 1.0 - (1.0 - torch.exp(-distance)).sqrt()


def overlap_loss(first: tuple[Tensor, Tensor], second: tuple[Tensor, Tensor]) -> Tensor:
    """``f / (1 + f)`` with ``f = log(1 + sqrt(d))``, ``d`` the Bhattacharyya distance; broadcast, in ``[0, 1)``.

    Near the target it grows as the displacement itself, which keeps boxes precise; far away its gradient falls off as a
    power, not as ``exp(-d)``: a thin or small box that is many of its own widths off still learns where to go. The
    transform is that of GWD and KLD (Yang et al. 2021), on the distance that ProbIoU measures.
    """
    value = bhattacharyya_distance(first, second).sqrt().log1p()
    return value / (1.0 + value)


def _log_determinant(covariance: Tensor) -> Tensor:
    determinant = covariance[..., 0] * covariance[..., 1] - covariance[..., 2].square()
    return (determinant.clamp(min=0) + _EPSILON).log()
